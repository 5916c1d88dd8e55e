#include "shell.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- errors and times ---- */

/* Whether a call of Triton's went well; else what it says is the problem. */
static bool passed(TRITONSERVER_Error *error, Problem *problem) {
    if (error == NULL) return true;
    fail(problem, "%s", TRITONSERVER_ErrorMessage(error));
    TRITONSERVER_ErrorDelete(error);
    return false;
}

/* Where nobody is left to be told. */
static void log_error(TRITONSERVER_Error *error) {
    Problem problem;
    if (passed(error, &problem)) return;
    TRITONSERVER_Error *unlogged = TRITONSERVER_LogMessage(TRITON_LOG_ERROR, __FILE__, __LINE__, problem.text);
    if (unlogged != NULL) TRITONSERVER_ErrorDelete(unlogged);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* ---- tensors ---- */

static size_t number_bytes(int type) {
    switch (type) {
        case TRITON_TYPE_INT64: return 8;
        case TRITON_TYPE_INT32:
        case TRITON_TYPE_FP32: return 4;
        default: return 0;
    }
}

static bool input_buffer(TRITONBACKEND_Input *input, const char *name, uint32_t index, const void **data,
                         uint64_t *size, Problem *problem) {
    int memory = TRITON_MEMORY_CPU;
    int64_t device = 0;
    if (!passed(TRITONBACKEND_InputBuffer(input, index, data, size, &memory, &device), problem)) return false;
    return memory != TRITON_MEMORY_GPU || fail(problem, "%s: expected a tensor in CPU memory, got GPU memory", name);
}

/* Join an input's buffers, which must be `size` bytes in all. */
static bool join_buffers(TRITONBACKEND_Input *input, const char *name, uint32_t buffers, size_t size, Tensor *tensor,
                         Problem *problem) {
    tensor->copy = malloc(size + 1); /* never of 0 bytes, for which NULL may come back */
    if (tensor->copy == NULL) return fail(problem, "%s: out of memory", name);
    size_t filled = 0;
    for (uint32_t i = 0; i < buffers; i++) {
        const void *part;
        uint64_t part_size;
        if (!input_buffer(input, name, i, &part, &part_size, problem)) return false;
        if (part_size > size - filled) return fail(problem, "%s: expected %zu bytes, got more", name, size);
        if (part_size > 0) memcpy((char *)tensor->copy + filled, part, part_size);
        filled += part_size;
    }
    if (filled != size) return fail(problem, "%s: expected %zu bytes, got %zu", name, size, filled);
    tensor->data = tensor->copy;
    return true;
}

bool tensor_open(TRITONBACKEND_Request *request, const char *name, Tensor *tensor, Problem *problem) {
    TRITONBACKEND_Input *input;
    const int64_t *shape;
    uint32_t dims, buffers;
    uint64_t size;
    *tensor = (Tensor){0};
    if (!passed(TRITONBACKEND_RequestInput(request, name, &input), problem) ||
        !passed(TRITONBACKEND_InputProperties(input, NULL, &tensor->type, &shape, &dims, &size, &buffers), problem))
        return false;
    const size_t bytes = number_bytes(tensor->type);
    if (bytes == 0) return fail(problem, "%s: expected INT32, INT64 or FP32", name);
    if (dims != 2) return fail(problem, "%s: expected 2 dimensions, got %u", name, dims);
    tensor->rows = shape[0];
    tensor->columns = shape[1];
    size_t expected;
    if (shape[0] < 0 || shape[1] < 0 || __builtin_mul_overflow((size_t)shape[0], (size_t)shape[1], &expected) ||
        __builtin_mul_overflow(expected, bytes, &expected) || expected != size)
        return fail(problem, "%s: expected %zu bytes for each of %lld x %lld numbers, got %llu in all", name, bytes,
                    (long long)shape[0], (long long)shape[1], (unsigned long long)size);
    if (buffers == 1) {
        if (!input_buffer(input, name, 0, &tensor->data, &size, problem)) return false;
        if (size == expected && (uintptr_t)tensor->data % bytes == 0) return true;
    }
    return join_buffers(input, name, buffers, expected, tensor, problem);
}

void tensor_close(Tensor *tensor) {
    free(tensor->copy);
}

bool add_output(TRITONBACKEND_Response *response, const char *name, int type, int64_t rows, int64_t columns,
                void **data, Problem *problem) {
    const int64_t shape[] = {rows, columns};
    int memory = TRITON_MEMORY_CPU;
    int64_t device = 0;
    TRITONBACKEND_Output *output;
    return passed(TRITONBACKEND_ResponseOutput(response, &output, name, type, shape, 2), problem) &&
           passed(TRITONBACKEND_OutputBuffer(output, data, (uint64_t)(4 * rows * columns), &memory, &device),
                  problem) &&
           (memory != TRITON_MEMORY_GPU || fail(problem, "%s: expected CPU memory, got GPU memory", name));
}

/* ---- Triton's entry points ---- */

TRITONSERVER_Error *TRITONBACKEND_Initialize(TRITONBACKEND_Backend *backend) {
    (void)backend;
    uint32_t major, minor;
    TRITONSERVER_Error *error = TRITONBACKEND_ApiVersion(&major, &minor);
    if (error != NULL || major == TRITON_API_MAJOR) return error;
    Problem problem;
    fail(&problem, "elasticrec: expected version %d of Triton's backend API, this server has %u.%u", TRITON_API_MAJOR,
         major, minor);
    return TRITONSERVER_ErrorNew(TRITON_ERROR_UNSUPPORTED, problem.text);
}

TRITONSERVER_Error *TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model *model) {
    int artifact;
    const char *location;
    uint64_t version;
    Problem problem;
    TRITONSERVER_Error *error = TRITONBACKEND_ModelRepository(model, &artifact, &location);
    if (error == NULL) error = TRITONBACKEND_ModelVersion(model, &version);
    if (error != NULL) return error;
    const size_t room = strlen(location) + 32;
    char *folder = malloc(room);
    if (folder == NULL) return TRITONSERVER_ErrorNew(TRITON_ERROR_INTERNAL, "out of memory");
    snprintf(folder, room, "%s/%llu", location, (unsigned long long)version);
    void *state = model_open(folder, &problem);
    free(folder);
    if (state == NULL) return TRITONSERVER_ErrorNew(TRITON_ERROR_INVALID_ARG, problem.text);
    error = TRITONBACKEND_ModelSetState(model, state);
    if (error != NULL) model_close(state);
    return error;
}

