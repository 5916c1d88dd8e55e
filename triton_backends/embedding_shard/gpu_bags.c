/* Sums of bags on a GPU: a thread adds up one number of one bag's sum, for all units of a query in one launch.
 *
 * A unit's threads lie side by side along its rows' numbers, so that those of a warp read what lies together; a row is
 * read as it is stored (kernels/row_formats.py) and becomes float32 in registers. Sums are added in the ids' order, and
 * neither products nor numbers are fused with additions: the same bits as kernels/bags.c.
 *
 * Plain C, compiled to PTX for NVIDIA's driver, and for this machine where tests run it. What it reads has been checked:
 * ids are rows of their matrix, ends do not fall, and all counts are those of the tensors. */
#include <stdint.h>

#pragma STDC FP_CONTRACT OFF

enum { FP32, FP16, BF16, INT8, INT8_HALF, INT4 }; /* ROW_DTYPES of row_formats.py, in its order */

/* As `PackedUnit` of kernel_shard.py. */
typedef struct {
    const uint8_t *rows;  /* the matrix, on the GPU, aligned to 16 bytes */
    int64_t row_bytes;
    int64_t dim, dtype;
    int64_t first_bag, bags; /* of all the query's bags */
    int64_t first_number;    /* of its sums in all sums; they are bags * dim */
    int64_t to_weight;       /* what makes an id's index its weight's, in all weights; meaningless where not weighted */
    int64_t weighted;
} Unit;

/* What a query asks for, on the GPU; `PackedQuery` of kernel_shard.py. ends: of each bag's ids; it begins where the one before ends. */
typedef struct {
    const Unit *units;
    const int32_t *ids, *ends;
    const float *weights;
    float *sums;
} Query;

static inline float read_float(const uint8_t *at, int aligned) {
    float number;
    if (aligned) return *(const float *)at;
    __builtin_memcpy(&number, at, sizeof number);
    return number;
}

static inline float read_half(const uint8_t *at) {
    const uint32_t bits = at[0] | (uint32_t)at[1] << 8;
    _Float16 half;
    __builtin_memcpy(&half, &(uint16_t){(uint16_t)bits}, sizeof half);
    return (float)half;
}

static inline float read_bfloat(const uint8_t *at) {
    const uint32_t bits = (uint32_t)at[0] << 16 | (uint32_t)at[1] << 24;
    float number;
    __builtin_memcpy(&number, &bits, sizeof number);
    return number;
}

/* A number of a stored row. */
static inline float read_number(const Unit *unit, int64_t dtype, const uint8_t *row, int64_t number) {
    const int64_t dim = unit->dim, pairs = (dim + 1) / 2;
    const int aligned = dim % 4 == 0; /* then an INT8 row's scale and bias are, since all rows are */
    switch (dtype) {
        case FP32: return *(const float *)(row + 4 * number);
        case FP16: return read_half(row + 2 * number);
        case BF16: return read_bfloat(row + 2 * number);
        case INT8: {
            const float scaled = (float)row[number] * read_float(row + dim, aligned);
            return scaled + read_float(row + dim + 4, aligned);
        }
        case INT8_HALF: {
            const float scaled = (float)row[number] * read_half(row + dim);
            return scaled + read_half(row + dim + 2);
        }
        default: {
            const float scaled = (float)(row[number / 2] >> (number % 2 * 4) & 15) * read_half(row + pairs);
            return scaled + read_half(row + pairs + 2);
        }
    }
}

/* One number of a bag's sum; `dtype` is known where this is compiled, so that each format has a loop of its own. */
static inline __attribute__((always_inline)) float add_up(const Query *query, const Unit *unit, int64_t dtype,
                                                          int64_t bag, int64_t number) {
    const int64_t begin = bag == 0 ? 0 : query->ends[bag - 1], end = query->ends[bag];
    float sum = 0;
#pragma unroll 4
    for (int64_t i = begin; i < end; i++) {
        const uint8_t *row = unit->rows + query->ids[i] * unit->row_bytes;
        const float found = read_number(unit, dtype, row, number);
        sum += unit->weighted ? query->weights[i + unit->to_weight] * found : found;
    }
    return sum;
}

static void fill(const Query *query, const Unit *unit, int64_t at) {
    const int64_t bag = unit->first_bag + at / unit->dim, number = at % unit->dim;
    float *sum = query->sums + unit->first_number + at;
    switch (unit->dtype) {
        case FP32: *sum = add_up(query, unit, FP32, bag, number); break;
        case FP16: *sum = add_up(query, unit, FP16, bag, number); break;
        case BF16: *sum = add_up(query, unit, BF16, bag, number); break;
        case INT8: *sum = add_up(query, unit, INT8, bag, number); break;
        case INT8_HALF: *sum = add_up(query, unit, INT8_HALF, bag, number); break;
        default: *sum = add_up(query, unit, INT4, bag, number); break;
    }
}

#ifdef __NVPTX__
/* A row of blocks per unit, at least as many threads as it has numbers. */
__attribute__((device_kernel)) void elasticrec_sum_bags(Query query) {
    const Unit *unit = query.units + __nvvm_read_ptx_sreg_ctaid_y();
    const int64_t first = (int64_t)__nvvm_read_ptx_sreg_ctaid_x() * __nvvm_read_ptx_sreg_ntid_x();
    const int64_t at = first + __nvvm_read_ptx_sreg_tid_x();
    if (at < unit->bags * unit->dim) fill(&query, unit, at);
}
#else
void elasticrec_sum_bags(Query query, int64_t units) {
    for (const Unit *unit = query.units; unit < query.units + units; unit++)
        for (int64_t at = 0; at < unit->bags * unit->dim; at++) fill(&query, unit, at);
}
#endif
