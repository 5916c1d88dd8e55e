/* The two hot loops of serving: routing ids to shards, and summing the rows of bags.
 *
 * Plain C behind ctypes: a Python process that serves a shard then needs numpy alone. No call allocates,
 * and none trusts its ids: a bad id is reported by its place and nothing is read out of bounds.
 */
#include "kernels.h"

#include <string.h>

#define PREFETCH(address) __builtin_prefetch((const void *)(address), 0, 3)
#define VECTORIZED __attribute__((target_clones("avx512f", "avx2", "default")))

enum { PREFETCH_ROWS = 16, PREFETCH_IDS = 128 };

/* ---- routing -------------------------------------------------------------------------------------------
 *
 * The id map of a table with up to 2^bits shards is a row of blocks; a block covers 64 * words ids and holds
 * 2^bits counters (uint32: rows of that shard before the block) and then `bits` bit planes of `words` words
 * each: bit i of plane p is bit p of the shard number of the block's id i. Every block is one, two or four
 * whole cache lines:
 *
 *     bits  words  ids  bytes  bits a row
 *        1      7  448     64        1.14
 *        2      3  192     64        2.67
 *        3      4  256    128        4.00
 *        4      6  384    256        5.33
 *
 * An id's row in its shard is a rank: the counter, plus the ids before it in the block with the same shard.
 */

/* check_bag: the place of the bag's first bad id, or -1; and on the way, the cache lines that its look-up will need.
 * look_up_bag: append the bag's ids to the services. */
#define DEFINE_BAG(SUFFIX, INDEX, BITS, WORDS)                                                                        \
    enum { COUNTER_WORDS_##SUFFIX = (1 << BITS) / 2, BLOCK_WORDS_##SUFFIX = COUNTER_WORDS_##SUFFIX + BITS * WORDS };  \
    static int64_t check_bag_##SUFFIX(const Table *table, const INDEX *bag) {                                         \
        const uint64_t rows = (uint64_t)table->rows;                                                                  \
        for (int64_t i = 0; i < table->pooling; i++) {                                                                \
            const uint64_t id = (uint64_t)(int64_t)bag[i];                                                            \
            if (id < rows) PREFETCH(table->map + id / (64 * WORDS) * BLOCK_WORDS_##SUFFIX);                           \
            else if (bag[i] != PADDING) return i;                                                                     \
        }                                                                                                             \
        return -1;                                                                                                    \
    }                                                                                                                 \
    static void look_up_bag_##SUFFIX(const Table *table, const INDEX *bag, Service *services, int64_t row) {          \
        for (int64_t i = 0; i < table->pooling; i++) {                                                                \
            if (bag[i] == PADDING) continue;                                                                          \
            const uint64_t id = (uint64_t)bag[i], block = id / (64 * WORDS), place = id % (64 * WORDS);               \
            const uint64_t word = place / 64, before = ((uint64_t)1 << (place % 64)) - 1;                             \
            const uint64_t *counters = table->map + block * BLOCK_WORDS_##SUFFIX;                                     \
            const uint64_t *planes = counters + COUNTER_WORDS_##SUFFIX;                                               \
            uint64_t shard = 0;                                                                                       \
            for (int p = 0; p < BITS; p++) shard |= (planes[p * WORDS + word] >> (place % 64) & 1) << p;              \
            uint32_t local;                                                                                           \
            memcpy(&local, (const char *)counters + 4 * shard, 4);                                                    \
            for (uint64_t w = 0; w < WORDS; w++) {                                                                    \
                uint64_t same = -(uint64_t)(w < word) | (before & -(uint64_t)(w == word)); /* no branch */            \
                for (int p = 0; p < BITS; p++) same &= planes[p * WORDS + w] ^ ((shard >> p & 1) - 1);                \
                local += (uint32_t)__builtin_popcountll(same);                                                        \
            }                                                                                                         \
            Service *service = services + table->service[shard];                                                      \
            service->ids[service->count++] = (int32_t)(table->base[shard] + local);                                   \
            service->lengths[row * service->tables + table->place[shard]]++;                                          \
        }                                                                                                             \
    }

