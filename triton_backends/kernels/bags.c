/* Summing the rows of bags. No call allocates, and none trusts its ids: a bad one is reported by its index. */
#include "processor.h"

#define LANES 8
#include "add_rows.h"

static int64_t first_bad_id(const UnalignedInt32 *ids, int64_t count, int64_t rows) {
    const uint32_t end = rows > INT32_MAX ? (uint32_t)INT32_MAX + 1 : (uint32_t)rows; /* a negative id is above it */
    uint32_t highest = 0;
    for (int64_t i = 0; i < count; i++) highest = (uint32_t)ids[i] > highest ? (uint32_t)ids[i] : highest;
    if (highest < end) return -1;
    for (int64_t i = 0; i < count; i++)
        if ((uint32_t)ids[i] >= end) return i;
    return -1;
}

DEFINE_KERNELS(plain, false, /* any processor */)
DEFINE_KERNELS(avx2, true, __attribute__((target("avx2,f16c"))))

static const RowKernels *kernels_for(const Sums *sums) {
    const bool wide = elasticrec_processor.avx512 && sums->dim % 16 == 0;
    const RowKernels *kernels = wide                        ? elasticrec_wide_kernels
                                : elasticrec_processor.avx2 ? elasticrec_avx2_kernels
                                                            : elasticrec_plain_kernels;
    return kernels + sums->dtype;
}

/* Whether bags can be summed: ids (count) all in [0, rows), lengths (bags) adding up to count.
 * Returns -1 if so, the index of the first bad id, or -2 where the lengths do not fit. */
int64_t elasticrec_check_bags(const Sums *sums) {
    int64_t total = 0, negative = 0;
    for (int64_t bag = 0; bag < sums->bags; bag++) {
        total += sums->lengths[bag];
        negative |= sums->lengths[bag] < 0;
    }
    return negative || total != sums->count ? -2 : first_bad_id(sums->ids, sums->count, sums->rows);
}

/* out[bag] = the sum of matrix[id], or of weight * matrix[id], over the bag's ids, in their order; an empty bag is zeros.
 * Returns what elasticrec_check_bags does, and sums where that is -1. */
int64_t elasticrec_sum_bags(const Sums *sums) {
    const int64_t bad = elasticrec_check_bags(sums);
    if (bad == -1) kernels_for(sums)->sum(sums);
    return bad;
}

/* out[i] = matrix[ids[i]]. Returns the index of the first bad id, or -1 and then all rows are written. */
int64_t elasticrec_take_rows(const Sums *sums) {
    const int64_t bad = first_bad_id(sums->ids, sums->count, sums->rows);
    if (bad == -1) kernels_for(sums)->copy(sums);
    return bad;
}
