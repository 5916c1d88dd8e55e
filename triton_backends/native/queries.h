/* A query as clients send it: the tensors that look-ups name, checked, and what they hold for each look-up. */
#ifndef ELASTICREC_QUERIES_H
#define ELASTICREC_QUERIES_H

#include "router.h"
#include "shell.h"

enum { MAX_BATCH_ROWS = 4096, MAX_GROUP_ROWS = 1 << 20 }; /* of the first group, and of others: as in the shards */

typedef struct {
    Tensor *tensors; /* as the router's inputs */
    Reading reading;
} QueryInputs;

/* Open a request's inputs and check all but what router_route checks; to be closed whatever comes of it. */
bool query_open(const Router *router, TRITONBACKEND_Request *request, QueryInputs *inputs, Problem *problem);
void query_close(const Router *router, QueryInputs *inputs);

/* Room for what so many ids and rows give: the units, their ids (and weights) and zeroed lengths; one `free` frees all.
 * room: ids of each unit; rows: of each group. A unit of rows as they are has one length. */
bool units_open(const Router *router, const int64_t *room, const int64_t *rows, Unit **units, Problem *problem);

/* Room for so many ids of un-pooled look-ups; to be closed whatever comes of it. */
bool rows_open(const Router *router, int64_t ids, RowSet *set, Problem *problem);
void rows_close(RowSet *set);

/* Answer with what the group's sums are divided by, where some of its look-ups are averaged: router_divide. */
bool put_divisors(const Router *router, int64_t group, const Unit *units, const bool *asked, int64_t rows,
                  TRITONBACKEND_Response *response, Problem *problem);

#endif
