/* Looking up one id in an id map, on any processor. */
#ifndef ELASTICREC_FIND_H
#define ELASTICREC_FIND_H

#include "id_map.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#define DEFINE_FIND(BITS)                                                                                             \
    /* The shard of an id, and its row there. */                                                                      \
    INLINE uint64_t find_##BITS(const Lookup *lookup, uint64_t id, uint32_t *local) {                                 \
        const uint64_t words = PLANE_WORDS[BITS];                                                                     \
        const uint64_t block = id / (64 * words), index = id % (64 * words);                                          \
        const uint64_t word = index / 64, before = ((uint64_t)1 << (index % 64)) - 1;                                 \
        const uint64_t *counters = lookup->map + block_at(BITS, block);                                               \
        const uint64_t *planes = counters + COUNTER_WORDS(BITS);                                                      \
        uint64_t shard = 0;                                                                                           \
        for (int p = 0; p < BITS; p++) shard |= (planes[p * words + word] >> (index % 64) & 1) << p;                  \
        uint16_t in_group = 0;                                                                                        \
        if (IS_GROUPED(BITS)) memcpy(&in_group, (const char *)counters + 2 * shard, 2);                               \
        memcpy(local, (const char *)(IS_GROUPED(BITS) ? lookup->map + group_at(block) : counters) + 4 * shard, 4);    \
        *local += in_group;                                                                                           \
        for (uint64_t w = 0; w < words; w++) {                                                                        \
            uint64_t same = -(uint64_t)(w < word) | (before & -(uint64_t)(w == word)); /* no branch */                \
            for (int p = 0; p < BITS; p++) same &= planes[p * words + w] ^ ((shard >> p & 1) - 1);                    \
            *local += (uint32_t)__builtin_popcountll(same);                                                           \
        }                                                                                                             \
        return shard;                                                                                                 \
    }

INLINE uint64_t find_0(const Lookup *lookup, uint64_t id, uint32_t *local) {
    (void)lookup;
    *local = (uint32_t)id;
    return 0;
}

DEFINE_FIND(1)
DEFINE_FIND(2)
DEFINE_FIND(3)
DEFINE_FIND(4)

#endif
