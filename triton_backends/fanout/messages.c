#include "messages.h"

#include <stdlib.h>
#include <string.h>

#include "../wire/protobuf.h"

/* ---- written ---- */

/* An InferInputTensor: name 1, datatype 2, shape 3. */
static char *put_input(char *at, const RequestTensor *input, uint64_t count) {
    char tensor[2 * TENSOR_NAME_BYTES], shape[16];
    char *shape_end = put_varint(put_varint(shape, 1), count);
    char *end = put_text(put_text(tensor, 1, input->name), 2, input->datatype);
    end = put_tag(end, 3, (uint64_t)(shape_end - shape));
    memcpy(end, shape, (size_t)(shape_end - shape));
    end += shape_end - shape;
    at = put_tag(at, 5, (uint64_t)(end - tensor));
    memcpy(at, tensor, (size_t)(end - tensor));
    return at + (end - tensor);
}

static size_t tensor_bytes(const RequestTensor *tensor) {
    size_t size = 0;
    for (int64_t i = 0; i < tensor->piece_count; i++) size += tensor->pieces[i].size;
    return size;
}

/* The bytes of `text` for the head, and for what stands around a tensor's numbers. */
enum { HEAD_BYTES = 2 * NAME_BYTES + 32, AROUND_BYTES = 3 * TENSOR_NAME_BYTES };

/* A ModelInferRequest: model_name 1, model_version 2, inputs 5, raw_input_contents 7. */
bool message_write(Message *message, const char *model, const char *version, const RequestTensor *tensors,
                   int64_t tensor_count) {
    int64_t most = 1;
    for (int64_t i = 0; i < tensor_count; i++) most += 1 + tensors[i].piece_count;
    *message = (Message){.text = malloc(HEAD_BYTES + AROUND_BYTES * (size_t)tensor_count),
                         .pieces = calloc((size_t)most, sizeof *message->pieces)};
    if (message->text == NULL || message->pieces == NULL) return false;
    char *begin = message->text, *at = put_text(put_text(begin + PREFIX_BYTES, 1, model), 2, version);
    for (int64_t i = 0; i < tensor_count; i++) at = put_input(at, tensors + i, tensor_bytes(tensors + i) / 4);
    for (int64_t i = 0; i < tensor_count; i++) {
        at = put_tag(at, 7, tensor_bytes(tensors + i));
        message_add(message, begin, (size_t)(at - begin));
        begin = at;
        for (int64_t p = 0; p < tensors[i].piece_count; p++)
            message_add(message, tensors[i].pieces[p].bytes, tensors[i].pieces[p].size);
    }
    message_seal(message);
    return true;
}

/* ---- read: nothing is trusted ---- */

enum { MOST_ANSWER_DIMS = 4 };

/* One of an answer's outputs. */
typedef struct {
    bool mine; /* it has the name that is looked for */
    char datatype[8];
    uint64_t shape[MOST_ANSWER_DIMS];
    int dims;
} Output;

static bool add_dim(Output *output, uint64_t value) {
    if (output->dims == MOST_ANSWER_DIMS) return false;
    output->shape[output->dims++] = value;
    return true;
}

/* An InferOutputTensor: name 1, datatype 2, shape 3, in one piece or not. */
static bool read_output(Bytes bytes, const char *name, Output *output) {
    Field field;
    *output = (Output){0};
    while (bytes.at < bytes.end) {
        if (!take_field(&bytes, &field)) return false;
        if (field.number == 1) output->mine = is_text(&field, name);
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

/* A ModelInferResponse: outputs 5, raw_output_contents 6, as many and in the same order. */
static bool read_answer(Bytes bytes, const char *name, Output *output, Bytes *numbers) {
    Field field;
    int64_t outputs = 0, index = -1, contents = 0;
    bool filled = false;
    for (Bytes left = bytes; left.at < left.end;) {
        Output other;
        if (!take_field(&left, &field)) return false;
        if (field.number != 5 || !field.delimited) continue;
        if (!read_output(field.content, name, &other)) return false;
        if (other.mine && index < 0) {
            *output = other;
            index = outputs;
        }
        outputs++;
    }
    for (Bytes left = bytes; index >= 0 && !filled && left.at < left.end;) {
        if (!take_field(&left, &field)) return false;
        if (field.number != 6 || !field.delimited || contents++ != index) continue;
        *numbers = field.content;
        filled = true;
    }
    return filled;
}

size_t sums_bytes(const AnswerShape *shape) {
    return (shape->half ? 2 : 4) * (size_t)(shape->rows * shape->width);
}

size_t answer_limit(const AnswerShape *shapes, int64_t count) {
    size_t size = 4096;
    for (int64_t i = 0; i < count; i++) size += sums_bytes(shapes + i) + 256;
    return size;
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

static bool find_one(Bytes answer, const AnswerShape *shape, const void **sums, Problem *problem) {
    const char *datatype = shape->half ? "FP16" : "FP32", *name = shape->name;
    Output output = {0};
    Bytes numbers = {0};
    if (!read_answer(answer, name, &output, &numbers))
        return fail(problem, "%s: expected an inference response, got %td other bytes", name, answer.end - answer.at);
    const size_t filled = (size_t)(numbers.end - numbers.at);
    if (strcmp(output.datatype, datatype) != 0 || output.dims != 2 || output.shape[0] != (uint64_t)shape->rows ||
        output.shape[1] != (uint64_t)shape->width || filled != sums_bytes(shape))
        return fail(problem, "%s: expected %s of %lld x %lld, got %.8s of %d dimensions, %llu x %llu, in %zu bytes", name,
                    datatype, (long long)shape->rows, (long long)shape->width, output.datatype, output.dims,
                    (unsigned long long)output.shape[0], (unsigned long long)output.shape[1], filled);
    if (!(shape->half ? are_finite_halves : are_finite)(numbers.at, filled))
        return fail(problem, "%s: expected finite numbers, got others among them", name);
    *sums = numbers.at;
    return true;
}

bool sums_find(const void *answer, size_t size, const AnswerShape *shapes, int64_t count, const void **sums,
               Problem *problem) {
    const Bytes bytes = {answer, (const uint8_t *)answer + size};
    for (int64_t i = 0; i < count; i++)
        if (!find_one(bytes, shapes + i, sums + i, problem)) return false;
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

void numbers_copy(const void *from, bool half, int64_t count, void *to) {
    if (!half) {
        memcpy(to, from, 4 * (size_t)count);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        uint16_t number;
        memcpy(&number, (const char *)from + 2 * i, 2);
        const float value = from_half(number);
        memcpy((char *)to + 4 * i, &value, 4);
    }
}

void numbers_add(const void *from, bool half, int64_t count, void *to) {
    (half ? add_halves : add_floats)(from, count, to);
}

void sums_add(const void *sums, const AnswerShape *shape, const Run *runs, int64_t run_count, int64_t width, void *total) {
    const int64_t bytes = shape->half ? 2 : 4;
    const char *from = sums;
    char *to = total;
    for (int64_t row = 0; row < shape->rows; row++, from += bytes * shape->width, to += 4 * width)
        for (const Run *run = runs; run < runs + run_count; run++)
            numbers_add(from + bytes * run->from, shape->half, run->columns, to + 4 * run->to);
}
