/* Sorting a query's ids to the services that hold their rows.
 *
 * Plain C behind ctypes: a Python process that routes then needs numpy alone. No call allocates, and none trusts its
 * ids: a bad id is reported by its place and nothing is read out of bounds.
 */
#include "id_map.h"
#include "processor.h"

#define PREFETCH(address) __builtin_prefetch((const void *)(address), 0, 3)

enum { PREFETCH_IDS = 128, WORTH_WIDE = 6 };

/* check_bag: the place of the bag's first bad id, or -1; and on the way, the cache lines that its look-up will need. */
#define DEFINE_CHECK(INDEX, BITS, WORDS)                                                                              \
    static int64_t check_bag_##BITS##_##INDEX(const Table *table, const INDEX *bag) {                                 \
        const uint64_t rows = (uint64_t)table->rows;                                                                  \
        for (int64_t i = 0; i < table->pooling; i++) {                                                                \
            const uint64_t id = (uint64_t)(int64_t)bag[i];                                                            \
            if (id < rows) PREFETCH(table->map + id / (64 * WORDS) * BLOCK_WORDS(BITS, WORDS));                       \
            else if (bag[i] != PADDING) return i;                                                                     \
        }                                                                                                             \
        return -1;                                                                                                    \
    }

#define DEFINE_ROUTE(INDEX)                                                                                           \
    static int64_t check_bag_0_##INDEX(const Table *table, const INDEX *bag) {                                        \
        bool bad = false; /* no branch, so that the compiler checks several at a time: padding + 1 is 0 */            \
        for (int64_t i = 0; i < table->pooling; i++)                                                                  \
            bad |= (uint64_t)(int64_t)bag[i] + 1 > (uint64_t)table->rows;                                             \
        for (int64_t i = 0; bad; i++)                                                                                 \
            if ((uint64_t)(int64_t)bag[i] + 1 > (uint64_t)table->rows) return i;                                      \
        return -1;                                                                                                    \
    }                                                                                                                 \
    DEFINE_CHECK(INDEX, 1, 7)                                                                                         \
    DEFINE_CHECK(INDEX, 2, 3)                                                                                         \
    DEFINE_CHECK(INDEX, 3, 4)                                                                                         \
    DEFINE_CHECK(INDEX, 4, 6)                                                                                         \
    static int64_t route_##INDEX(const Table *tables, int64_t table_count, const INDEX *indices, int64_t batch,       \
                                 Service *services) {                                                                 \
        static int64_t (*const check_bag[])(const Table *, const INDEX *) = {                                         \
            check_bag_0_##INDEX, check_bag_1_##INDEX, check_bag_2_##INDEX, check_bag_3_##INDEX, check_bag_4_##INDEX}; \
        const bool wide = elasticrec_processor.avx512;                                                                \
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
            const bool wider = wide && table->pooling >= WORTH_WIDE;                                                  \
            (wider ? wide_look_ups_##INDEX : look_ups_##INDEX)[table->bits](table, bag, services, n / table_count);   \
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
