/* Triton's inference messages for an embedding service, as gRPC carries them: only real ids travel, without padding. */
#ifndef ELASTICREC_MESSAGES_H
#define ELASTICREC_MESSAGES_H

#include "../native/files.h"

enum { PREFIX_BYTES = 5, HEAD_BYTES = 512, BETWEEN_BYTES = 16 };

/* A ModelInferRequest behind gRPC's prefix: `head`, the ids, `between`, the lengths. The numbers stay where they are. */
typedef struct {
    char head[HEAD_BYTES], between[BETWEEN_BYTES];
    const int32_t *ids, *lengths;
    size_t head_bytes, ids_bytes, between_bytes, lengths_bytes;
} Message;

/* model: at most NAME_BYTES, as all names here. */
void message_write(Message *message, const char *model, const char *version, const int32_t *ids, int64_t id_count,
                   const int32_t *lengths, int64_t length_count);
size_t message_bytes(const Message *message);

/* Copy `size` bytes from `offset` on; they must be there. */
void message_copy(const Message *message, size_t offset, size_t size, char *out);

/* What an answer's `sums` must be. */
typedef struct {
    int64_t rows, width;
    bool half; /* FP16 instead of FP32 */
} SumsShape;

size_t sums_bytes(const SumsShape *shape);

/* No answer that fits is longer than that: the numbers, names and shapes. */
size_t answer_limit(const SumsShape *shape);

/* Find the numbers in a ModelInferResponse of `size` bytes, unaligned; false and the problem where it does not fit. */
bool sums_find(const void *answer, size_t size, const SumsShape *shape, const void **sums, Problem *problem);

/* total[(r * tables + place[t]) * dim + d] += sums[r][t][d], for all rows r and the service's tables t.
 * total (rows, tables * dim) float32, may be unaligned. */
void sums_add(const void *sums, const SumsShape *shape, const int64_t *places, int64_t dim, int64_t tables,
              void *total);

#endif
