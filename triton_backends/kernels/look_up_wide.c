/* Looking up ids sixteen at a time, with AVX-512. */
#include "id_map.h"

#include <immintrin.h>

#define WIDE __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,popcnt,bmi2")))
#define INLINE WIDE static inline __attribute__((always_inline))
#define EACH _Pragma("clang loop unroll(full)") for

enum { A_AND_B_XOR_C = 0x60 };

typedef struct {
    __m512i lane[8];
} Square;

/* Rows become columns: lane i of row j goes to lane j of row i. */
INLINE Square transposed(Square in) {
    __m512i pairs[8], quads[8];
    Square out;
    EACH (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm512_unpacklo_epi64(in.lane[i], in.lane[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi64(in.lane[i], in.lane[i + 1]);
    }
    EACH (int i = 0; i < 8; i += 4)
        EACH (int j = 0; j < 2; j++) {
            quads[i + j] = _mm512_shuffle_i64x2(pairs[i + j], pairs[i + j + 2], 0x88);
            quads[i + j + 2] = _mm512_shuffle_i64x2(pairs[i + j], pairs[i + j + 2], 0xdd);
        }
    EACH (int j = 0; j < 4; j++) {
        const int column = j % 2 + j / 2 * 2;
        out.lane[column] = _mm512_shuffle_i64x2(quads[j], quads[j + 4], 0x88);
        out.lane[column + 4] = _mm512_shuffle_i64x2(quads[j], quads[j + 4], 0xdd);
    }
    return out;
}

INLINE __m512i load_int64_t(__mmask8 there, const int64_t *ids) {
    return _mm512_maskz_loadu_epi64(there, ids);
}

INLINE __m512i load_int32_t(__mmask8 there, const int32_t *ids) {
    return _mm512_cvtepi32_epi64(_mm256_maskz_loadu_epi32(there, ids));
}

/* x / divisor for x < 2^25, ids having 31 bits: exact, since the factor is at most 1 / 2^32 above 1 / divisor */
INLINE __m512i divided(__m512i x, int64_t divisor) {
    return _mm512_srli_epi64(_mm512_mul_epu32(x, _mm512_set1_epi64((1LL << 32) / divisor + 1)), 32);
}

/* Lane i of the result is lane i of words[choice's lane i]. */
INLINE __m512i chosen(const __m512i *words, int count, __m512i choice) {
    __m512i found = words[0];
    EACH (int w = 1; w < count; w++)
        found = _mm512_mask_mov_epi64(found, _mm512_cmpeq_epi64_mask(choice, _mm512_set1_epi64(w)), words[w]);
    return found;
}

/* The counters of eight ids' shards, in the lanes' low halves: of their blocks, and of the groups that these are in. */
INLINE __m512i rows_before(const uint64_t *map, int bits, const __m512i *counters, __m512i block, __m512i shard) {
    const int in_word = IS_GROUPED(bits) ? 2 : 1; /* bits that number a word's counters */
    const __m512i word = chosen(counters, COUNTER_WORDS(bits), _mm512_srli_epi64(shard, in_word));
    const __m512i place = _mm512_and_si512(shard, _mm512_set1_epi64((1 << in_word) - 1));
    if (!IS_GROUPED(bits)) return _mm512_srlv_epi64(word, _mm512_slli_epi64(place, 5));
    const __m512i in_group = _mm512_srlv_epi64(word, _mm512_slli_epi64(place, 4));
    const __m512i group = _mm512_srli_epi64(block, 9); /* of GROUP_BLOCKS */
    const __m512i start = _mm512_mullo_epi64(group, _mm512_set1_epi64(2 * LINE_WORDS * (GROUP_BLOCKS + 1)));
    const __m256i before = _mm512_i64gather_epi32(_mm512_add_epi64(start, shard), map, 4);
    return _mm512_add_epi64(_mm512_and_si512(in_group, _mm512_set1_epi64(0xffff)), _mm512_cvtepu32_epi64(before));
}

/* The shards and local rows of eight ids, a lane an id. Their blocks are loaded whole and transposed, so that a
 * register holds the same word of each block; then all is as in look_up.c. */
INLINE void look_up_eight(const uint64_t *map, int bits, __m512i id, __m512i *shard, __m512i *local) {
    const __m512i one = _mm512_set1_epi64(1), zero = _mm512_setzero_si512();
    const int counters = COUNTER_WORDS(bits), words = PLANE_WORDS[bits];
    const __m512i number = _mm512_srli_epi64(id, 6), block = words == 1 ? number : divided(number, words);
    const __m512i word = _mm512_sub_epi64(number, _mm512_mullo_epi64(block, _mm512_set1_epi64(words)));
    const __m512i bit = _mm512_and_si512(id, _mm512_set1_epi64(63));
    const __m512i index = _mm512_add_epi64(_mm512_slli_epi64(word, 6), bit);
    const __m512i heads = IS_GROUPED(bits) ? _mm512_add_epi64(_mm512_srli_epi64(block, 9), one) : zero;
    uint64_t starts[8];
    _mm512_storeu_si512(starts, _mm512_slli_epi64(_mm512_add_epi64(block, heads), 3));
    Square column;
    EACH (int i = 0; i < 8; i++) column.lane[i] = _mm512_loadu_si512(map + starts[i]);
    column = transposed(column);
    __m512i flips[MAX_BITS];
    *shard = zero;
    EACH (int p = 0; p < bits; p++) {
        __m512i own = chosen(column.lane + counters + p * words, words, word);
        own = _mm512_and_si512(_mm512_srlv_epi64(own, bit), one);
        *shard = _mm512_or_si512(*shard, _mm512_slli_epi64(own, p));
        flips[p] = _mm512_sub_epi64(own, one);
    }
    *local = rows_before(map, bits, column.lane, block, *shard);
    EACH (int w = 0; w < words; w++) {
        /* the word's ids before the id: none, some, or, where a shift by 64 or more leaves nothing to flip, all */
        const __m512i into = _mm512_max_epi64(_mm512_sub_epi64(index, _mm512_set1_epi64(64 * w)), zero);
        __m512i same = _mm512_xor_si512(_mm512_sllv_epi64(_mm512_set1_epi64(-1), into), _mm512_set1_epi64(-1));
        EACH (int p = 0; p < bits; p++)
            same = _mm512_ternarylogic_epi64(same, column.lane[counters + p * words + w], flips[p], A_AND_B_XOR_C);
        *local = _mm512_add_epi64(*local, _mm512_popcnt_epi64(same));
    }
}

INLINE __m512i joined(__m512i low, __m512i high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(low)), _mm512_cvtepi64_epi32(high), 1);
}

