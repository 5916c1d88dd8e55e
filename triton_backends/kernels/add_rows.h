/* Adding up stored rows, LANES columns to a register: what bags.c and bags_wide.c are made of.
 *
 * A number of int8, int8_half or int4 is `step * scale + bias` in float32, one multiplication and one addition (setup.py forbids to
 * fuse them), and a bag adds up its numbers in the ids' order: the same bits, whatever the registers' width. */
#include "bags.h"

#include <stdbool.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define EACH _Pragma("clang loop unroll(full)") for
#define PREFETCH(address) __builtin_prefetch((const void *)(address), 0, 3)
#define VECTOR(TYPE) __attribute__((vector_size(LANES * sizeof(TYPE)))) TYPE

enum { MOST_BLOCKS = 8 };

typedef VECTOR(float) Numbers;
typedef VECTOR(uint32_t) Words;
typedef VECTOR(int32_t) Steps;
typedef VECTOR(uint16_t) Halves;
typedef VECTOR(_Float16) Float16s;
typedef VECTOR(uint8_t) Bytes;
typedef __attribute__((vector_size(8))) _Float16 FourHalves;
typedef __attribute__((vector_size(16))) float FourNumbers;

/* How rows are stored, and whether the processor converts float16 itself: constants, wherever code is made of it. */
typedef struct {
    RowDtype dtype;
    bool halves;
} Format;

/* A row's scale and bias, where it has them. */
typedef struct {
    float scale, bias;
} Sides;

INLINE float from_half(uint16_t half, bool halves) {
    float number;
    if (halves) {
        _Float16 same;
        memcpy(&same, &half, sizeof same);
        return (float)same;
    }
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    uint32_t bits = (rest << 13) + (112 << 23);
    if (rest < 0x400) {
        number = (float)rest * 0x1p-24f; /* below float16's least normal number */
        memcpy(&bits, &number, sizeof bits);
    } else if (rest >= 0x7c00) {
        bits = 0x7f800000 | rest << 13 | (rest > 0x7c00) << 22; /* infinite, or a quiet NaN */
    }
    bits |= sign;
    memcpy(&number, &bits, sizeof number);
    return number;
}

/* As from_half, of many. */
INLINE Numbers from_halves(const char *at, bool halves) {
    Halves stored;
    memcpy(&stored, at, sizeof stored);
    if (halves) return __builtin_convertvector((Float16s)stored, Numbers);
    const Words words = __builtin_convertvector(stored, Words), rest = words & 0x7fff;
    const Numbers least = __builtin_convertvector((Steps)rest, Numbers) * 0x1p-24f;
    const Words small = (Words)(rest < 0x400), large = (Words)(rest >= 0x7c00), none = (Words)(rest > 0x7c00);
    const Words normal = (rest << 13) + (112 << 23), special = 0x7f800000 | rest << 13 | (none & 1 << 22);
    return (Numbers)((words & 0x8000) << 16 | (small & (Words)least) | (large & special) | (~small & ~large & normal));
}

/* Both are converted at once: one after the other each would wait for what its register held before, a sum. */
INLINE Sides from_pair(const char *at, bool halves) {
    FourHalves four = {0};
    memcpy(&four, at, 2 * sizeof(_Float16));
    if (halves) {
        const FourNumbers numbers = __builtin_convertvector(four, FourNumbers);
        return (Sides){numbers[0], numbers[1]};
    }
    uint16_t pair[2];
    memcpy(pair, at, sizeof pair);
    return (Sides){from_half(pair[0], false), from_half(pair[1], false)};
}

INLINE Sides sides_of(const char *row, int64_t dim, Format format) {
    Sides sides = {0, 0};
    if (format.dtype == INT8) memcpy(&sides, row + dim, sizeof sides);
    if (format.dtype == INT8_HALF) sides = from_pair(row + dim, format.halves);
    if (format.dtype == INT4) sides = from_pair(row + (dim + 1) / 2, format.halves);
    return sides;
}

/* Where a column's number is in its row; an odd one of int4 shares its byte. */
INLINE int64_t offset_of(int64_t column, RowDtype dtype) {
    switch (dtype) {
        case FP32: return 4 * column;
        case INT8:
        case INT8_HALF: return column;
        case INT4: return column / 2;
        default: return 2 * column;
    }
}

