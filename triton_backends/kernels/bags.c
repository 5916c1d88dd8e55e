/* Summing the rows of bags. No call allocates, and none trusts its ids: a bad one is reported by its index. */
#include "kernels.h"
#include "processor.h"

#include <string.h>

#define PREFETCH(address) __builtin_prefetch((const void *)(address), 0, 3)

/* How many rows ahead to fetch: none of a matrix that stays in a core's own caches anyway (NEAREST_BYTES); few of one
 * that fits into the last cache (LAST_BYTES); many of a larger one, since memory is slow, and most skewed ids hit a
 * cache, so that only some of the rows ahead are under way. */
enum { FEW_ROWS = 16, MANY_ROWS = 128, NEAREST_BYTES = 1 << 17, LAST_BYTES = 1 << 24 };

static int64_t rows_ahead(int64_t rows, int64_t dim) {
    const int64_t bytes = 4 * rows * dim;
    return bytes <= NEAREST_BYTES ? INT32_MAX : bytes <= LAST_BYTES ? FEW_ROWS : MANY_ROWS;
}

static int64_t first_bad_id(const int32_t *ids, int64_t count, int64_t rows) {
    const uint32_t end = rows > INT32_MAX ? (uint32_t)INT32_MAX + 1 : (uint32_t)rows; /* a negative id is above it */
    uint32_t highest = 0;
    for (int64_t i = 0; i < count; i++) highest = (uint32_t)ids[i] > highest ? (uint32_t)ids[i] : highest;
    if (highest < end) return -1;
    for (int64_t i = 0; i < count; i++)
        if ((uint32_t)ids[i] >= end) return i;
    return -1;
}

/* One bag's sum over WIDTH columns that stay in registers; `next` is how many ids follow, for the prefetch. */
#define SUM_COLUMNS(WIDTH)                                                                                  \
    do {                                                                                                    \
        float sum[WIDTH] = {0};                                                                             \
        for (int64_t i = 0; i < length; i++) {                                                              \
            if (i + ahead < next) {                                                                         \
                const char *later = (const char *)(matrix + (int64_t)ids[i + ahead] * dim + column);        \
                for (int line = 0; line < 4 * WIDTH; line += 64) PREFETCH(later + line);                    \
            }                                                                                               \
            const float *row = matrix + (int64_t)ids[i] * dim + column;                                     \
            if (weights == NULL)                                                                            \
                for (int c = 0; c < WIDTH; c++) sum[c] += row[c];                                           \
            else                                                                                            \
                for (int c = 0; c < WIDTH; c++) sum[c] += weights[i] * row[c];                              \
        }                                                                                                   \
        memcpy(out + column, sum, sizeof sum);                                                              \
        column += WIDTH;                                                                                    \
    } while (0)

static inline __attribute__((always_inline)) void add_rows(const Sums *sums, const float *weights) {
    const float *matrix = sums->matrix;
    const int32_t *ids = sums->ids, *end = ids + sums->count;
    const int64_t dim = sums->dim, ahead = rows_ahead(sums->rows, dim), gap = sums->stride - sums->side * dim;
    float *out = sums->out;
    for (int64_t bag = 0, nth = 0; bag < sums->bags; bag++, out += dim) {
        const int64_t length = sums->lengths[bag], next = end - ids;
        int64_t column = 0;
        while (dim - column >= 64) SUM_COLUMNS(64);
        if (dim - column >= 32) SUM_COLUMNS(32);
        if (dim - column >= 16) SUM_COLUMNS(16);
        if (dim - column >= 8) SUM_COLUMNS(8);
        while (column < dim) SUM_COLUMNS(1);
        ids += length;
        if (weights != NULL) weights += length;
        if (++nth == sums->side) {
            nth = 0;
            out += gap;
        }
    }
}

/* The same additions in the same order, whatever the registers' width. */
__attribute__((target("avx2"))) static void add_rows_avx2(const Sums *sums) {
    add_rows(sums, NULL);
}

__attribute__((target("avx2"))) static void add_weighted_rows_avx2(const Sums *sums) {
    add_rows(sums, sums->weights);
}

static void add_rows_plain(const Sums *sums) {
    add_rows(sums, NULL);
}

static void add_weighted_rows_plain(const Sums *sums) {
    add_rows(sums, sums->weights);
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
    if (bad != -1) return bad;
    if (sums->weights == NULL) (elasticrec_processor.avx2 ? add_rows_avx2 : add_rows_plain)(sums);
    else (elasticrec_processor.avx2 ? add_weighted_rows_avx2 : add_weighted_rows_plain)(sums);
    return -1;
}

/* out[i] = matrix[ids[i]]. Returns the index of the first bad id, or -1 and then all rows are written. */
int64_t elasticrec_take_rows(const Sums *sums) {
    const int64_t bad = first_bad_id(sums->ids, sums->count, sums->rows);
    const int64_t dim = sums->dim, ahead = rows_ahead(sums->rows, dim);
    for (int64_t i = 0; bad < 0 && i < sums->count; i++) {
        if (i + ahead < sums->count) {
            const char *later = (const char *)(sums->matrix + (int64_t)sums->ids[i + ahead] * dim);
            for (int64_t line = 0; line < 4 * dim; line += 64) PREFETCH(later + line);
        }
        memcpy(sums->out + i * dim, sums->matrix + (int64_t)sums->ids[i] * dim, 4 * (size_t)dim);
    }
    return bad;
}
