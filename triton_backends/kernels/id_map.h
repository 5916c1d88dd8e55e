/* The id map of a table with up to 2^bits shards, and how its ids are looked up.
 *
 * It is a row of blocks, each a cache line: 2^bits counters, and then `bits` bit planes of `words` words each: bit i of
 * plane p is bit p of the shard number of the block's id i. An id's row in its shard is a rank: the counter, plus the ids
 * before it in the block with the same shard.
 *
 *     bits  words  ids  bits per row  a counter: rows of that shard before the block
 *        1      7  448          1.14  uint32, since the table's beginning
 *        2      3  192          2.67
 *        3      2  128          4.02  uint16, since the group's beginning
 *        4      1   64          8.02
 *
 * With 3 and 4 bits blocks stand in groups of 512, each group behind a line of uint32 counters: rows before the group.
 */
#ifndef ELASTICREC_ID_MAP_H
#define ELASTICREC_ID_MAP_H

#include "kernels.h"

enum { MAX_BITS = 4, LINE_WORDS = 8, GROUP_BLOCKS = 512 };

#define IS_GROUPED(BITS) ((BITS) > 2)
#define COUNTER_WORDS(BITS) ((1 << (BITS)) / (IS_GROUPED(BITS) ? 4 : 2))

static const uint8_t PLANE_WORDS[MAX_BITS + 1] = {1, 7, 3, 2, 1};

/* Where a block is, in words. */
static inline uint64_t block_at(int bits, uint64_t block) {
    return (IS_GROUPED(bits) ? block + block / GROUP_BLOCKS + 1 : block) * LINE_WORDS;
}

/* Where the counters of its group are. */
static inline uint64_t group_at(uint64_t block) {
    return block / GROUP_BLOCKS * (GROUP_BLOCKS + 1) * LINE_WORDS;
}

static inline uint64_t id_map_bytes(uint64_t rows, int bits) {
    if (bits == 0) return 0;
    const uint64_t last = (rows - 1) / (64 * PLANE_WORDS[bits]);
    return 8 * (block_at(bits, last) + LINE_WORDS);
}

/* Append `size` ids, all of them checked, to the units that hold their rows: they make up bag `nth` of the look-up in
 * this row. One function a number of bits. The wide ones take sixteen ids at a time, and need a processor with `avx512`;
 * those with AVX2 take eight, write up to ROOM_BEHIND numbers behind the ids, and are NULL where they would be no faster. */
typedef void LookUp_int64_t(const Lookup *lookup, const int64_t *ids, int64_t size, Unit *units, int64_t row, int64_t nth);
typedef void LookUp_int32_t(const Lookup *lookup, const int32_t *ids, int64_t size, Unit *units, int64_t row, int64_t nth);

/* Likewise, with weights, one an id, or NULL; with step 1 each id is a bag of its own, from `nth` on. */
typedef void LookUpAny_int64_t(const Lookup *lookup, const int64_t *ids, const float *weights, int64_t size, int64_t step,
                               Unit *units, int64_t row, int64_t nth);
typedef void LookUpAny_int32_t(const Lookup *lookup, const int32_t *ids, const float *weights, int64_t size, int64_t step,
                               Unit *units, int64_t row, int64_t nth);

extern LookUp_int64_t *const look_ups_int64_t[MAX_BITS + 1], *const avx2_look_ups_int64_t[MAX_BITS + 1],
    *const wide_look_ups_int64_t[MAX_BITS + 1];
extern LookUp_int32_t *const look_ups_int32_t[MAX_BITS + 1], *const avx2_look_ups_int32_t[MAX_BITS + 1],
    *const wide_look_ups_int32_t[MAX_BITS + 1];
extern LookUpAny_int64_t *const any_look_ups_int64_t[MAX_BITS + 1];
extern LookUpAny_int32_t *const any_look_ups_int32_t[MAX_BITS + 1];

#endif
