/* A query as clients send it, `dense` (B, features) and `indices` (B, columns): checked, and sorted to services. */
#ifndef ELASTICREC_QUERIES_H
#define ELASTICREC_QUERIES_H

#include "router.h"
#include "shell.h"

enum { MAX_BATCH_ROWS = 4096 }; /* configs.py has the same limit */

/* Check a request's two inputs, all but the ids, and open `indices`, which is to be closed whatever comes of it. */
bool query_open(const Router *router, TRITONBACKEND_Request *request, Tensor *indices, Problem *problem);

/* router_route for these indices. */
bool query_route(const Router *router, const Tensor *indices, Service *outputs, Problem *problem);

#endif
