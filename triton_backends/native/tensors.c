#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shell.h"

/* ---- errors and times ---- */

bool passed(TRITONSERVER_Error *error, Problem *problem) {
    if (error == NULL) return true;
    fail(problem, "%s", TRITONSERVER_ErrorMessage(error));
    TRITONSERVER_ErrorDelete(error);
    return false;
}

void log_error(TRITONSERVER_Error *error) {
    Problem problem;
    if (passed(error, &problem)) return;
    TRITONSERVER_Error *unlogged = TRITONSERVER_LogMessage(TRITON_LOG_ERROR, __FILE__, __LINE__, problem.text);
    if (unlogged != NULL) TRITONSERVER_ErrorDelete(unlogged);
}

void log_warning(const char *format, ...) {
    Problem text;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text.text, sizeof text.text, format, arguments);
    va_end(arguments);
    TRITONSERVER_Error *unlogged = TRITONSERVER_LogMessage(TRITON_LOG_WARN, __FILE__, __LINE__, text.text);
    if (unlogged != NULL) TRITONSERVER_ErrorDelete(unlogged);
}

uint64_t now_ns(void) {
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
        case TRITON_TYPE_BOOL: return 1;
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
    if (bytes < 4) return fail(problem, "%s: expected INT32, INT64 or FP32", name);
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
    const uint64_t size = number_bytes(type) * (uint64_t)(rows * columns);
    return passed(TRITONBACKEND_ResponseOutput(response, &output, name, type, shape, 2), problem) &&
           passed(TRITONBACKEND_OutputBuffer(output, data, size, &memory, &device), problem) &&
           (memory != TRITON_MEMORY_GPU || fail(problem, "%s: expected CPU memory, got GPU memory", name));
}
