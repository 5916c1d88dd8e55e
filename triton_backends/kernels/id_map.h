/* The id map of a table with up to 2^bits shards, and how its ids are looked up.
 *
 * It is a row of blocks; a block covers 64 * words ids and holds 2^bits counters (uint32: rows of that shard before the
 * block) and then `bits` bit planes of `words` words each: bit i of plane p is bit p of the shard number of the block's
 * id i. Every block is one, two or four whole cache lines:
 *
 *     bits  words  ids  bytes  bits per row
 *        1      7  448     64        1.14
 *        2      3  192     64        2.67
 *        3      4  256    128        4.00
 *        4      6  384    256        5.33
 *
 * An id's row in its shard is a rank: the counter, plus the ids before it in the block with the same shard.
 */
#ifndef ELASTICREC_ID_MAP_H
#define ELASTICREC_ID_MAP_H

#include "kernels.h"

enum { MAX_BITS = 4 };

#define COUNTER_WORDS(BITS) ((1 << (BITS)) / 2)
#define BLOCK_WORDS(BITS, WORDS) (COUNTER_WORDS(BITS) + (BITS) * (WORDS))

/* Append `size` ids, all of them checked, to the units that hold their rows: they make up bag `nth` of the look-up in
 * this row. One function a number of bits. The wide ones take sixteen ids at a time, and need a processor with `avx512`. */
typedef void (*const LookUp_int64_t)(const Lookup *lookup, const int64_t *ids, int64_t size, Unit *units, int64_t row,
                                     int64_t nth);
typedef void (*const LookUp_int32_t)(const Lookup *lookup, const int32_t *ids, int64_t size, Unit *units, int64_t row,
                                     int64_t nth);

/* Likewise, with weights, one an id, or NULL; with step 1 each id is a bag of its own, from `nth` on. */
typedef void (*const LookUpAny_int64_t)(const Lookup *lookup, const int64_t *ids, const float *weights, int64_t size,
                                        int64_t step, Unit *units, int64_t row, int64_t nth);
typedef void (*const LookUpAny_int32_t)(const Lookup *lookup, const int32_t *ids, const float *weights, int64_t size,
                                        int64_t step, Unit *units, int64_t row, int64_t nth);

extern LookUp_int64_t look_ups_int64_t[MAX_BITS + 1], wide_look_ups_int64_t[MAX_BITS + 1];
extern LookUp_int32_t look_ups_int32_t[MAX_BITS + 1], wide_look_ups_int32_t[MAX_BITS + 1];
extern LookUpAny_int64_t any_look_ups_int64_t[MAX_BITS + 1];
extern LookUpAny_int32_t any_look_ups_int32_t[MAX_BITS + 1];

#endif
