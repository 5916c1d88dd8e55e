/* Summing the rows of bags with AVX-512. */
#define LANES 16
#include "add_rows.h"

DEFINE_KERNELS(wide, true, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,f16c"))))
