/* An embedding service's rows and the sums of its bags, as `embedding_shard/shard.py`. Knows nothing of Triton. */
#ifndef ELASTICREC_SHARD_H
#define ELASTICREC_SHARD_H

#include "../kernels/kernels.h"
#include "files.h"

typedef struct {
    int64_t rows, dim;
    RowDtype dtype;
    const char *stored; /* (rows, bytes of a row) */
} Matrix;

/* Bags of rows of one matrix, or such rows as they are. */
typedef struct {
    int64_t matrix;
    int64_t bags;    /* of a query's row; 0: rows as they are */
    int64_t columns; /* ids that a query's row can have here; -1: any number */
    int64_t weighted;
} ShardUnit;

typedef struct {
    int64_t group;       /* its number in the model, which its tensors' names end with */
    int64_t max_rows;    /* of a query */
    int64_t first, end;  /* units */
    int64_t bags, width; /* of a query's row: lengths, and numbers that come out; 0 where no unit has bags */
    int64_t weighted, unpooled; /* units; the latter's rows are answered as they are */
    int64_t most_ids;
} ShardGroup;

typedef struct {
    Matrix *matrices;
    ShardUnit *units;
    ShardGroup *groups;
    int64_t matrix_count, unit_count, group_count;
    Mapping weights;
} Shard;

/* Open `shard.json` and `weights.bin`; NULL and the problem where they do not fit each other. */
Shard *shard_open(const char *folder, Problem *problem);
void shard_close(Shard *shard);

/* A query of a group: its units' ids, lengths and weights, one unit's after the other's. A unit of rows as they are has
 * one length: how many. */
typedef struct {
    const UnalignedInt32 *ids, *lengths;
    const UnalignedFloat *weights; /* one an id of the weighted units */
    int64_t id_count, length_count, weight_count;
} Bags;

/* Whether the lengths, one a bag, can be a query's and make up its ids and weights; asked before room is made for the
 * answer, which has so many rows of sums, and so many numbers of rows as they are. */
bool shard_check(const Shard *shard, const ShardGroup *group, const Bags *bags, int64_t *rows, int64_t *numbers,
                 Problem *problem);

/* Write the sums (rows, width), a row's units side by side, and the rows as they are, a unit's after the other's. The
 * problem names the first bad id, or the lengths that do not fit. */
bool shard_answer(const Shard *shard, const ShardGroup *group, const Bags *bags, float *sums, float *rows,
                  Problem *problem);

#endif
