/* Sorting a query's ids to the services that hold their rows, as `router/routing.py` does. Knows nothing of Triton. */
#ifndef ELASTICREC_ROUTER_H
#define ELASTICREC_ROUTER_H

#include "../kernels/kernels.h"
#include "files.h"

typedef struct {
    char ids_name[NAME_BYTES + 16], lengths_name[NAME_BYTES + 16]; /* of its outputs */
    int64_t tables;   /* of which it holds a shard */
    int64_t capacity; /* ids of a query's row that can land here */
} RoutedService;

typedef struct {
    Table *tables;
    char (*table_names)[NAME_BYTES];
    int64_t *means;               /* 1 where a table's bags are averaged */
    int64_t mean_count;
    int64_t table_count, columns; /* columns: the sum of the tables' pooling */
    RoutedService *services;
    int64_t service_count;
    Mapping id_maps;
} Router;

/* Open `router.json` and `idmap.bin`, every number in them checked; NULL and the problem where one is wrong.
 * What passes may route wrongly, but never makes routing read or write out of bounds. */
Router *router_open(const char *folder, Problem *problem);
void router_close(Router *router);

/* Whether all numbers of dense (rows, features) are finite; the problem names the first that is not. */
bool router_check_dense(const float *dense, int64_t rows, int64_t features, Problem *problem);

/* elasticrec_route for indices (batch, columns) of `index_bytes` each; the problem names table, id, row and column.
 * outputs: one a service, in their order, with room for batch * capacity ids and batch * tables zeroed lengths. */
bool router_route(const Router *router, const void *indices, int64_t index_bytes, int64_t batch, Service *outputs,
                  Problem *problem);

/* What each bag's sum is to be divided by: divisors (batch, tables), the bag's ids where its table is averaged and it has
 * any, else 1. parts: as router_route leaves them; asked: the services whose ids count, NULL for all. */
void router_divide(const Router *router, const Service *parts, const bool *asked, int64_t batch, float *divisors);

#endif
