/* For each group that it holds look-ups of: `ids` (1, nnz), `lengths` (1, rows * bags) and, where some are weighted,
 * `weights` (1, nnz of those) -> `sums` (rows, width): a query's partial sums over the rows held here; and of units without
 * bags, whose one length says how many ids they have, `rows` (1, numbers): each id's. Of a later group the names have its
 * suffix. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../listener/listener.h"
#include "answers.h"
#include "shard.h"

typedef struct {
    Shard *shard;
    Listener *listener; /* NULL: Triton's own front ends take its calls */
} Service;

void *model_open(TRITONBACKEND_Model *triton_model, const char *folder, Problem *problem) {
    Service *service = calloc(1, sizeof *service);
    if (service == NULL) return fail(problem, "out of memory"), NULL;
    service->shard = shard_open(folder, problem);
    if (service->shard != NULL && listener_open(triton_model, &service->listener, problem)) return service;
    if (service->shard != NULL) shard_close(service->shard);
    free(service);
    return NULL;
}

void model_close(void *model) {
    Service *service = model;
    listener_close(service->listener);
    shard_close(service->shard);
    free(service);
}

static TRITONSERVER_Error *count_instance(TRITONBACKEND_ModelInstance *instance, int change) {
    TRITONBACKEND_Model *triton_model;
    void *service;
    TRITONSERVER_Error *error = TRITONBACKEND_ModelInstanceModel(instance, &triton_model);
    if (error == NULL) error = TRITONBACKEND_ModelState(triton_model, &service);
    if (error == NULL) listener_instances(((Service *)service)->listener, change);
    return error;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance *instance) {
    return count_instance(instance, 1);
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance *instance) {
    return count_instance(instance, -1);
}

enum { IDS, BAG_LENGTHS, WEIGHTS, KINDS };

/* An output, written into the response's own memory, or beside it where that is not aligned. */
typedef struct {
    void *output;
    float *numbers;
    size_t size;
} Answer;

static bool open_answer(TRITONBACKEND_Response *response, const char *name, int64_t group, int64_t rows,
                        int64_t columns, Answer *answer, Problem *problem) {
    char text[TENSOR_NAME_BYTES];
    tensor_name(text, name, group);
    *answer = (Answer){.size = sizeof(float) * (size_t)(rows * columns)};
    if (!add_output(response, text, TRITON_TYPE_FP32, rows, columns, &answer->output, problem)) return false;
    answer->numbers = (uintptr_t)answer->output % sizeof(float) == 0 ? answer->output : malloc(answer->size + 1);
    return answer->numbers != NULL || answer->size == 0 || fail(problem, "%s: out of memory", text);
}

static void close_answer(Answer *answer, bool good) {
    if (answer->numbers == NULL || answer->numbers == answer->output) return;
    if (good && answer->size > 0) memcpy(answer->output, answer->numbers, answer->size);
    free(answer->numbers);
}

static bool put_answers(const Shard *shard, const ShardGroup *group, const Bags *bags, TRITONBACKEND_Response *response,
                        Problem *problem) {
    int64_t rows, numbers;
    Answer sums = {0}, unpooled = {0};
    const int64_t number = group->group;
    const bool good = shard_check(shard, group, bags, &rows, &numbers, problem) &&
                      (group->bags == 0 || open_answer(response, "sums", number, rows, group->width, &sums, problem)) &&
                      (group->unpooled == 0 || open_answer(response, "rows", number, 1, numbers, &unpooled, problem)) &&
                      shard_answer(shard, group, bags, sums.numbers, unpooled.numbers, problem);
    close_answer(&sums, good);
    close_answer(&unpooled, good);
    return good;
}

static bool open_tensors(TRITONBACKEND_Request *request, const ShardGroup *group, Tensor tensors[KINDS],
                         Problem *problem) {
    static const char *const names[KINDS] = {"ids", "lengths", "weights"};
    static const int types[KINDS] = {TRITON_TYPE_INT32, TRITON_TYPE_INT32, TRITON_TYPE_FP32};
    for (int kind = 0; kind < (group->weighted ? KINDS : WEIGHTS); kind++) {
        char name[TENSOR_NAME_BYTES];
        tensor_name(name, names[kind], group->group);
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
    bool good = open_tensors(request, group, tensors, problem);
    if (good) {
        const Bags bags = {tensors[IDS].data,          tensors[BAG_LENGTHS].data,  tensors[WEIGHTS].data,
                           tensors[IDS].count,         tensors[BAG_LENGTHS].count, tensors[WEIGHTS].count};
        good = put_answers(shard, group, &bags, response, problem);
    }
    for (int kind = 0; kind < KINDS; kind++) tensor_close(tensors + kind);
    return good;
}

bool model_answer(const void *model, TRITONBACKEND_Request *request, TRITONBACKEND_Response *response,
                  Problem *problem) {
    const Shard *shard = ((const Service *)model)->shard;
    for (int64_t g = 0; g < shard->group_count; g++)
        if (!answer(shard, shard->groups + g, request, response, problem)) return false;
    return true;
}
