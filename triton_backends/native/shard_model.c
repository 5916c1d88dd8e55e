/* For each group that it holds look-ups of: `ids` (1, nnz), `lengths` (1, rows * bags) and, where some are weighted,
 * `weights` (1, nnz of those) -> `sums` (rows, width): a query's partial sums over the rows held here. Of a later group the
 * names have its suffix. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answers.h"
#include "shard.h"

void *model_open(const char *folder, Problem *problem) {
    return shard_open(folder, problem);
}

void model_close(void *model) {
    shard_close(model);
}

enum { IDS, BAG_LENGTHS, WEIGHTS, KINDS };

/* Sum into the response's own memory, or beside it where that is not aligned. */
static bool put_sums(const Shard *shard, const ShardGroup *group, const Bags *bags, const char *name,
                     TRITONBACKEND_Response *response, Problem *problem) {
    const int64_t rows = bags->length_count / group->bags;
    void *output;
    if (!add_output(response, name, TRITON_TYPE_FP32, rows, group->width, &output, problem)) return false;
    if ((uintptr_t)output % sizeof(float) == 0) return shard_sums(shard, group, bags, output, problem);
    const size_t size = sizeof(float) * (size_t)(rows * group->width);
    float *sums = malloc(size + 1);
    if (sums == NULL) return fail(problem, "%s: out of memory", name);
    const bool good = shard_sums(shard, group, bags, sums, problem);
    if (good) memcpy(output, sums, size);
    free(sums);
    return good;
}

static bool open_tensors(TRITONBACKEND_Request *request, const ShardGroup *group, const char *suffix,
                         Tensor tensors[KINDS], Problem *problem) {
    static const char *const names[KINDS] = {"ids", "lengths", "weights"};
    static const int types[KINDS] = {TRITON_TYPE_INT32, TRITON_TYPE_INT32, TRITON_TYPE_FP32};
    for (int kind = 0; kind < (group->weighted ? KINDS : WEIGHTS); kind++) {
        char name[32];
        snprintf(name, sizeof name, "%s%s", names[kind], suffix);
        if (!tensor_open(request, name, tensors + kind, problem)) return false;
        if (tensors[kind].type != types[kind])
            return fail(problem, "%s: expected %s, got %s", name, type_name(types[kind]),
                        type_name(tensors[kind].type));
        if (tensors[kind].dims != 2)
            return fail(problem, "%s: expected 2 dimensions, got %lld", name, (long long)tensors[kind].dims);
    }
    return true;
}

static bool answer(const Shard *shard, const ShardGroup *group, TRITONBACKEND_Request *request,
                   TRITONBACKEND_Response *response, Problem *problem) {
    Tensor tensors[KINDS] = {{0}};
    char suffix[SUFFIX_BYTES], name[32];
    group_suffix(group->group, suffix);
    snprintf(name, sizeof name, "sums%s", suffix);
    bool good = open_tensors(request, group, suffix, tensors, problem);
    if (good) {
        const Bags bags = {tensors[IDS].data,          tensors[BAG_LENGTHS].data,  tensors[WEIGHTS].data,
                           tensors[IDS].count,         tensors[BAG_LENGTHS].count, tensors[WEIGHTS].count};
        good = shard_check_size(group, &bags, problem) && put_sums(shard, group, &bags, name, response, problem);
    }
    for (int kind = 0; kind < KINDS; kind++) tensor_close(tensors + kind);
    return good;
}

bool model_answer(const void *model, TRITONBACKEND_Request *request, TRITONBACKEND_Response *response,
                  Problem *problem) {
    const Shard *shard = model;
    for (int64_t g = 0; g < shard->group_count; g++)
        if (!answer(shard, shard->groups + g, request, response, problem)) return false;
    return true;
}