#define DEFINE_LOOK_UP(INDEX, BITS)                                                                                   \
    WIDE static void wide_look_up_##BITS##_##INDEX(const Lookup *lookup, const INDEX *bag, int64_t size, Unit *units, \
                                                   int64_t row, int64_t nth) {                                        \
        int64_t counts[1 << BITS] = {0};                                                                              \
        for (int64_t start = 0; start < size; start += 16) {                                                          \
            const int64_t left = size - start;                                                                        \
            const __mmask16 in_bag = left < 16 ? (__mmask16)((1 << left) - 1) : 0xffff;                               \
            __m512i ids[2], shards[2], locals[2];                                                                     \
            __mmask8 there[2];                                                                                        \
            EACH (int half = 0; half < 2; half++) {                                                                   \
                const __mmask8 mask = (__mmask8)(in_bag >> (8 * half));                                               \
                ids[half] = load_##INDEX(mask, bag + start + 8 * half);                                               \
                there[half] = _mm512_mask_cmpge_epi64_mask(mask, ids[half], _mm512_setzero_si512());                  \
                ids[half] = _mm512_maskz_mov_epi64(there[half], ids[half]);                                           \
                look_up_eight(lookup->map, BITS, ids[half], shards + half, locals + half);                            \
            }                                                                                                         \
            const __m512i shard = joined(shards[0], shards[1]), local = joined(locals[0], locals[1]);                 \
            const __mmask16 real = (__mmask16)(there[0] | there[1] << 8);                                             \
            for (int s = 0; s < 1 << BITS; s++) {                                                                     \
                const __mmask16 mine = _mm512_mask_cmpeq_epi32_mask(real, shard, _mm512_set1_epi32(s));               \
                const int count = __builtin_popcount(mine);                                                           \
                const __m512i rows = _mm512_add_epi32(local, _mm512_set1_epi32((int)lookup->base[s]));                \
                Unit *unit = units + lookup->unit[s];                                                                 \
                _mm512_mask_storeu_epi32(unit->ids + unit->count, (__mmask16)((1 << count) - 1),                      \
                                         _mm512_maskz_compress_epi32(mine, rows));                                    \
                unit->count += count;                                                                                 \
                counts[s] += count;                                                                                   \
            }                                                                                                         \
        }                                                                                                             \
        for (int s = 0; s < 1 << BITS; s++) {                                                                         \
            const Unit *unit = units + lookup->unit[s];                                                               \
            unit->lengths[row * unit->bags + lookup->first_bag[s] + nth] += (int32_t)counts[s];                       \
        }                                                                                                             \
    }

