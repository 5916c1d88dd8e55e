/* The hot loops of serving: routing ids to shards (route.c), and summing the rows of bags (bags.c). */
#ifndef ELASTICREC_KERNELS_H
#define ELASTICREC_KERNELS_H

#include <stdint.h>

enum { MAX_SHARDS = 16, PADDING = -1 };

typedef struct {
    const uint64_t *map;           /* the table's blocks; unused where bits is 0 (one shard: the row is the id) */
    int64_t rows;
    int64_t pooling;
    int64_t bits;
    int64_t base[MAX_SHARDS];      /* where the shard's rows of this table begin in its service's matrix */
    int64_t service[MAX_SHARDS];   /* the service that holds the shard */
    int64_t place[MAX_SHARDS];     /* the table's place among its service's tables: its bag in `lengths` */
} Table;

typedef struct {
    int32_t *ids;      /* room for every id of the query */
    int32_t *lengths;  /* (batch, tables) */
    int64_t tables;
    int64_t count;     /* out: ids written */
} Service;

int64_t elasticrec_route(const Table *tables, int64_t table_count, const void *indices, int64_t index_bytes,
                         int64_t batch, Service *services);
int64_t elasticrec_check_bags(int64_t rows, const int32_t *ids, int64_t count, const int32_t *lengths, int64_t bags);
int64_t elasticrec_sum_bags(const float *weights, int64_t rows, int64_t dim, const int32_t *ids, int64_t count,
                            const int32_t *lengths, int64_t bags, float *out);

#endif
