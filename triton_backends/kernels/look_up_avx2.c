/* Looking up ids eight at a time, with AVX2: as look_up_wide.c, in half the lanes and without its compressing stores. */
#include "id_map.h"

#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2,popcnt")))
#define INLINE AVX2 static inline __attribute__((always_inline))
#define EACH _Pragma("clang loop unroll(full)") for

enum { LANES = 4, EIGHT = 2 * LANES, MOST_COLUMNS = 8 };

/* Half a block of each of four: rows become columns. */
INLINE void transpose(const uint64_t *const blocks[LANES], int from, __m256i *columns) {
    __m256i rows[LANES], pairs[LANES];
    EACH (int i = 0; i < LANES; i++) rows[i] = _mm256_loadu_si256((const __m256i *)(blocks[i] + from));
    EACH (int i = 0; i < LANES; i += 2) {
        pairs[i] = _mm256_unpacklo_epi64(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_epi64(rows[i], rows[i + 1]);
    }
    EACH (int i = 0; i < 2; i++) {
        columns[i] = _mm256_permute2x128_si256(pairs[i], pairs[i + 2], 0x20);
        columns[i + 2] = _mm256_permute2x128_si256(pairs[i], pairs[i + 2], 0x31);
    }
}

/* x / divisor for x < 2^25, as in look_up_wide.c. */
INLINE __m256i divided(__m256i x, int64_t divisor) {
    return _mm256_srli_epi64(_mm256_mul_epu32(x, _mm256_set1_epi64x((1LL << 32) / divisor + 1)), 32);
}

/* Lane i of the result is lane i of words[choice's lane i]; is: of each word but the first, where it is chosen. */
INLINE __m256i chosen(const __m256i *words, int count, const __m256i *is) {
    __m256i found = words[0];
    EACH (int w = 1; w < count; w++) found = _mm256_blendv_epi8(found, words[w], is[w]);
    return found;
}

INLINE void compare(__m256i choice, int count, __m256i *is) {
    EACH (int w = 0; w < count; w++) is[w] = _mm256_cmpeq_epi64(choice, _mm256_set1_epi64x(w));
}

/* How many bits each byte has set. */
INLINE __m256i bits_of_bytes(__m256i x) {
    const __m256i counts = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m256i low = _mm256_set1_epi8(15);
    return _mm256_add_epi8(_mm256_shuffle_epi8(counts, _mm256_and_si256(x, low)),
                           _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(x, 4), low)));
}

/* The counters of four ids' shards: of their blocks, and of the groups that these are in. */
INLINE __m256i rows_before(const uint64_t *map, int bits, const __m256i *counters, __m256i block, __m256i shard) {
    const int in_word = IS_GROUPED(bits) ? 2 : 1; /* bits that number a word's counters */
    __m256i is[MOST_COLUMNS];
    compare(_mm256_srli_epi64(shard, in_word), COUNTER_WORDS(bits), is);
    const __m256i word = chosen(counters, COUNTER_WORDS(bits), is);
    const __m256i place = _mm256_and_si256(shard, _mm256_set1_epi64x((1 << in_word) - 1));
    if (!IS_GROUPED(bits)) return _mm256_srlv_epi64(word, _mm256_slli_epi64(place, 5));
    const __m256i in_group = _mm256_srlv_epi64(word, _mm256_slli_epi64(place, 4));
    uint64_t blocks[LANES], shards[LANES], before[LANES];
    _mm256_storeu_si256((__m256i *)blocks, block);
    _mm256_storeu_si256((__m256i *)shards, shard);
    EACH (int i = 0; i < LANES; i++) before[i] = ((const uint32_t *)(map + group_at(blocks[i])))[shards[i]];
    return _mm256_add_epi64(_mm256_and_si256(in_group, _mm256_set1_epi64x(0xffff)),
                            _mm256_loadu_si256((const __m256i *)before));
}

/* The shards and local rows of four ids, a lane an id; of the latter the low halves count. */
INLINE void look_up_four(const uint64_t *map, int bits, __m256i id, __m256i *shard, __m256i *local) {
    const __m256i all = _mm256_set1_epi64x(-1), one = _mm256_set1_epi64x(1), zero = _mm256_setzero_si256();
    const int counters = COUNTER_WORDS(bits), words = PLANE_WORDS[bits];
    const __m256i number = _mm256_srli_epi64(id, 6), block = divided(number, words);
    const __m256i word = _mm256_sub_epi64(number, _mm256_mul_epu32(block, _mm256_set1_epi64x(words)));
    const __m256i bit = _mm256_and_si256(id, _mm256_set1_epi64x(63));
    uint64_t numbers[LANES];
    const uint64_t *blocks[LANES];
    __m256i column[MOST_COLUMNS], is[MOST_COLUMNS], flips[MAX_BITS];
    _mm256_storeu_si256((__m256i *)numbers, block);
    EACH (int i = 0; i < LANES; i++) blocks[i] = map + block_at(bits, numbers[i]);
    transpose(blocks, 0, column);
    transpose(blocks, LANES, column + LANES);
    compare(word, words, is);
    *shard = zero;
    EACH (int p = 0; p < bits; p++) {
        __m256i own = chosen(column + counters + p * words, words, is);
        own = _mm256_and_si256(_mm256_srlv_epi64(own, bit), one);
        *shard = _mm256_or_si256(*shard, _mm256_slli_epi64(own, p));
        flips[p] = _mm256_sub_epi64(own, one);
    }
    const __m256i below = _mm256_xor_si256(_mm256_sllv_epi64(all, bit), all);
    __m256i count = zero, earlier = all; /* earlier: where the word comes before the id's */
    EACH (int w = 0; w < words; w++) {
        earlier = _mm256_andnot_si256(is[w], earlier);
        __m256i same = _mm256_or_si256(earlier, _mm256_and_si256(is[w], below));
        EACH (int p = 0; p < bits; p++)
            same = _mm256_and_si256(same, _mm256_xor_si256(column[counters + p * words + w], flips[p]));
        count = _mm256_add_epi8(count, bits_of_bytes(same));
    }
    *local = _mm256_add_epi64(rows_before(map, bits, column, block, *shard), _mm256_sad_epu8(count, zero));
}