#define DEFINE_ROUTE(INDEX)                                                                                           \
    DEFINE_BAG(1_##INDEX, INDEX, 1, 7)                                                                                \
    DEFINE_BAG(2_##INDEX, INDEX, 2, 3)                                                                                \
    DEFINE_BAG(3_##INDEX, INDEX, 3, 4)                                                                                \
    DEFINE_BAG(4_##INDEX, INDEX, 4, 6)                                                                                \
    static int64_t check_bag_0_##INDEX(const Table *table, const INDEX *bag) {                                        \
        for (int64_t i = 0; i < table->pooling; i++)                                                                  \
            if ((uint64_t)(int64_t)bag[i] >= (uint64_t)table->rows && bag[i] != PADDING) return i;                    \
        return -1;                                                                                                    \
    }                                                                                                                 \
    static void look_up_bag_0_##INDEX(const Table *table, const INDEX *bag, Service *services, int64_t row) {         \
        Service *service = services + table->service[0];                                                              \
        const int64_t start = service->count;                                                                         \
        for (int64_t i = 0; i < table->pooling; i++)                                                                  \
            if (bag[i] != PADDING) service->ids[service->count++] = (int32_t)(table->base[0] + bag[i]);               \
        service->lengths[row * service->tables + table->place[0]] = (int32_t)(service->count - start);                \
    }                                                                                                                 \
    static int64_t route_##INDEX(const Table *tables, int64_t table_count, const INDEX *indices, int64_t batch,       \
                                 Service *services) {                                                                 \
        static int64_t (*const check_bag[])(const Table *, const INDEX *) = {                                         \
            check_bag_0_##INDEX, check_bag_1_##INDEX, check_bag_2_##INDEX, check_bag_3_##INDEX, check_bag_4_##INDEX}; \
        static void (*const look_up_bag[])(const Table *, const INDEX *, Service *, int64_t) = {                      \
            look_up_bag_0_##INDEX, look_up_bag_1_##INDEX, look_up_bag_2_##INDEX, look_up_bag_3_##INDEX,               \
            look_up_bag_4_##INDEX};                                                                                   \
        const int64_t bags = batch * table_count;                                                                     \
        const INDEX *ahead = indices, *bag = indices;                                                                 \
        /* checks run some ids ahead of the look-ups, while the cache lines that these need arrive */                 \
        for (int64_t n = 0, m = 0; n < bags; n++) {                                                                   \
            for (; m < bags && ahead - bag < PREFETCH_IDS; m++) {                                                     \
                const Table *table = tables + m % table_count;                                                        \
                const int64_t bad = check_bag[table->bits](table, ahead);                                             \
                if (bad >= 0) return ahead - indices + bad;                                                           \
                ahead += table->pooling;                                                                              \
            }                                                                                                         \
            const Table *table = tables + n % table_count;                                                            \
            look_up_bag[table->bits](table, bag, services, n / table_count);                                          \
            bag += table->pooling;                                                                                    \
        }                                                                                                             \
        return -1;                                                                                                    \
    }

DEFINE_ROUTE(int64_t)
DEFINE_ROUTE(int32_t)

/* Sort a query's ids (batch, columns), table after table in a row, to the services' ids and lengths (zeroed by
 * the caller). Returns -1, or the flat place of the first id that is neither a row of its table nor padding. */
int64_t elasticrec_route(const Table *tables, int64_t table_count, const void *indices, int64_t index_bytes,
                         int64_t batch, Service *services) {
    return index_bytes == 8 ? route_int64_t(tables, table_count, indices, batch, services)
                            : route_int32_t(tables, table_count, indices, batch, services);
}

/* ---- bags ---------------------------------------------------------------------------------------------- */

static int64_t first_bad_id(const int32_t *ids, int64_t count, int64_t rows) {
    const uint32_t end = rows > INT32_MAX ? (uint32_t)INT32_MAX + 1 : (uint32_t)rows; /* a negative id is above it */
    uint32_t bad = 0;
    for (int64_t i = 0; i < count; i++) bad |= (uint32_t)ids[i] >= end;
    if (!bad) return -1;
    for (int64_t i = 0; i < count; i++)
        if ((uint32_t)ids[i] >= end) return i;
    return -1;
}

/* One bag's sum over `width` columns that stay in registers; `next` is how many ids follow, for the prefetch. */
#define SUM_COLUMNS(WIDTH)                                                                                    \
    do {                                                                                                    \
        float sum[WIDTH] = {0};                                                                             \
        for (int64_t i = 0; i < length; i++) {                                                              \
            if (i + PREFETCH_ROWS < next) {                                                                 \
                const char *ahead = (const char *)(weights + (int64_t)ids[i + PREFETCH_ROWS] * dim + column); \
                for (int line = 0; line < 4 * WIDTH; line += 64) PREFETCH(ahead + line);                    \
            }                                                                                               \
            const float *row = weights + (int64_t)ids[i] * dim + column;                                    \
            for (int c = 0; c < WIDTH; c++) sum[c] += row[c];                                               \
        }                                                                                                   \
        memcpy(out + column, sum, sizeof sum);                                                              \
        column += WIDTH;                                                                                    \
    } while (0)

VECTORIZED
static void sum_bags(const float *weights, int64_t dim, const int32_t *ids, int64_t count, const int32_t *lengths,
                     int64_t bags, float *out) {
    const int32_t *end = ids + count;
    for (int64_t bag = 0; bag < bags; bag++, out += dim) {
        const int64_t length = lengths[bag], next = end - ids;
        int64_t column = 0;
        while (dim - column >= 64) SUM_COLUMNS(64);
        if (dim - column >= 32) SUM_COLUMNS(32);
        if (dim - column >= 16) SUM_COLUMNS(16);
        if (dim - column >= 8) SUM_COLUMNS(8);
        while (column < dim) SUM_COLUMNS(1);
        ids += length;
    }
}

/* Whether bags can be summed: ids (count) all in [0, rows), lengths (bags) adding up to count.
 * Returns -1 if so, the place of the first bad id, or -2 where the lengths do not fit. */
int64_t elasticrec_check_bags(int64_t rows, const int32_t *ids, int64_t count, const int32_t *lengths, int64_t bags) {
    int64_t total = 0, negative = 0;
    for (int64_t bag = 0; bag < bags; bag++) {
        total += lengths[bag];
        negative |= lengths[bag] < 0;
    }
    return negative || total != count ? -2 : first_bad_id(ids, count, rows);
}

/* out[bag] = the sum of weights[id] over the bag's ids, in their order; an empty bag is zeros.
 * weights (rows, dim), out (bags, dim). Returns what elasticrec_check_bags does, and sums where that is -1. */
int64_t elasticrec_sum_bags(const float *weights, int64_t rows, int64_t dim, const int32_t *ids, int64_t count,
                            const int32_t *lengths, int64_t bags, float *out) {
    const int64_t bad = elasticrec_check_bags(rows, ids, count, lengths, bags);
    if (bad == -1) sum_bags(weights, dim, ids, count, lengths, bags, out);
    return bad;
}
