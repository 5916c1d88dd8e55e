/* Between a call and Triton. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../native/shell.h"
#include "../wire/protobuf.h"
#include "requests.h"
#include "session.h"

/* ---- how a call ends ---- */

void call_fail(Call *call, int status, const char *format, ...) {
    if (call->status != GRPC_OK) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(call->details, sizeof call->details, format, arguments);
    va_end(arguments);
    call->status = status;
}

static void fail_as(Call *call, TRITONSERVER_Error *error) {
    static const int statuses[] = {GRPC_UNKNOWN,       GRPC_INTERNAL,      GRPC_NOT_FOUND,      GRPC_INVALID_ARGUMENT,
                                   GRPC_UNAVAILABLE,   GRPC_UNIMPLEMENTED, GRPC_ALREADY_EXISTS, GRPC_CANCELLED};
    const int code = TRITONSERVER_ErrorCode(error);
    const bool known = code >= 0 && code < (int)(sizeof statuses / sizeof *statuses);
    call_fail(call, known ? statuses[code] : GRPC_UNKNOWN, "%s", TRITONSERVER_ErrorMessage(error));
}

bool call_passed(Call *call, TRITONSERVER_Error *error) {
    if (error == NULL) return true;
    fail_as(call, error);
    TRITONSERVER_ErrorDelete(error);
    return false;
}

void call_release(Call *call) {
    if (atomic_fetch_sub(&call->holders, 1) > 1) return;
    if (call->response != NULL) log_error(TRITONSERVER_InferenceResponseDelete(call->response));
    message_close(&call->answer);
    buffer_release(call->request.held);
    session_release(call->session);
    free(call);
}

/* ---- its answer ---- */

typedef struct {
    const char *name, *datatype;
    const int64_t *shape;
    uint64_t dims;
    const void *numbers;
    size_t size;
} Output;

static bool read_output(Call *call, uint32_t index, Output *output) {
    int type, memory;
    int64_t device;
    void *user;
    if (!call_passed(call, TRITONSERVER_InferenceResponseOutput(call->response, index, &output->name, &type,
                                                                &output->shape, &output->dims, &output->numbers,
                                                                &output->size, &memory, &device, &user)))
        return false;
    output->datatype = type_name(type);
    return true;
}

enum { VARINT_BYTES = 10, FIELD_BYTES = 2 * VARINT_BYTES };

static size_t room_for(const Output *output) {
    return strlen(output->name) + strlen(output->datatype) + VARINT_BYTES * (size_t)output->dims + 5 * FIELD_BYTES;
}

static size_t varint_bytes(uint64_t value) {
    char bytes[VARINT_BYTES];
    return (size_t)(put_varint(bytes, value) - bytes);
}

static size_t text_bytes(const char *text) {
    return 1 + varint_bytes(strlen(text)) + strlen(text);
}

/* An InferOutputTensor: name 1, datatype 2, shape 3. */
static char *put_output(char *at, const Output *output) {
    size_t shape = 0;
    for (uint64_t i = 0; i < output->dims; i++) shape += varint_bytes((uint64_t)output->shape[i]);
    at = put_tag(at, 5, text_bytes(output->name) + text_bytes(output->datatype) + 1 + varint_bytes(shape) + shape);
    at = put_tag(put_text(put_text(at, 1, output->name), 2, output->datatype), 3, shape);
    for (uint64_t i = 0; i < output->dims; i++) at = put_varint(at, (uint64_t)output->shape[i]);
    return at;
}

/* A ModelInferResponse: model_name 1, model_version 2, outputs 5, raw_output_contents 6. */
static bool write_answer(Call *call, const char *model, const char *version, const Output *outputs, uint32_t count) {
    Message *answer = &call->answer;
    size_t room = PREFIX_BYTES + strlen(model) + strlen(version) + 2 * FIELD_BYTES;
    for (uint32_t i = 0; i < count; i++) room += room_for(outputs + i);
    *answer = (Message){.text = malloc(room), .pieces = calloc(2 * (size_t)count + 1, sizeof *answer->pieces)};
    if (answer->text == NULL || answer->pieces == NULL) return false;
    char *begin = answer->text, *at = put_text(put_text(begin + PREFIX_BYTES, 1, model), 2, version);
    for (uint32_t i = 0; i < count; i++) at = put_output(at, outputs + i);
    for (uint32_t i = 0; i < count; i++) {
        at = put_tag(at, 6, outputs[i].size);
        message_add(answer, begin, (size_t)(at - begin));
        message_add(answer, outputs[i].numbers, outputs[i].size);
        begin = at;
    }
    message_add(answer, begin, (size_t)(at - begin));
    message_seal(answer);
    return true;
}

