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

static const struct {
    const char *name;
    size_t bytes;
} types[TRITON_TYPES] = {{"no type", 0}, {"BOOL", 1},  {"UINT8", 1}, {"UINT16", 2}, {"UINT32", 4},
                         {"UINT64", 8},  {"INT8", 1},  {"INT16", 2}, {"INT32", 4},  {"INT64", 8},
                         {"FP16", 2},    {"FP32", 4},  {"FP64", 8},  {"BYTES", 0},  {"BF16", 2}};

const char *type_name(int type) {
    return types[type >= 0 && type < TRITON_TYPES ? type : 0].name;
}

size_t number_bytes(int type) {
    return types[type >= 0 && type < TRITON_TYPES ? type : 0].bytes;
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

/* A shape, as `4 x 5`; cut where it is too long. */
static void describe(const int64_t *shape, uint32_t dims, char *text, size_t room) {
    size_t length = 0;
    snprintf(text, room, "one");
    for (uint32_t i = 0; i < dims && length < room; i++)
        length += (size_t)snprintf(text + length, room - length, "%s%lld", i > 0 ? " x " : "", (long long)shape[i]);
}

/* Take the shape, whose numbers must make up `size` bytes. */
static bool take_shape(Tensor *tensor, const char *name, const int64_t *shape, uint32_t dims, uint64_t size,
                       Problem *problem) {
    uint64_t count = 1, bytes = 0;
    bool good = true;
    if (dims > MOST_DIMS) return fail(problem, "%s: expected at most %d dimensions, got %u", name, MOST_DIMS, dims);
    for (uint32_t i = 0; i < dims; i++) {
        good = good && shape[i] >= 0 && !__builtin_mul_overflow(count, (uint64_t)shape[i], &count);
        tensor->shape[i] = shape[i];
    }
    good = good && !__builtin_mul_overflow(count, (uint64_t)tensor->bytes, &bytes) && bytes == size;
    tensor->dims = dims;
    tensor->count = (int64_t)count;
    if (good) return true;
    char text[100];
    describe(shape, dims, text, sizeof text);
    return fail(problem, "%s: expected %lld bytes for each of %s numbers, got %llu in all", name,
                (long long)tensor->bytes, text, (unsigned long long)size);
}

bool tensor_open(TRITONBACKEND_Request *request, const char *name, Tensor *tensor, Problem *problem) {
    TRITONBACKEND_Input *input;
    const int64_t *shape;
    uint32_t dims, buffers;
    uint64_t size, part = 0;
    *tensor = (Tensor){0};
    if (!passed(TRITONBACKEND_RequestInput(request, name, &input), problem) ||
        !passed(TRITONBACKEND_InputProperties(input, NULL, &tensor->type, &shape, &dims, &size, &buffers), problem))
        return false;
    tensor->bytes = (int64_t)number_bytes(tensor->type);
    if (tensor->bytes == 0) return fail(problem, "%s: expected numbers, got %s", name, type_name(tensor->type));
    if (!take_shape(tensor, name, shape, dims, size, problem)) return false;
    if (buffers == 1) {
        if (!input_buffer(input, name, 0, &tensor->data, &part, problem)) return false;
        if (part == size && part > 0) return true;
    }
    return join_buffers(input, name, buffers, size, tensor, problem);
}

bool tensor_align(Tensor *tensor, const char *name, Problem *problem) {
    const size_t size = (size_t)(tensor->count * tensor->bytes);
    if ((uintptr_t)tensor->data % (size_t)tensor->bytes == 0) return true;
    tensor->copy = malloc(size);
    if (tensor->copy == NULL) return fail(problem, "%s: out of memory", name);
    tensor->data = memcpy(tensor->copy, tensor->data, size);
    return true;
}

void tensor_close(Tensor *tensor) {
    free(tensor->copy);
}

bool add_tensor(TRITONBACKEND_Response *response, const char *name, int type, const int64_t *shape, size_t dims,
                void **data, Problem *problem) {
    int memory = TRITON_MEMORY_CPU;
    int64_t device = 0;
    TRITONBACKEND_Output *output;
    uint64_t size = number_bytes(type);
    for (size_t i = 0; i < dims; i++) size *= (uint64_t)shape[i];
    return passed(TRITONBACKEND_ResponseOutput(response, &output, name, type, shape, (uint32_t)dims), problem) &&
           passed(TRITONBACKEND_OutputBuffer(output, data, size, &memory, &device), problem) &&
           (memory != TRITON_MEMORY_GPU || fail(problem, "%s: expected CPU memory, got GPU memory", name));
}

bool add_output(TRITONBACKEND_Response *response, const char *name, int type, int64_t rows, int64_t columns,
                void **data, Problem *problem) {
    const int64_t shape[] = {rows, columns};
    return add_tensor(response, name, type, shape, 2, data, problem);
}
