/* Sorting a query's ids to the units that hold their rows.
 *
 * Plain C behind ctypes: a Python process that routes then needs numpy alone. No call allocates, and none trusts its
 * ids: a bad id is reported by its index and nothing is read out of bounds.
 */
#include "id_map.h"
#include "processor.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define PREFETCH(address) __builtin_prefetch((const void *)(address), 0, 3)

enum { PREFETCH_IDS = 128 };
enum { WORTH_AVX2 = 8, WORTH_WIDE = 6 }; /* ids of a bag; of fewer one after another is faster */

/* ---- bags that repeat: a user's beside each candidate ---- */

/* Whether so many ids, and their weights, are those at another index. */
static inline bool are_same(const Read *read, int64_t begin, int64_t other, int64_t size) {
    const char *ids = (const char *)read->ids + begin * read->id_bytes;
    const char *others = (const char *)read->ids + other * read->id_bytes;
    if (size == 0 || memcmp(ids, others, 4) != 0) return false; /* where nothing repeats that is all */
    return memcmp(ids, others, (size_t)(size * read->id_bytes)) == 0 &&
           (read->weights == NULL || memcmp(read->weights + begin, read->weights + other, 4 * (size_t)size) == 0);
}

static void mark_repeated(const Lookup *lookup, Unit *units, int64_t row, int64_t nth) {
    for (int shard = 0; shard < 1 << lookup->bits; shard++) {
        const Unit *unit = units + lookup->unit[shard];
        unit->lengths[row * unit->bags + lookup->first_bag[shard] + nth] = REPEATED;
    }
}

static inline bool is_repeated(const Lookup *lookup, const Unit *units, int64_t row, int64_t nth) {
    const Unit *unit = units + lookup->unit[0];
    return unit->lengths[row * unit->bags + lookup->first_bag[0] + nth] == REPEATED;
}

/* Mark the bags of a row that are those of the row before; whether all are. */
static inline bool find_repeated(const Read *read, int64_t row, Unit *units) {
    const Lookup *lookup = read->lookup;
    int64_t begin = row * read->stride, bag = read->bag, before = begin - read->stride;
    if (row == 0) return false;
    if (read->starts != NULL) {
        before = read->starts[row - 1] - read->first;
        begin = read->starts[row] - read->first;
        bag = read->starts[row + 1] - read->starts[row];
        if (begin - before != bag) return false;
    }
    if (bag == 1 && lookup->count > 1) return false; /* they are looked up together */
    bool all = true;
    for (int64_t nth = 0; nth < lookup->count; nth++, begin += bag, before += bag) {
        const bool same = are_same(read, begin, before, bag);
        if (same) mark_repeated(lookup, units, row, nth);
        all &= same;
    }
    return all;
}

/* ---- routing ---- */

/* check: the index of the first bad id, or -1; and on the way, the cache lines that the look-up will need. */
#define DEFINE_CHECK(INDEX, BITS)                                                                                     \
    static int64_t check_##BITS##_##INDEX(const Lookup *lookup, const INDEX *ids, int64_t size) {                     \
        const uint64_t rows = (uint64_t)lookup->rows;                                                                 \
        for (int64_t i = 0; i < size; i++) {                                                                          \
            const uint64_t id = (uint64_t)(int64_t)ids[i];                                                            \
            if (id < rows) PREFETCH(lookup->map + block_at(BITS, id / (64 * PLANE_WORDS[BITS])));                     \
            else if (ids[i] != PADDING || !lookup->padded) return i;                                                  \
        }                                                                                                             \
        return -1;                                                                                                    \
    }

