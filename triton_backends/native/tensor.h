/* A tensor as all who read one see it. */
#ifndef ELASTICREC_TENSOR_H
#define ELASTICREC_TENSOR_H

#include <stdint.h>

enum { MOST_DIMS = 8 };

/* A request's input: all of it in one place. */
typedef struct {
    const void *data;         /* never NULL where the tensor was opened well */
    int64_t count, bytes;     /* numbers, and of each */
    int64_t shape[MOST_DIMS]; /* 0 or more; they multiply to count */
    int64_t dims;
    int type;   /* TRITON_TYPE_... */
    void *copy; /* holds the data where it cannot stay where Triton has it */
} Tensor;

#endif
