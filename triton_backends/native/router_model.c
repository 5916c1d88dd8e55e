/* `dense` (B, features), `indices` (B, columns) -> for each embedding service NAME: `NAME_ids` (1, nnz) and
 * `NAME_lengths` (1, B * T), T the tables of which it holds a shard; and `divisors` (B, tables) where some are averaged. */
#include <stdlib.h>
#include <string.h>

#include "answers.h"
#include "queries.h"

void *model_open(const char *folder, Problem *problem) {
    return router_open(folder, problem);
}

void model_close(void *model) {
    router_close(model);
}

static bool put_output(TRITONBACKEND_Response *response, const char *name, const int32_t *numbers, int64_t count,
                       Problem *problem) {
    void *data;
    if (!add_output(response, name, TRITON_TYPE_INT32, 1, count, &data, problem)) return false;
    if (count > 0) memcpy(data, numbers, 4 * (size_t)count);
    return true;
}

static bool put_divisors(const Router *router, const Service *parts, int64_t batch, TRITONBACKEND_Response *response,
                         Problem *problem) {
    void *data;
    if (router->mean_count == 0) return true;
    const size_t size = sizeof(float) * (size_t)(batch * router->table_count);
    float *divisors = malloc(size); /* an output's buffer need not be aligned */
    if (divisors == NULL) return fail(problem, "divisors: out of memory for %lld rows", (long long)batch);
    router_divide(router, parts, NULL, batch, divisors);
    const bool good = add_output(response, "divisors", TRITON_TYPE_FP32, batch, router->table_count, &data, problem);
    if (good) memcpy(data, divisors, size);
    free(divisors);
    return good;
}

/* Route into scratch memory, since outputs must be asked for in their exact size. */
static bool route(const Router *router, const Tensor *indices, TRITONBACKEND_Response *response, Service *outputs,
                  Problem *problem) {
    const int64_t batch = indices->rows;
    int64_t numbers = 0, lengths = 0;
    for (int64_t k = 0; k < router->service_count; k++) {
        lengths += batch * router->services[k].tables;
        numbers += batch * router->services[k].capacity;
    }
    int32_t *scratch = malloc(4 * (size_t)(lengths + numbers));
    if (scratch == NULL) return fail(problem, "indices: out of memory for %lld rows", (long long)batch);
    memset(scratch, 0, 4 * (size_t)lengths);
    int32_t *next_lengths = scratch, *next_ids = scratch + lengths;
    for (int64_t k = 0; k < router->service_count; k++) {
        const RoutedService *service = router->services + k;
        outputs[k] = (Service){next_ids, next_lengths, service->tables, 0};
        next_lengths += batch * service->tables;
        next_ids += batch * service->capacity;
    }
    bool good = query_route(router, indices, outputs, problem);
    for (int64_t k = 0; good && k < router->service_count; k++) {
        const RoutedService *service = router->services + k;
        good = put_output(response, service->ids_name, outputs[k].ids, outputs[k].count, problem) &&
               put_output(response, service->lengths_name, outputs[k].lengths, batch * service->tables, problem);
    }
    good = good && put_divisors(router, outputs, batch, response, problem);
    free(scratch);
    return good;
}

bool model_answer(const void *model, TRITONBACKEND_Request *request, TRITONBACKEND_Response *response,
                  Problem *problem) {
    const Router *router = model;
    Tensor indices = {0};
    Service *outputs = malloc((size_t)router->service_count * sizeof *outputs);
    const bool good = (outputs != NULL || fail(problem, "out of memory")) &&
                      query_open(router, request, &indices, problem) &&
                      route(router, &indices, response, outputs, problem);
    free(outputs);
    tensor_close(&indices);
    return good;
}