/* The numbers of LANES columns from `column` on, a multiple of eight. */
INLINE Numbers load_numbers(const char *row, int64_t column, Sides sides, Format format) {
    const char *at = row + offset_of(column, format.dtype);
    Numbers numbers;
    Steps steps;
    switch (format.dtype) {
        case FP32: memcpy(&numbers, at, sizeof numbers); return numbers;
        case FP16: return from_halves(at, format.halves);
        case BF16: {
            Halves stored;
            memcpy(&stored, at, sizeof stored);
            return (Numbers)(__builtin_convertvector(stored, Words) << 16);
        }
        case INT8:
        case INT8_HALF: {
            Bytes stored;
            memcpy(&stored, at, sizeof stored);
            steps = __builtin_convertvector(stored, Steps);
            break;
        }
        default: { /* eight numbers a word, in its bits' order */
            uint32_t stored[LANES / 8];
            memcpy(stored, at, sizeof stored);
            Words words, shifts;
            EACH (int lane = 0; lane < LANES; lane++) {
                words[lane] = stored[lane / 8];
                shifts[lane] = 4 * (lane % 8);
            }
            steps = (Steps)(words >> shifts & 15);
        }
    }
    return __builtin_convertvector(steps, Numbers) * sides.scale + sides.bias;
}

INLINE float load_number(const char *row, int64_t column, Sides sides, Format format) {
    const char *at = row + offset_of(column, format.dtype);
    uint16_t half = 0;
    float number;
    switch (format.dtype) {
        case FP32: memcpy(&number, at, sizeof number); return number;
        case FP16: memcpy(&half, at, sizeof half); return from_half(half, format.halves);
        case BF16: {
            memcpy(&half, at, sizeof half);
            const uint32_t bits = (uint32_t)half << 16;
            memcpy(&number, &bits, sizeof number);
            return number;
        }
        case INT8:
        case INT8_HALF: number = (float)(uint8_t)*at; break;
        default: number = (float)((uint8_t)*at >> 4 * (column % 2) & 15);
    }
    return number * sides.scale + sides.bias;
}

/* The ids of a bag, and so many behind them whose rows may be fetched ahead. */
typedef struct {
    const UnalignedInt32 *ids;
    const UnalignedFloat *weights;
    int64_t length, next, ahead;
} Bag;

/* Fetch what `columns` columns of a row, from one on, will be read of. */
INLINE void fetch_ahead(const Sums *sums, int32_t id, int64_t column, int64_t columns, RowDtype dtype) {
    const int64_t row_bytes = elasticrec_row_bytes(sums->dim, dtype);
    const char *row = (const char *)sums->matrix + id * row_bytes;
    const int64_t begin = offset_of(column, dtype), bytes = offset_of(columns, dtype);
    EACH (int64_t line = 0; line < bytes; line += 64) PREFETCH(row + begin + line);
    /* the line that the last ones end in, and of scale and bias: the same one in the end */
    if (row_bytes % 64 != 0) PREFETCH(row + (dtype >= INT8 ? row_bytes : begin + bytes) - 1);
}

/* A bag's sum over so many blocks of columns, which stay in registers. */
INLINE void sum_blocks(const Sums *sums, const Bag *bag, int64_t column, int blocks, Format format, float *out) {
    const int64_t row_bytes = elasticrec_row_bytes(sums->dim, format.dtype);
    Numbers sum[MOST_BLOCKS] = {0};
    for (int64_t i = 0; i < bag->length; i++) {
        if (i + bag->ahead < bag->next)
            fetch_ahead(sums, bag->ids[i + bag->ahead], column, LANES * blocks, format.dtype);
        const char *row = (const char *)sums->matrix + bag->ids[i] * row_bytes;
        const Sides sides = sides_of(row, sums->dim, format);
        EACH (int block = 0; block < blocks; block++) {
            const Numbers numbers = load_numbers(row, column + LANES * block, sides, format);
            sum[block] += bag->weights == NULL ? numbers : bag->weights[i] * numbers;
        }
    }
    memcpy(out + column, sum, sizeof *sum * (size_t)blocks);
}

INLINE void sum_column(const Sums *sums, const Bag *bag, int64_t column, Format format, float *out) {
    const int64_t row_bytes = elasticrec_row_bytes(sums->dim, format.dtype);
    float sum = 0;
    for (int64_t i = 0; i < bag->length; i++) {
        if (i + bag->ahead < bag->next) fetch_ahead(sums, bag->ids[i + bag->ahead], column, 1, format.dtype);
        const char *row = (const char *)sums->matrix + bag->ids[i] * row_bytes;
        const float number = load_number(row, column, sides_of(row, sums->dim, format), format);
        sum += bag->weights == NULL ? number : bag->weights[i] * number;
    }
    out[column] = sum;
}

