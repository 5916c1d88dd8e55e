/* Looking up ids one by one, on any processor. */
#include "id_map.h"

#include <string.h>

#define DEFINE_LOOK_UP(INDEX, BITS, WORDS)                                                                            \
    static void look_up_##BITS##_##INDEX(const Table *table, const INDEX *bag, Service *services, int64_t row) {      \
        for (int64_t i = 0; i < table->pooling; i++) {                                                                \
            if (bag[i] == PADDING) continue;                                                                          \
            const uint64_t id = (uint64_t)bag[i], block = id / (64 * WORDS), place = id % (64 * WORDS);               \
            const uint64_t word = place / 64, before = ((uint64_t)1 << (place % 64)) - 1;                             \
            const uint64_t *counters = table->map + block * BLOCK_WORDS(BITS, WORDS);                                 \
            const uint64_t *planes = counters + COUNTER_WORDS(BITS);                                                  \
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

#define DEFINE_LOOK_UPS(INDEX)                                                                                        \
    static void look_up_0_##INDEX(const Table *table, const INDEX *bag, Service *services, int64_t row) {             \
        Service *service = services + table->service[0];                                                              \
        const int64_t start = service->count;                                                                         \
        for (int64_t i = 0; i < table->pooling; i++)                                                                  \
            if (bag[i] != PADDING) service->ids[service->count++] = (int32_t)(table->base[0] + bag[i]);               \
        service->lengths[row * service->tables + table->place[0]] = (int32_t)(service->count - start);                \
    }                                                                                                                 \
    DEFINE_LOOK_UP(INDEX, 1, 7)                                                                                       \
    DEFINE_LOOK_UP(INDEX, 2, 3)                                                                                       \
    DEFINE_LOOK_UP(INDEX, 3, 4)                                                                                       \
    DEFINE_LOOK_UP(INDEX, 4, 6)                                                                                       \
    LookUp_##INDEX look_ups_##INDEX[] = {look_up_0_##INDEX, look_up_1_##INDEX, look_up_2_##INDEX, look_up_3_##INDEX,  \
                                         look_up_4_##INDEX};

DEFINE_LOOK_UPS(int64_t)
DEFINE_LOOK_UPS(int32_t)