#define DEFINE_ROUTE(INDEX)                                                                                           \
    static inline LookUp_##INDEX *fastest_##INDEX(int64_t bits, int64_t bag) {                                        \
        const bool eight = bag >= WORTH_AVX2 && elasticrec_processor.avx2;                                            \
        if (bag >= WORTH_WIDE && elasticrec_processor.avx512) return wide_look_ups_##INDEX[bits];                     \
        return eight && avx2_look_ups_##INDEX[bits] != NULL ? avx2_look_ups_##INDEX[bits] : look_ups_##INDEX[bits];   \
    }                                                                                                                 \
    static int64_t check_0_##INDEX(const Lookup *lookup, const INDEX *ids, int64_t size) {                            \
        bool bad = false; /* no branch, so that the compiler checks several at a time: padding + 1 is 0 */            \
        const uint64_t shift = (uint64_t)lookup->padded, end = (uint64_t)lookup->rows + shift;                        \
        for (int64_t i = 0; i < size; i++) bad |= (uint64_t)(int64_t)ids[i] + shift >= end;                           \
        for (int64_t i = 0; bad; i++)                                                                                 \
            if ((uint64_t)(int64_t)ids[i] + shift >= end) return i;                                                   \
        return -1;                                                                                                    \
    }                                                                                                                 \
    DEFINE_CHECK(INDEX, 1)                                                                                            \
    DEFINE_CHECK(INDEX, 2)                                                                                            \
    DEFINE_CHECK(INDEX, 3)                                                                                            \
    DEFINE_CHECK(INDEX, 4)                                                                                            \
    static int64_t check_##INDEX(const Read *read, int64_t begin, int64_t size) {                                     \
        static int64_t (*const checks[])(const Lookup *, const INDEX *, int64_t) = {                                  \
            check_0_##INDEX, check_1_##INDEX, check_2_##INDEX, check_3_##INDEX, check_4_##INDEX};                     \
        return checks[read->lookup->bits](read->lookup, (const INDEX *)read->ids + begin, size);                      \
    }                                                                                                                 \
    static void look_up_##INDEX(const Read *read, int64_t row, int64_t begin, int64_t size, bool once, Unit *units) { \
        const Lookup *lookup = read->lookup;                                                                          \
        const INDEX *ids = (const INDEX *)read->ids + begin;                                                          \
        const float *weights = read->weights == NULL ? NULL : read->weights + begin;                                  \
        const int64_t bag = read->starts == NULL ? read->bag : size;                                                  \
        LookUp_##INDEX *const look_up = fastest_##INDEX(lookup->bits, bag);                                           \
        if (lookup->count > 1 && bag == 1) /* each id is a bag of its own */                                          \
            return any_look_ups_##INDEX[lookup->bits](lookup, ids, weights, size, 1, units, row, 0);                  \
        for (int64_t nth = 0; nth < lookup->count; nth++, ids += bag)                                                 \
            if (once && is_repeated(lookup, units, row, nth)) continue;                                               \
            else if (weights != NULL)                                                                                 \
                any_look_ups_##INDEX[lookup->bits](lookup, ids, weights + nth * bag, bag, 0, units, row, nth);        \
            else look_up(lookup, ids, bag, units, row, nth);                                                          \
    }                                                                                                                 \
    /* One bag of one size a look-up and row, none weighted: the same as below, with the least work for each bag. */  \
    static int64_t route_bags_##INDEX(const Read *reads, int64_t read_count, int64_t rows, bool once, Unit *units,    \
                                      int64_t *index) {                                                               \
        static int64_t (*const checks[])(const Lookup *, const INDEX *, int64_t) = {                                  \
            check_0_##INDEX, check_1_##INDEX, check_2_##INDEX, check_3_##INDEX, check_4_##INDEX};                     \
        const Read *const end = reads + read_count, *next = reads, *ahead = reads;                                    \
        int64_t lead = 0, repeated = 0;                                                                               \
        for (int64_t row = 0, ahead_row = 0; row < rows;) {                                                           \
            while (ahead_row < rows && lead < PREFETCH_IDS) {                                                         \
                const int64_t begin = ahead_row * ahead->stride;                                                      \
                const bool same = once && ahead_row > 0 && are_same(ahead, begin, begin - ahead->stride, ahead->bag); \
                const INDEX *ids = (const INDEX *)ahead->ids + begin;                                                 \
                const int64_t bad = same ? -1 : checks[ahead->lookup->bits](ahead->lookup, ids, ahead->bag);          \
                *index = begin + bad;                                                                                 \
                if (bad >= 0) return ahead - reads;                                                                   \
                if (same) mark_repeated(ahead->lookup, units, ahead_row, 0), repeated++;                              \
                lead += ahead->bag;                                                                                   \
                if (++ahead == end) ahead = reads, ahead_row++;                                                       \
            }                                                                                                         \
            const INDEX *ids = (const INDEX *)next->ids + row * next->stride;                                         \
            if (repeated > 0 && is_repeated(next->lookup, units, row, 0)) repeated--;                                 \
            else fastest_##INDEX(next->lookup->bits, next->bag)(next->lookup, ids, next->bag, units, row, 0);         \
            lead -= next->bag;                                                                                        \
            if (++next == end) next = reads, row++;                                                                   \
        }                                                                                                             \
        return -1;                                                                                                    \
    }

DEFINE_ROUTE(int64_t)
DEFINE_ROUTE(int32_t)

/* A index in a query: a read of a row, whose ids are [begin, begin + size). */
typedef struct {
    const Read *reads;
    int64_t read_count, read, row, begin, size;
} Cursor;

static inline void see(Cursor *at) {
    const Read *read = at->reads + at->read;
    if (read->starts == NULL) {
        at->begin = at->row * read->stride;
        at->size = read->lookup->count * read->bag;
    } else {
        at->begin = read->starts[at->row] - read->first;
        at->size = read->starts[at->row + 1] - read->starts[at->row];
    }
}

static inline void step(Cursor *at) {
    if (++at->read < at->read_count) return;
    at->read = 0;
    at->row++;
}

/* Sort the ids of a group's look-ups, row after row and look-up after look-up in it, to their units' ids, weights and
 * lengths (zeroed by the caller). once: of a bag that is the row before's all lengths are REPEATED, and its ids are not
 * written again. Returns -1, or which read holds the first id that is neither a row of its table nor padding, and its
 * index there. */
int64_t elasticrec_route(const Read *reads, int64_t read_count, int64_t rows, int64_t once, Unit *units, int64_t *index) {
    bool bags = read_count > 0; /* of one kind, as a DLRM's */
    for (const Read *read = reads; read < reads + read_count; read++)
        bags &= read->starts == NULL && read->weights == NULL && read->lookup->count == 1 &&
                read->id_bytes == reads->id_bytes;
    if (bags)
        return (reads->id_bytes == 8 ? route_bags_int64_t : route_bags_int32_t)(reads, read_count, rows, once, units, index);
    Cursor at = {.reads = reads, .read_count = read_count}, ahead = at;
    int64_t lead = 0; /* ids that are checked and not looked up yet */
    /* checks run some ids ahead of the look-ups, while the cache lines that these need arrive */
    for (; read_count > 0 && at.row < rows; step(&at)) {
        for (; ahead.row < rows && lead < PREFETCH_IDS; step(&ahead)) {
            const Read *read = reads + ahead.read;
            see(&ahead);
            const int64_t bad = once && find_repeated(read, ahead.row, units) ? -1
                                : read->id_bytes == 8 ? check_int64_t(read, ahead.begin, ahead.size)
                                                      : check_int32_t(read, ahead.begin, ahead.size);
            *index = ahead.begin + bad;
            if (bad >= 0) return ahead.read;
            lead += ahead.size;
        }
        const Read *read = reads + at.read;
        see(&at);
        (read->id_bytes == 8 ? look_up_int64_t : look_up_int32_t)(read, at.row, at.begin, at.size, once, units);
        lead -= at.size;
    }
    return -1;
}