/* The lanes' low halves, in order. */
INLINE __m256i joined(__m256i low, __m256i high) {
    const __m256 mixed = _mm256_shuffle_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high), 0x88);
    return _mm256_permute4x64_epi64(_mm256_castps_si256(mixed), 0xd8);
}

INLINE __m256i load_int64_t(const int64_t *ids) {
    return _mm256_loadu_si256((const __m256i *)ids);
}

INLINE __m256i load_int32_t(const int32_t *ids) {
    return _mm256_cvtepi32_epi64(_mm_loadu_si128((const __m128i *)ids));
}

/* Which of four are no ids: negative. */
INLINE int missing(__m256i ids) {
    return _mm256_movemask_pd(_mm256_castsi256_pd(ids));
}

/* Of each choice among eight lanes the chosen lanes' numbers, a byte each, one after another. */
static uint64_t packings[1 << EIGHT];

__attribute__((constructor)) static void find_packings(void) {
    for (int choice = 0; choice < 1 << EIGHT; choice++)
        for (int lane = 0, next = 0; lane < EIGHT; lane++)
            if (choice >> lane & 1) packings[choice] |= (uint64_t)lane << 8 * next++;
}

INLINE __m256i packed(__m256i numbers, int choice) {
    const __m128i lanes = _mm_loadl_epi64((const __m128i *)(packings + choice));
    return _mm256_permutevar8x32_epi32(numbers, _mm256_cvtepu8_epi32(lanes));
}

#define DEFINE_LOOK_UP(INDEX, BITS)                                                                                   \
    AVX2 static void avx2_look_up_##BITS##_##INDEX(const Lookup *lookup, const INDEX *bag, int64_t size, Unit *units, \
                                                   int64_t row, int64_t nth) {                                        \
        int64_t counts[1 << BITS] = {0};                                                                              \
        for (int64_t start = 0; start < size; start += EIGHT) {                                                       \
            const int64_t left = size - start;                                                                        \
            const INDEX *from = bag + start;                                                                          \
            INDEX last[EIGHT] = {PADDING, PADDING, PADDING, PADDING, PADDING, PADDING, PADDING, PADDING};             \
            if (left < EIGHT) from = memcpy(last, from, (size_t)left * sizeof *last);                                 \
            __m256i ids[2], shards[2], locals[2];                                                                     \
            EACH (int half = 0; half < 2; half++) {                                                                   \
                ids[half] = load_##INDEX(from + LANES * half);                                                        \
                const __m256i none = _mm256_cmpgt_epi64(_mm256_setzero_si256(), ids[half]);                           \
                look_up_four(lookup->map, BITS, _mm256_andnot_si256(none, ids[half]), shards + half, locals + half);  \
            }                                                                                                         \
            const __m256i shard = joined(shards[0], shards[1]), local = joined(locals[0], locals[1]);                 \
            const int real = ~(missing(ids[0]) | missing(ids[1]) << LANES);                                           \
            for (int s = 0; s < 1 << BITS; s++) {                                                                     \
                const __m256i own = _mm256_cmpeq_epi32(shard, _mm256_set1_epi32(s));                                  \
                const int mine = real & _mm256_movemask_ps(_mm256_castsi256_ps(own));                                 \
                const __m256i rows = _mm256_add_epi32(local, _mm256_set1_epi32((int)lookup->base[s]));                \
                Unit *unit = units + lookup->unit[s];                                                                 \
                _mm256_storeu_si256((__m256i *)(unit->ids + unit->count), packed(rows, mine));                        \
                const int count = __builtin_popcount((unsigned)mine);                                                 \
                unit->count += count;                                                                                 \
                counts[s] += count;                                                                                   \
            }                                                                                                         \
        }                                                                                                             \
        for (int s = 0; s < 1 << BITS; s++) {                                                                         \
            const Unit *unit = units + lookup->unit[s];                                                               \
            unit->lengths[row * unit->bags + lookup->first_bag[s] + nth] += (int32_t)counts[s];                       \
        }                                                                                                             \
    }

/* Of a table in one shard, or in more than eight, ids are looked up one by one as fast. */
#define DEFINE_LOOK_UPS(INDEX)                                                                                        \
    DEFINE_LOOK_UP(INDEX, 1)                                                                                          \
    DEFINE_LOOK_UP(INDEX, 2)                                                                                          \
    DEFINE_LOOK_UP(INDEX, 3)                                                                                          \
    LookUp_##INDEX *const avx2_look_ups_##INDEX[] = {NULL, avx2_look_up_1_##INDEX, avx2_look_up_2_##INDEX,            \
                                                     avx2_look_up_3_##INDEX, NULL};

DEFINE_LOOK_UPS(int64_t)
DEFINE_LOOK_UPS(int32_t)
