#include "requests.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../native/shell.h"
#include "../wire/protobuf.h"

/* fields of ModelInferRequest, and of its InferInputTensor */
enum { MODEL_NAME = 1, MODEL_VERSION = 2, INPUTS = 5, RAW_CONTENTS = 7 };
enum { INPUT_NAME = 1, INPUT_TYPE = 2, INPUT_SHAPE = 3, INPUT_CONTENTS = 5 };
enum { TYPE_BYTES = 8 };

static bool malformed(Call *call, const char *what) {
    call_fail(call, GRPC_INVALID_ARGUMENT, "%s: expected a ModelInferRequest's, got something else", what);
    return false;
}

/* Copy a field's text; false where it is none, or too long. */
static bool copy_text(const Field *field, char *text, size_t room) {
    const size_t size = field->delimited ? (size_t)(field->content.end - field->content.at) : room;
    if (size >= room || memchr(field->content.at, '\0', size) != NULL) return false;
    memcpy(text, field->content.at, size);
    text[size] = '\0';
    return true;
}

/* The next field of this number in a message whose fields are known to be whole. */
static bool next_field(Bytes *left, uint64_t number, Field *field) {
    while (left->at < left->end && take_field(left, field))
        if (field->number == number && field->delimited) return true;
    return false;
}

/* The model and the version that are asked for, where all of the message can be read. */
static bool read_model(Call *call, Bytes message, char model[NAME_BYTES], int64_t *version) {
    char text[NAME_BYTES] = "", *end = text;
    Field field;
    *model = '\0';
    while (message.at < message.end) {
        if (!take_field(&message, &field)) return malformed(call, "the message");
        if (field.number == MODEL_NAME && !copy_text(&field, model, NAME_BYTES)) return malformed(call, "model_name");
        if (field.number == MODEL_VERSION && !copy_text(&field, text, NAME_BYTES))
            return malformed(call, "model_version");
    }
    errno = 0;
    *version = *text == '\0' ? -1 : strtoll(text, &end, 10);
    return (*end == '\0' && errno == 0) || malformed(call, "model_version");
}

/* One of the inputs, and its name. */
static bool add_input(Call *call, Bytes tensor, char name[NAME_BYTES], TRITONSERVER_InferenceRequest *request) {
    char datatype[TYPE_BYTES] = "";
    int64_t shape[MOST_DIMS];
    uint64_t dims = 0, value;
    int type = TRITON_TYPES - 1;
    Field field;
    *name = '\0';
    while (tensor.at < tensor.end) {
        if (!take_field(&tensor, &field)) return malformed(call, "inputs");
        if (field.number == INPUT_NAME && !copy_text(&field, name, NAME_BYTES)) return malformed(call, "name");
        if (field.number == INPUT_TYPE && !copy_text(&field, datatype, TYPE_BYTES)) return malformed(call, "datatype");
        if (field.number == INPUT_CONTENTS) return malformed(call, "contents, not raw ones");
        if (field.number != INPUT_SHAPE) continue;
        if (!field.delimited) return malformed(call, "shape");
        while (field.content.at < field.content.end) {
            if (dims == MOST_DIMS || !take_varint(&field.content, &value)) return malformed(call, "shape");
            shape[dims++] = (int64_t)value;
        }
    }
    while (type > 0 && strcmp(type_name(type), datatype) != 0) type--;
    return call_passed(call, TRITONSERVER_InferenceRequestAddInput(request, name, type, shape, dims));
}

/* Inputs and their raw contents, of which there are as many, in the same order. */
static bool add_inputs(Call *call, Bytes message, TRITONSERVER_InferenceRequest *request) {
    char name[NAME_BYTES];
    Bytes inputs = message, contents = message;
    Field input, content;
    while (next_field(&inputs, INPUTS, &input)) {
        if (!add_input(call, input.content, name, request)) return false;
        if (!next_field(&contents, RAW_CONTENTS, &content)) return malformed(call, "raw_input_contents, one an input");
        const size_t size = (size_t)(content.content.end - content.content.at);
        if (!call_passed(call, TRITONSERVER_InferenceRequestAppendInputData(request, name, content.content.at, size,
                                                                            TRITON_MEMORY_CPU, 0)))
            return false;
    }
    return !next_field(&contents, RAW_CONTENTS, &content) || malformed(call, "raw_input_contents, one an input");
}

TRITONSERVER_InferenceRequest *request_of(Call *call, const Core *core) {
    const Bytes message = {call->request.bytes, call->request.bytes + call->request.size};
    char model[NAME_BYTES];
    int64_t version;
    TRITONSERVER_InferenceRequest *request = NULL;
    if (!read_model(call, message, model, &version) ||
        !call_passed(call, TRITONSERVER_InferenceRequestNew(&request, core->server, model, version)))
        return NULL;
    if (add_inputs(call, message, request)) return request;
    log_error(TRITONSERVER_InferenceRequestDelete(request));
    return NULL;
}