/* One shard: the row is the id. */
#define DEFINE_COPY(INDEX)                                                                                            \
    WIDE static void wide_look_up_0_##INDEX(const Lookup *lookup, const INDEX *bag, int64_t size, Unit *units,        \
                                              int64_t row, int64_t nth) {                                             \
        Unit *unit = units + lookup->unit[0];                                                                         \
        const int64_t first = unit->count;                                                                            \
        int64_t count = first;                                                                                        \
        for (int64_t start = 0; start < size; start += 16) {                                                          \
            const int64_t left = size - start;                                                                        \
            const __mmask16 in_bag = left < 16 ? (__mmask16)((1 << left) - 1) : 0xffff;                               \
            const __m512i ids = joined(load_##INDEX((__mmask8)in_bag, bag + start),                                   \
                                       load_##INDEX((__mmask8)(in_bag >> 8), bag + start + 8));                       \
            const __mmask16 real = _mm512_mask_cmpge_epi32_mask(in_bag, ids, _mm512_setzero_si512());                 \
            const __m512i rows = _mm512_add_epi32(ids, _mm512_set1_epi32((int)lookup->base[0]));                      \
            const int there = __builtin_popcount(real);                                                               \
            _mm512_mask_storeu_epi32(unit->ids + count, (__mmask16)((1 << there) - 1),                                \
                                     _mm512_maskz_compress_epi32(real, rows));                                        \
            count += there;                                                                                           \
        }                                                                                                             \
        unit->count = count;                                                                                          \
        unit->lengths[row * unit->bags + lookup->first_bag[0] + nth] = (int32_t)(count - first);                      \
    }

#define DEFINE_LOOK_UPS(INDEX)                                                                                        \
    DEFINE_COPY(INDEX)                                                                                                \
    DEFINE_LOOK_UP(INDEX, 1)                                                                                          \
    DEFINE_LOOK_UP(INDEX, 2)                                                                                          \
    DEFINE_LOOK_UP(INDEX, 3)                                                                                          \
    DEFINE_LOOK_UP(INDEX, 4)                                                                                          \
    LookUp_##INDEX *const wide_look_ups_##INDEX[] = {wide_look_up_0_##INDEX, wide_look_up_1_##INDEX,                  \
                                                     wide_look_up_2_##INDEX, wide_look_up_3_##INDEX,                  \
                                                     wide_look_up_4_##INDEX};

DEFINE_LOOK_UPS(int64_t)
DEFINE_LOOK_UPS(int32_t)
