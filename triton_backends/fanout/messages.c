#include "messages.h"

#include <string.h>

/* ---- protobuf, written ---- */

enum { LENGTH_DELIMITED = 2, VARINT = 0, FIXED64 = 1, FIXED32 = 5 };

static char *put_varint(char *at, uint64_t value) {
    for (; value >= 128; value >>= 7) *at++ = (char)(value | 128);
    *at++ = (char)value;
    return at;
}

static char *put_tag(char *at, uint32_t field, uint64_t size) {
    *at++ = (char)(field << 3 | LENGTH_DELIMITED);
    return put_varint(at, size);
}

static char *put_text(char *at, uint32_t field, const char *text) {
    const size_t size = strlen(text);
    at = put_tag(at, field, size);
    memcpy(at, text, size);
    return at + size;
}

/* An InferInputTensor: name 1, datatype 2, shape 3. */
static char *put_input(char *at, const char *name, int64_t count) {
    char tensor[64], shape[16];
    char *shape_end = put_varint(put_varint(shape, 1), (uint64_t)count);
    char *end = put_text(put_text(tensor, 1, name), 2, "INT32");
    end = put_tag(end, 3, (uint64_t)(shape_end - shape));
    memcpy(end, shape, (size_t)(shape_end - shape));
    end += shape_end - shape;
    at = put_tag(at, 5, (uint64_t)(end - tensor));
    memcpy(at, tensor, (size_t)(end - tensor));
    return at + (end - tensor);
}

/* A ModelInferRequest: model_name 1, model_version 2, inputs 5, raw_input_contents 7. */
void message_write(Message *message, const char *model, const char *version, const int32_t *ids, int64_t id_count,
                   const int32_t *lengths, int64_t length_count) {
    message->ids = ids;
    message->lengths = lengths;
    message->ids_bytes = 4 * (size_t)id_count;
    message->lengths_bytes = 4 * (size_t)length_count;
    char *at = put_text(put_text(message->head + PREFIX_BYTES, 1, model), 2, version);
    at = put_input(put_input(at, "ids", id_count), "lengths", length_count);
    at = put_tag(at, 7, message->ids_bytes);
    message->head_bytes = (size_t)(at - message->head);
    message->between_bytes = (size_t)(put_tag(message->between, 7, message->lengths_bytes) - message->between);
    const size_t size = message_bytes(message) - PREFIX_BYTES;
    message->head[0] = 0; /* not compressed; then the size, big end first */
    for (int i = 0; i < 4; i++) message->head[1 + i] = (char)(size >> (24 - 8 * i));
}

size_t message_bytes(const Message *message) {
    return message->head_bytes + message->ids_bytes + message->between_bytes + message->lengths_bytes;
}

void message_copy(const Message *message, size_t offset, size_t size, char *out) {
    const struct {
        const void *bytes;
        size_t size;
    } parts[] = {{message->head, message->head_bytes},
                 {message->ids, message->ids_bytes},
                 {message->between, message->between_bytes},
                 {message->lengths, message->lengths_bytes}};
    for (size_t i = 0; size > 0 && i < sizeof parts / sizeof *parts; i++) {
        if (offset >= parts[i].size) {
            offset -= parts[i].size;
            continue;
        }
        const size_t here = parts[i].size - offset < size ? parts[i].size - offset : size;
        memcpy(out, (const char *)parts[i].bytes + offset, here);
        out += here;
        size -= here;
        offset = 0;
    }
}

/* ---- protobuf, read: nothing is trusted ---- */

typedef struct {
    const uint8_t *at, *end;
} Bytes;

typedef struct {
    uint64_t number; /* the field's */
    uint64_t value;  /* of a varint */
    Bytes content;   /* of a length-delimited field */
    bool delimited;
} Field;

static bool take_varint(Bytes *bytes, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 64 && bytes->at < bytes->end; shift += 7) {
        const uint8_t byte = *bytes->at++;
        *value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return true;
    }
    return false;
}

static bool take_bytes(Bytes *bytes, uint64_t size, Bytes *taken) {
    if (size > (uint64_t)(bytes->end - bytes->at)) return false;
    *taken = (Bytes){bytes->at, bytes->at + size};
    bytes->at += size;
    return true;
}

static bool take_field(Bytes *bytes, Field *field) {
    uint64_t tag;
    if (!take_varint(bytes, &tag)) return false;
    field->number = tag >> 3;
    field->delimited = (tag & 7) == LENGTH_DELIMITED;
    switch (tag & 7) {
        case VARINT: return take_varint(bytes, &field->value);
        case FIXED64: return take_bytes(bytes, 8, &field->content);
        case FIXED32: return take_bytes(bytes, 4, &field->content);
        case LENGTH_DELIMITED:
            return take_varint(bytes, &field->value) && take_bytes(bytes, field->value, &field->content);
        default: return false;
    }
}

enum { MOST_DIMS = 4 };

/* An answer's first output and its numbers. */
typedef struct {
    bool named, filled;
    char datatype[8];
    uint64_t shape[MOST_DIMS];
    int dims;
    Bytes numbers;
} Output;

static bool add_dim(Output *output, uint64_t value) {
    if (output->dims == MOST_DIMS) return false;
    output->shape[output->dims++] = value;
    return true;
}

