/* Looking up ids one by one, on any processor. */
#include "find.h"

#include <stddef.h>

#define DEFINE_LOOK_UP(INDEX, BITS)                                                                                   \
    INLINE void append_##BITS##_##INDEX(const Lookup *lookup, const INDEX *ids, const float *weights, int64_t size,   \
                                        int64_t step, Unit *units, int64_t row, int64_t nth) {                        \
        for (int64_t i = 0; i < size; i++) {                                                                          \
            if (ids[i] == PADDING) continue;                                                                          \
            uint32_t local;                                                                                           \
            const uint64_t shard = find_##BITS(lookup, (uint64_t)ids[i], &local);                                     \
            Unit *unit = units + lookup->unit[shard];                                                                 \
            if (weights != NULL) unit->weights[unit->count] = weights[i];                                             \
            unit->ids[unit->count++] = (int32_t)(lookup->base[shard] + local);                                        \
            unit->lengths[row * unit->bags + lookup->first_bag[shard] + nth + i * step]++;                            \
        }                                                                                                             \
    }                                                                                                                 \
    static void any_look_up_##BITS##_##INDEX(const Lookup *lookup, const INDEX *ids, const float *weights,            \
                                             int64_t size, int64_t step, Unit *units, int64_t row, int64_t nth) {     \
        append_##BITS##_##INDEX(lookup, ids, weights, size, step, units, row, nth);                                   \
    }

#define DEFINE_BAG(INDEX, BITS)                                                                                       \
    static void look_up_##BITS##_##INDEX(const Lookup *lookup, const INDEX *ids, int64_t size, Unit *units,           \
                                         int64_t row, int64_t nth) {                                                  \
        append_##BITS##_##INDEX(lookup, ids, NULL, size, 0, units, row, nth);                                         \
    }

#define DEFINE_LOOK_UPS(INDEX)                                                                                        \
    static void look_up_0_##INDEX(const Lookup *lookup, const INDEX *ids, int64_t size, Unit *units, int64_t row,     \
                                  int64_t nth) {                                                                      \
        Unit *unit = units + lookup->unit[0];                                                                         \
        const int64_t start = unit->count;                                                                            \
        for (int64_t i = 0; i < size; i++)                                                                            \
            if (ids[i] != PADDING) unit->ids[unit->count++] = (int32_t)(lookup->base[0] + ids[i]);                    \
        unit->lengths[row * unit->bags + lookup->first_bag[0] + nth] = (int32_t)(unit->count - start);                \
    }                                                                                                                 \
    DEFINE_LOOK_UP(INDEX, 0)                                                                                          \
    DEFINE_LOOK_UP(INDEX, 1)                                                                                          \
    DEFINE_LOOK_UP(INDEX, 2)                                                                                          \
    DEFINE_LOOK_UP(INDEX, 3)                                                                                          \
    DEFINE_LOOK_UP(INDEX, 4)                                                                                          \
    DEFINE_BAG(INDEX, 1)                                                                                              \
    DEFINE_BAG(INDEX, 2)                                                                                              \
    DEFINE_BAG(INDEX, 3)                                                                                              \
    DEFINE_BAG(INDEX, 4)                                                                                              \
    LookUp_##INDEX *const look_ups_##INDEX[] = {look_up_0_##INDEX, look_up_1_##INDEX, look_up_2_##INDEX,              \
                                                look_up_3_##INDEX, look_up_4_##INDEX};                                \
    LookUpAny_##INDEX *const any_look_ups_##INDEX[] = {any_look_up_0_##INDEX, any_look_up_1_##INDEX,                  \
                                                       any_look_up_2_##INDEX, any_look_up_3_##INDEX,                  \
                                                       any_look_up_4_##INDEX};

DEFINE_LOOK_UPS(int64_t)
DEFINE_LOOK_UPS(int32_t)
