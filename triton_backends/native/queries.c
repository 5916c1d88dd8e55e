#include "queries.h"

static bool check_shapes(const Router *router, const Tensor *dense, const Tensor *indices, Problem *problem) {
    if (dense->type != TRITON_TYPE_FP32) return fail(problem, "dense: expected FP32");
    if (indices->type == TRITON_TYPE_FP32) return fail(problem, "indices: expected INT64 or INT32, got FP32");
    if (dense->rows != indices->rows)
        return fail(problem, "dense, indices: expected the same number of rows in each, got %lld and %lld",
                    (long long)dense->rows, (long long)indices->rows);
    if (dense->rows < 1 || dense->rows > MAX_BATCH_ROWS)
        return fail(problem, "dense, indices: expected 1 to %d rows, got %lld", MAX_BATCH_ROWS, (long long)dense->rows);
    return indices->columns == router->columns ||
           fail(problem, "indices: expected %lld columns, got %lld", (long long)router->columns,
                (long long)indices->columns);
}

bool query_open(const Router *router, TRITONBACKEND_Request *request, Tensor *indices, Problem *problem) {
    Tensor dense = {0};
    *indices = (Tensor){0};
    const bool good = tensor_open(request, "dense", &dense, problem) &&
                      tensor_open(request, "indices", indices, problem) &&
                      check_shapes(router, &dense, indices, problem) &&
                      router_check_dense(dense.data, dense.rows, dense.columns, problem);
    tensor_close(&dense);
    return good;
}

bool query_route(const Router *router, const Tensor *indices, Service *outputs, Problem *problem) {
    return router_route(router, indices->data, indices->type == TRITON_TYPE_INT64 ? 8 : 4, indices->rows, outputs,
                        problem);
}
