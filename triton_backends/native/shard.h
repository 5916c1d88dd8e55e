/* An embedding service's rows and the sums of its bags, as `embedding_shard/shard.py`. Knows nothing of Triton. */
#ifndef ELASTICREC_SHARD_H
#define ELASTICREC_SHARD_H

#include "files.h"

typedef struct {
    int64_t rows, dim;
    int64_t tables;         /* whose bags it sums for a query's row */
    int64_t columns;        /* of a query's row, whose ids may lie here: the sum of these tables' pooling */
    int64_t max_batch_rows; /* of a query */
    Mapping weights;           /* (rows, dim) float */
} Shard;

/* Open `shard.json` and `weights.bin`; NULL and the problem where they do not fit each other. */
Shard *shard_open(const char *folder, Problem *problem);
void shard_close(Shard *shard);

/* Whether so many lengths, one a bag, and ids can be a query's; asked before room is made for the sums. */
bool shard_check_size(const Shard *shard, int64_t count, int64_t bags, Problem *problem);

/* Write the bags' sums, (bags, dim). The problem names the first bad id, or the lengths that do not fit. */
bool shard_sums(const Shard *shard, const int32_t *ids, int64_t count, const int32_t *lengths, int64_t bags,
                float *sums, Problem *problem);

#endif
