/* What a model's config asks of ONNX Runtime's CUDA provider, where Triton's own ONNX Runtime backend looks for it:
 * `optimization { execution_accelerators { gpu_execution_accelerator { name: "cuda" parameters { ... } } } }`. */
#ifndef ELASTICREC_ACCELERATORS_H
#define ELASTICREC_ACCELERATORS_H

#include "files.h"
#include "json.h"

enum { MOST_CUDA_OPTIONS = 32 };

typedef struct {
    char names[MOST_CUDA_OPTIONS][NAME_BYTES], values[MOST_CUDA_OPTIONS][NAME_BYTES];
    size_t count;
} CudaOptions;

/* Read them; false where the config asks for another accelerator, or for what has no room here. */
bool read_cuda_options(Json config, CudaOptions *options, Problem *problem);

#endif
