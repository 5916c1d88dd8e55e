/* `ids` (1, nnz), `lengths` (1, B * T) -> `sums` (B, T * dim): a query's partial sums over the rows held here. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "shard.h"
#include "answers.h"

void *model_open(const char *folder, Problem *problem) {
    return shard_open(folder, problem);
}

void model_close(void *model) {
    shard_close(model);
}

/* Sum into the response's own memory, or beside it where that is not aligned. */
static bool put_sums(const Shard *shard, const Tensor *ids, const Tensor *lengths, TRITONBACKEND_Response *response,
                     Problem *problem) {
    const int64_t count = ids->rows * ids->columns, bags = lengths->rows * lengths->columns;
    void *output;
    if (!shard_check_size(shard, count, bags, problem) ||
        !add_output(response, "sums", TRITON_TYPE_FP32, bags / shard->tables, shard->tables * shard->dim, &output,
                    problem))
        return false;
    if ((uintptr_t)output % sizeof(float) == 0)
        return shard_sums(shard, ids->data, count, lengths->data, bags, output, problem);
    const size_t size = sizeof(float) * (size_t)(bags * shard->dim);
    float *sums = malloc(size);
    if (sums == NULL) return fail(problem, "sums: out of memory");
    const bool good = shard_sums(shard, ids->data, count, lengths->data, bags, sums, problem);
    if (good) memcpy(output, sums, size);
    free(sums);
    return good;
}

bool model_answer(const void *model, TRITONBACKEND_Request *request, TRITONBACKEND_Response *response,
                  Problem *problem) {
    Tensor ids = {0}, lengths = {0};
    bool good = tensor_open(request, "ids", &ids, problem) && tensor_open(request, "lengths", &lengths, problem);
    if (good && (ids.type != TRITON_TYPE_INT32 || lengths.type != TRITON_TYPE_INT32))
        good = fail(problem, "ids, lengths: expected INT32");
    good = good && put_sums(model, &ids, &lengths, response, problem);
    tensor_close(&lengths);
    tensor_close(&ids);
    return good;
}