static bool is_text(const Field *field, const char *text) {
    const size_t size = strlen(text);
    return field->delimited && (size_t)(field->content.end - field->content.at) == size &&
           memcmp(field->content.at, text, size) == 0;
}

/* An InferOutputTensor: name 1, datatype 2, shape 3, in one piece or not. */
static bool read_output(Bytes bytes, Output *output) {
    Field field;
    while (bytes.at < bytes.end) {
        if (!take_field(&bytes, &field)) return false;
        if (field.number == 1 && !is_text(&field, "sums")) return false;
        if (field.number == 2 && field.delimited) {
            const size_t size = (size_t)(field.content.end - field.content.at);
            if (size >= sizeof output->datatype) return false;
            memcpy(output->datatype, field.content.at, size);
            output->datatype[size] = '\0';
        } else if (field.number == 3 && !field.delimited) {
            if (!add_dim(output, field.value)) return false;
        } else if (field.number == 3) {
            uint64_t value;
            while (field.content.at < field.content.end)
                if (!take_varint(&field.content, &value) || !add_dim(output, value)) return false;
        }
    }
    return true;
}

/* A ModelInferResponse: outputs 5, raw_output_contents 6. */
static bool read_answer(Bytes bytes, Output *output) {
    Field field;
    while (bytes.at < bytes.end) {
        if (!take_field(&bytes, &field)) return false;
        if (field.number == 5 && field.delimited && !output->named) {
            output->named = true;
            if (!read_output(field.content, output)) return false;
        } else if (field.number == 6 && field.delimited && !output->filled) {
            output->filled = true;
            output->numbers = field.content;
        }
    }
    return output->named && output->filled;
}

size_t sums_bytes(const SumsShape *shape) {
    return (shape->half ? 2 : 4) * (size_t)(shape->rows * shape->width);
}

size_t answer_limit(const SumsShape *shape) {
    return sums_bytes(shape) + 4096;
}

/* Tables hold finite values alone; all exponent bits of others are set. */
static bool are_finite(const uint8_t *floats, size_t size) {
    uint32_t bits, bad = 0;
    for (size_t i = 0; i < size; i += sizeof bits) {
        memcpy(&bits, floats + i, sizeof bits);
        bad |= (bits & 0x7f800000) == 0x7f800000;
    }
    return bad == 0;
}

static bool are_finite_halves(const uint8_t *halves, size_t size) {
    uint16_t bits, bad = 0;
    for (size_t i = 0; i < size; i += sizeof bits) {
        memcpy(&bits, halves + i, sizeof bits);
        bad |= (bits & 0x7c00) == 0x7c00;
    }
    return bad == 0;
}

bool sums_find(const void *answer, size_t size, const SumsShape *shape, const void **sums, Problem *problem) {
    const char *datatype = shape->half ? "FP16" : "FP32";
    Output output = {0};
    if (!read_answer((Bytes){answer, (const uint8_t *)answer + size}, &output))
        return fail(problem, "sums: expected an inference response, got %zu other bytes", size);
    const size_t filled = (size_t)(output.numbers.end - output.numbers.at);
    if (strcmp(output.datatype, datatype) != 0 || output.dims != 2 || output.shape[0] != (uint64_t)shape->rows ||
        output.shape[1] != (uint64_t)shape->width || filled != sums_bytes(shape))
        return fail(problem, "sums: expected %s of %lld x %lld, got %.8s of %d dimensions, %llu x %llu, in %zu bytes",
                    datatype, (long long)shape->rows, (long long)shape->width, output.datatype, output.dims,
                    (unsigned long long)output.shape[0], (unsigned long long)output.shape[1], filled);
    if (!(shape->half ? are_finite_halves : are_finite)(output.numbers.at, filled))
        return fail(problem, "sums: expected finite numbers, got others among them");
    *sums = output.numbers.at;
    return true;
}

/* ---- adding up ---- */

static float from_half(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    uint32_t bits = sign | (exponent + 112) << 23 | fraction << 13;
    if (exponent == 31) bits = sign | 0x7f800000 | fraction << 13;
    float value;
    if (exponent == 0) { /* 2^-24 each */
        value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void add_floats(const char *from, int64_t count, char *to) {
    for (int64_t i = 0; i < count; i++) {
        float addend, sum;
        memcpy(&addend, from + 4 * i, 4);
        memcpy(&sum, to + 4 * i, 4);
        sum += addend;
        memcpy(to + 4 * i, &sum, 4);
    }
}

static void add_halves(const char *from, int64_t count, char *to) {
    for (int64_t i = 0; i < count; i++) {
        uint16_t addend;
        float sum;
        memcpy(&addend, from + 2 * i, 2);
        memcpy(&sum, to + 4 * i, 4);
        sum += from_half(addend);
        memcpy(to + 4 * i, &sum, 4);
    }
}

void sums_add(const void *sums, const SumsShape *shape, const int64_t *places, int64_t dim, int64_t tables,
              void *total) {
    const int64_t held = shape->width / dim;
    const char *from = sums;
    for (int64_t row = 0; row < shape->rows; row++)
        for (int64_t t = 0; t < held; t++) {
            char *to = (char *)total + 4 * (row * tables + places[t]) * dim;
            (shape->half ? add_halves : add_floats)(from, dim, to);
            from += (shape->half ? 2 : 4) * dim;
        }
}