/* Make the response the call's answer. */
static void take_response(Call *call) {
    uint32_t count;
    int64_t version;
    const char *model;
    char version_text[24];
    TRITONSERVER_Error *error = TRITONSERVER_InferenceResponseError(call->response);
    if (error != NULL) return fail_as(call, error);
    if (!call_passed(call, TRITONSERVER_InferenceResponseModel(call->response, &model, &version)) ||
        !call_passed(call, TRITONSERVER_InferenceResponseOutputCount(call->response, &count)))
        return;
    snprintf(version_text, sizeof version_text, "%lld", (long long)version);
    Output *outputs = calloc((size_t)count + 1, sizeof *outputs);
    bool good = outputs != NULL;
    for (uint32_t i = 0; good && i < count; i++) good = read_output(call, i, outputs + i);
    if (!good || !write_answer(call, model, version_text, outputs, count))
        call_fail(call, GRPC_RESOURCE_EXHAUSTED, "out of memory for the answer");
    free(outputs);
}

/* ---- what Triton calls ---- */

static TRITONSERVER_Error *allocate(TRITONSERVER_ResponseAllocator *allocator, const char *name, size_t size, int memory,
                                    int64_t device, void *user, void **buffer, void **buffer_user, int *actual_memory,
                                    int64_t *actual_device) {
    (void)allocator, (void)name, (void)memory, (void)device, (void)user;
    *buffer = size > 0 ? malloc(size) : NULL;
    *buffer_user = NULL;
    *actual_memory = TRITON_MEMORY_CPU;
    *actual_device = 0;
    return *buffer != NULL || size == 0 ? NULL : TRITONSERVER_ErrorNew(TRITON_ERROR_UNAVAILABLE, "out of memory");
}

static TRITONSERVER_Error *give_back(TRITONSERVER_ResponseAllocator *allocator, void *buffer, void *buffer_user,
                                     size_t size, int memory, int64_t device) {
    (void)allocator, (void)buffer_user, (void)size, (void)memory, (void)device;
    free(buffer);
    return NULL;
}

static void complete(TRITONSERVER_InferenceResponse *response, uint32_t flags, void *user) {
    Call *call = user;
    if (response != NULL && call->response != NULL) log_error(TRITONSERVER_InferenceResponseDelete(response));
    else if (response != NULL) call->response = response;
    if ((flags & TRITON_RESPONSE_FINAL) == 0) return;
    if (call->response != NULL) take_response(call);
    else call_fail(call, GRPC_INTERNAL, "the model gave no response");
    Gate *gate = call->session->gate;
    session_answer(call);
    call_release(call);
    gate_answered(gate);
}

static void released(TRITONSERVER_InferenceRequest *request, uint32_t flags, void *user) {
    (void)flags;
    log_error(TRITONSERVER_InferenceRequestDelete(request));
    call_release(user);
}

/* ---- asking it ---- */

bool core_open(TRITONBACKEND_Model *model, Core *core, Problem *problem) {
    *core = (Core){0};
    return passed(TRITONBACKEND_ModelServer(model, &core->server), problem) &&
           passed(TRITONSERVER_ResponseAllocatorNew(&core->allocator, allocate, give_back, NULL), problem);
}

void core_close(Core *core) {
    if (core->allocator != NULL) log_error(TRITONSERVER_ResponseAllocatorDelete(core->allocator));
}

static bool ask(Call *call, const Core *core) {
    Gate *gate = call->session->gate;
    TRITONSERVER_InferenceRequest *request = request_of(call, core);
    if (request == NULL) return false;
    if (call_passed(call, TRITONSERVER_InferenceRequestSetReleaseCallback(request, released, call)) &&
        call_passed(call, TRITONSERVER_InferenceRequestSetResponseCallback(request, core->allocator, NULL, complete,
                                                                           call))) {
        gate_count(gate, &gate->calls, 1);
        if (call_passed(call, TRITONSERVER_ServerInferAsync(core->server, request, NULL))) return true;
        gate_count(gate, &gate->calls, -1);
    }
    log_error(TRITONSERVER_InferenceRequestDelete(request));
    return false;
}

void call_make(Call *call, const Core *core) {
    atomic_fetch_add(&call->holders, 2); /* the answer's, and the request's */
    if (call->status == GRPC_OK && ask(call, core)) return;
    session_answer(call);
    call_release(call);
    call_release(call);
}