INLINE void sum_rows(const Sums *sums, const UnalignedFloat *weights, Format format) {
    const UnalignedInt32 *ids = sums->ids, *end = ids + sums->count;
    const int64_t dim = sums->dim, gap = sums->stride - sums->side * dim;
    const int64_t ahead = elasticrec_rows_ahead(sums);
    float *out = sums->out;
    for (int64_t nth = 0, side = 0; nth < sums->bags; nth++, out += dim) {
        const Bag bag = {ids, weights, sums->lengths[nth], end - ids, ahead};
        int64_t column = 0;
        for (; dim - column >= MOST_BLOCKS * LANES; column += MOST_BLOCKS * LANES)
            sum_blocks(sums, &bag, column, MOST_BLOCKS, format, out);
        EACH (int blocks = MOST_BLOCKS / 2; blocks > 0; blocks /= 2)
            if (dim - column >= blocks * LANES) {
                sum_blocks(sums, &bag, column, blocks, format, out);
                column += blocks * LANES;
            }
        for (; column < dim; column++) sum_column(sums, &bag, column, format, out);
        ids += bag.length;
        if (weights != NULL) weights += bag.length;
        if (++side == sums->side) {
            side = 0;
            out += gap;
        }
    }
}

INLINE void copy_rows(const Sums *sums, Format format) {
    const int64_t dim = sums->dim, row_bytes = elasticrec_row_bytes(dim, format.dtype);
    const int64_t ahead = elasticrec_rows_ahead(sums);
    for (int64_t i = 0; i < sums->count; i++) {
        if (i + ahead < sums->count)
            for (int64_t line = 0; line < row_bytes; line += 64)
                PREFETCH((const char *)sums->matrix + sums->ids[i + ahead] * row_bytes + line);
        const char *row = (const char *)sums->matrix + sums->ids[i] * row_bytes;
        float *out = sums->out + i * dim;
        if (format.dtype == FP32) {
            memcpy(out, row, (size_t)row_bytes);
            continue;
        }
        const Sides sides = sides_of(row, dim, format);
        int64_t column = 0;
        for (; dim - column >= LANES; column += LANES) {
            const Numbers numbers = load_numbers(row, column, sides, format);
            memcpy(out + column, &numbers, sizeof numbers);
        }
        for (; column < dim; column++) out[column] = load_number(row, column, sides, format);
    }
}

/* The two kernels of a format, and those of all formats, on processors with such features. */
#define DEFINE_KERNEL(NAME, DTYPE, HALVES, FEATURES)              \
    FEATURES static void sum_##NAME##_##DTYPE(const Sums *sums) { \
        const Format format = {DTYPE, HALVES};                    \
        if (sums->weights == NULL) sum_rows(sums, NULL, format);  \
        else sum_rows(sums, sums->weights, format);               \
    }                                                             \
    FEATURES static void copy_##NAME##_##DTYPE(const Sums *sums) { copy_rows(sums, (Format){DTYPE, HALVES}); }
#define KERNELS_OF(NAME, DTYPE) [DTYPE] = {sum_##NAME##_##DTYPE, copy_##NAME##_##DTYPE}
#define DEFINE_KERNELS(NAME, HALVES, FEATURES)                                                           \
    DEFINE_KERNEL(NAME, FP32, HALVES, FEATURES)                                                          \
    DEFINE_KERNEL(NAME, FP16, HALVES, FEATURES)                                                          \
    DEFINE_KERNEL(NAME, BF16, HALVES, FEATURES)                                                          \
    DEFINE_KERNEL(NAME, INT8, HALVES, FEATURES)                                                          \
    DEFINE_KERNEL(NAME, INT8_HALF, HALVES, FEATURES)                                                     \
    DEFINE_KERNEL(NAME, INT4, HALVES, FEATURES)                                                          \
    const RowKernels elasticrec_##NAME##_kernels[ROW_DTYPES] = {                                         \
        KERNELS_OF(NAME, FP32), KERNELS_OF(NAME, FP16), KERNELS_OF(NAME, BF16), KERNELS_OF(NAME, INT8),  \
        KERNELS_OF(NAME, INT8_HALF), KERNELS_OF(NAME, INT4),                                             \
    };
