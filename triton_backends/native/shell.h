/* Between Triton and a model: shell.c has Triton's entry points and knows tensors; the model answers a request.
 *
 * A backend library holds shell.c and one of router_model.c and shard_model.c, which define the three functions. */
#ifndef ELASTICREC_SHELL_H
#define ELASTICREC_SHELL_H

#include "files.h"
#include "triton.h"

/* Open what lies in a model's version folder; NULL and the problem where it is broken. All instances share it. */
void *model_open(const char *folder, Problem *problem);
void model_close(void *model);

/* Put the outputs of a request into its response. Called by several threads at once. */
bool model_answer(const void *model, TRITONBACKEND_Request *request, TRITONBACKEND_Response *response,
                  Problem *problem);

/* A request's input of two dimensions: all of it in one place, aligned. */
typedef struct {
    const void *data;
    int64_t rows, columns;
    int type;   /* TRITON_TYPE_INT32, _INT64 or _FP32 */
    void *copy; /* holds the data where Triton gives it in pieces or unaligned */
} Tensor;

bool tensor_open(TRITONBACKEND_Request *request, const char *name, Tensor *tensor, Problem *problem);
void tensor_close(Tensor *tensor);

/* A new output of four bytes a number; its buffer need not be aligned. */
bool add_output(TRITONBACKEND_Response *response, const char *name, int type, int64_t rows, int64_t columns,
                void **data, Problem *problem);

#endif
