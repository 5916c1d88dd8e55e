/* What the kernels of all processors share. */
#ifndef ELASTICREC_BAGS_H
#define ELASTICREC_BAGS_H

#include "kernels.h"

typedef void Kernel(const Sums *sums);

/* Of one format; the ids are checked. */
typedef struct {
    Kernel *sum, *copy;
} RowKernels;

/* For AVX-512, and dims that are multiples of 16; for AVX2 and F16C; for any processor. */
extern const RowKernels elasticrec_wide_kernels[ROW_DTYPES], elasticrec_avx2_kernels[ROW_DTYPES],
    elasticrec_plain_kernels[ROW_DTYPES];

static inline int64_t elasticrec_row_bytes(int64_t dim, RowDtype dtype) {
    switch (dtype) {
        case FP32: return 4 * dim;
        case INT8: return dim + 8;
        case INT8_HALF: return dim + 4;
        case INT4: return (dim + 1) / 2 + 4;
        default: return 2 * dim;
    }
}

/* How many rows ahead to fetch: none of a matrix that stays in a core's own caches anyway (NEAREST_BYTES); few of one
 * that fits into the last cache (LAST_BYTES); many of a larger one, since memory is slow, and most skewed ids hit a
 * cache, so that only some of the rows ahead are under way. */
enum { FEW_ROWS = 16, MANY_ROWS = 128, NEAREST_BYTES = 1 << 17, LAST_BYTES = 1 << 24 };

static inline int64_t elasticrec_rows_ahead(const Sums *sums) {
    const int64_t bytes = sums->rows * elasticrec_row_bytes(sums->dim, (RowDtype)sums->dtype);
    return bytes <= NEAREST_BYTES ? INT32_MAX : bytes <= LAST_BYTES ? FEW_ROWS : MANY_ROWS;
}

#endif
