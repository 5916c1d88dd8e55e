/* Triton's inference messages for an embedding service, as gRPC carries them: only real ids travel, without padding. */
#ifndef ELASTICREC_MESSAGES_H
#define ELASTICREC_MESSAGES_H

#include "../native/files.h"
#include "../wire/message.h"

/* A request's tensor (1, n) of numbers of 4 bytes: those of its pieces, one after another. */
typedef struct {
    char name[TENSOR_NAME_BYTES];
    const char *datatype;
    const Piece *pieces;
    int64_t piece_count;
} RequestTensor;

/* Write a ModelInferRequest. model, version: at most NAME_BYTES, as all names here. To be closed whatever comes of it; false where memory is out. */
bool message_write(Message *message, const char *model, const char *version, const RequestTensor *tensors,
                   int64_t tensor_count);

/* What one of an answer's tensors must be. */
typedef struct {
    char name[TENSOR_NAME_BYTES];
    int64_t rows, width;
    bool half; /* FP16 instead of FP32 */
} AnswerShape;

size_t sums_bytes(const AnswerShape *shape);

/* No answer that fits is longer than that: the numbers, names and shapes. */
size_t answer_limit(const AnswerShape *shapes, int64_t count);

/* Find the numbers of all these tensors in a ModelInferResponse of `size` bytes, unaligned; false and the problem where it
 * does not fit. */
bool sums_find(const void *answer, size_t size, const AnswerShape *shapes, int64_t count, const void **sums,
               Problem *problem);

/* Numbers of an answer, as float32; both may be unaligned. */
void numbers_copy(const void *from, bool half, int64_t count, void *to);

/* Likewise, added to float32 numbers. */
void numbers_add(const void *from, bool half, int64_t count, void *to);

/* Columns of a service's sums that are added at columns of the joined ones. */
typedef struct {
    int64_t from, to, columns;
} Run;

/* total[r][to + c] += sums[r][from + c], for all rows r and all runs of columns.
 * total (rows, width) float32, may be unaligned. */
void sums_add(const void *sums, const AnswerShape *shape, const Run *runs, int64_t run_count, int64_t width, void *total);

#endif
