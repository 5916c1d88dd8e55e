/* Un-pooled look-ups: their rows are answered as they are, each once, however often its id comes.
 *
 * The ids of a query repeat: a user's beside each candidate, popular items in many histories. A hash table keeps what was
 * seen; a new id is looked up in the id map, some ids later, when the cache line that this needs has arrived. */
#include "find.h"

#include <stdbool.h>

#define PREFETCH(address) __builtin_prefetch((const void *)(address), 0, 3)

enum { PREFETCH_ROWS = 64 };

/* What differs in one bit differs in half of these. */
static inline uint64_t mixed(uint64_t key) {
    key = (key ^ key >> 33) * 0xff51afd7ed558ccd;
    key = (key ^ key >> 33) * 0xc4ceb9fe1a85ec53;
    return key ^ key >> 33;
}

/* The number of a key's row; a new one is counted, and the caller's to fill in. */
static inline int32_t number_of(RowSet *set, uint64_t key) {
    const uint64_t last = (uint64_t)set->slots - 1;
    uint64_t slot = mixed(key ^ set->seed) & last;
    while (set->keys[slot] != key) {
        if (set->keys[slot] == 0) {
            set->keys[slot] = key;
            return set->numbers[slot] = (int32_t)set->row_count++;
        }
        slot = (slot + 1) & last;
    }
    return set->numbers[slot];
}

/* Look up the rows from `begin` on, whose ids stand where their indexes will be. */
#define DEFINE_PLACE(BITS)                                                                                            \
    static void place_##BITS(const Lookup *lookup, FoundRow *begin, const FoundRow *end, Unit *units) {               \
        for (FoundRow *row = begin; row < end; row++) {                                                               \
            uint32_t local;                                                                                           \
            const uint64_t shard = find_##BITS(lookup, (uint64_t)row->index, &local);                                 \
            Unit *unit = units + lookup->unit[shard];                                                                 \
            *row = (FoundRow){(int32_t)lookup->unit[shard], (int32_t)unit->count};                                    \
            unit->ids[unit->count++] = (int32_t)(lookup->base[shard] + local);                                        \
        }                                                                                                             \
    }

DEFINE_PLACE(0)
DEFINE_PLACE(1)
DEFINE_PLACE(2)
DEFINE_PLACE(3)
DEFINE_PLACE(4)

static void (*const places[])(const Lookup *, FoundRow *, const FoundRow *, Unit *) = {place_0, place_1, place_2,
                                                                                       place_3, place_4};

static inline const uint64_t *block_of(const Lookup *lookup, uint64_t id) {
    return lookup->map + block_at((int)lookup->bits, id / (64 * PLANE_WORDS[lookup->bits]));
}

#define DEFINE_ROWS(INDEX)                                                                                            \
    static int64_t check_rows_##INDEX(const Read *read, int64_t rows) {                                               \
        const Lookup *lookup = read->lookup;                                                                          \
        const uint64_t shift = (uint64_t)lookup->padded, end = (uint64_t)lookup->rows + shift; /* padding + 1 is 0 */ \
        for (int64_t row = 0; row < rows; row++) {                                                                    \
            const INDEX *ids = (const INDEX *)read->ids + row * read->stride;                                         \
            bool bad = false;                                                                                         \
            for (int64_t i = 0; i < lookup->count; i++) bad |= (uint64_t)(int64_t)ids[i] + shift >= end;              \
            for (int64_t i = 0; bad; i++)                                                                             \
                if ((uint64_t)(int64_t)ids[i] + shift >= end) return row * read->stride + i;                          \
        }                                                                                                             \
        return -1;                                                                                                    \
    }                                                                                                                 \
    static void find_rows_##INDEX(const Read *read, int64_t rows, int64_t space, Unit *units, RowSet *set) {          \
        const Lookup *lookup = read->lookup;                                                                          \
        const uint64_t first_key = ((uint64_t)space << 32) + 1;                                                       \
        int32_t *position = set->positions + set->position_count;                                                     \
        FoundRow *placed = set->rows + set->row_count;                                                                \
        for (int64_t row = 0; row < rows; row++) {                                                                    \
            const INDEX *ids = (const INDEX *)read->ids + row * read->stride;                                         \
            for (int64_t i = 0; i < lookup->count; i++) {                                                             \
                if (ids[i] == PADDING) {                                                                              \
                    *position++ = -1;                                                                                 \
                    continue;                                                                                         \
                }                                                                                                     \
                const int64_t before = set->row_count;                                                                \
                *position++ = number_of(set, first_key + (uint64_t)ids[i]);                                           \
                if (set->row_count == before) continue;                                                               \
                set->rows[before] = (FoundRow){0, (int32_t)ids[i]};                                                   \
                if (lookup->bits > 0) PREFETCH(block_of(lookup, (uint64_t)ids[i]));                                   \
                if (set->rows + before - placed < PREFETCH_ROWS) continue;                                            \
                places[lookup->bits](lookup, placed, set->rows + before, units);                                      \
                placed = set->rows + before;                                                                          \
            }                                                                                                         \
        }                                                                                                             \
        places[lookup->bits](lookup, placed, set->rows + set->row_count, units);                                      \
        set->position_count += rows * lookup->count;                                                                  \
    }

DEFINE_ROWS(int64_t)
DEFINE_ROWS(int32_t)

/* The index of the first id of a look-up of rows that is neither a row of its table nor padding, or -1. */
int64_t elasticrec_check_rows(const Read *read, int64_t rows) {
    return read->id_bytes == 8 ? check_rows_int64_t(read, rows) : check_rows_int32_t(read, rows);
}

/* Add the rows of a look-up's ids, all of them checked, to those that are found, and new ones to their units; and every
 * id's position. space: the same number for look-ups that read one table's rows in one group, another for others. */
void elasticrec_find_rows(const Read *read, int64_t rows, int64_t space, Unit *units, RowSet *set) {
    (read->id_bytes == 8 ? find_rows_int64_t : find_rows_int32_t)(read, rows, space, units, set);
    const Lookup *lookup = read->lookup;
    for (int shard = 0; shard < MAX_SHARDS; shard++) {
        const Unit *unit = units + lookup->unit[shard];
        unit->lengths[0] = (int32_t)unit->count;
    }
}

/* Add ids of rows to those of a unit that other queries ask for too, each once; and every id's position among the unit's:
 * `first` rows of the set are of units before it. space: the unit's, and no other's. */
void elasticrec_join_rows(const int32_t *ids, int64_t count, int64_t space, int64_t first, Unit *unit, RowSet *set) {
    const uint64_t first_key = ((uint64_t)space << 32) + 1;
    for (int64_t i = 0; i < count; i++) {
        const int64_t before = set->row_count;
        const int32_t number = number_of(set, first_key + (uint32_t)ids[i]);
        if (set->row_count > before) unit->ids[unit->count++] = ids[i];
        set->positions[set->position_count++] = (int32_t)(number - first);
    }
}