TRITONSERVER_Error *TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model *model) {
    void *state = NULL;
    TRITONSERVER_Error *error = TRITONBACKEND_ModelState(model, &state);
    if (error == NULL && state != NULL) model_close(state);
    return error;
}

/* Answer one request, whatever comes of it; it is no longer ours afterwards. Returns whether it was a good one. */
static bool serve(TRITONBACKEND_ModelInstance *instance, const void *model, TRITONBACKEND_Request *request) {
    const uint64_t begin_ns = now_ns();
    Problem problem;
    TRITONBACKEND_Response *response = NULL;
    const bool answered = passed(TRITONBACKEND_ResponseNew(&response, request), &problem) &&
                          model_answer(model, request, response, &problem);
    const uint64_t end_ns = now_ns();
    TRITONSERVER_Error *error = answered ? NULL : TRITONSERVER_ErrorNew(TRITON_ERROR_INVALID_ARG, problem.text);
    if (response != NULL) log_error(TRITONBACKEND_ResponseSend(response, TRITON_RESPONSE_FINAL, error));
    if (error != NULL) TRITONSERVER_ErrorDelete(error);
    log_error(TRITONBACKEND_ModelInstanceReportStatistics(instance, request, answered, begin_ns, begin_ns, end_ns,
                                                          end_ns));
    log_error(TRITONBACKEND_RequestRelease(request, TRITON_RELEASE_ALL));
    return answered;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance *instance,
                                                       TRITONBACKEND_Request **requests, uint32_t request_count) {
    TRITONBACKEND_Model *model;
    void *state;
    TRITONSERVER_Error *error = TRITONBACKEND_ModelInstanceModel(instance, &model);
    if (error == NULL) error = TRITONBACKEND_ModelState(model, &state);
    if (error != NULL) return error; /* the requests are Triton's then */
    const uint64_t begin_ns = now_ns();
    uint32_t answered = 0;
    for (uint32_t i = 0; i < request_count; i++) answered += serve(instance, state, requests[i]);
    const uint64_t end_ns = now_ns();
    if (answered > 0)
        log_error(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, answered, begin_ns, begin_ns, end_ns,
                                                                   end_ns));
    return NULL;
}
