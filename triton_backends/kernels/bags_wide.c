/* Summing the rows of bags with AVX-512: of the formats that gain by it. */
#define LANES 16
#include "add_rows.h"

#define WIDE __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,f16c")))

DEFINE_KERNELS(wide, FP32, true, WIDE)
DEFINE_KERNELS(wide, FP16, true, WIDE)
DEFINE_KERNELS(wide, BF16, true, WIDE)
DEFINE_KERNELS(wide, INT8, true, WIDE)
DEFINE_KERNELS(wide, INT4, true, WIDE)

const RowKernels elasticrec_wide_kernels[ROW_DTYPES] = {KERNELS_OF(wide, FP32), KERNELS_OF(wide, FP16), KERNELS_OF(wide, BF16), KERNELS_OF(wide, INT8), KERNELS_OF(wide, INT4)};
