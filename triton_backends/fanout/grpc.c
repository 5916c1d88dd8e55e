/* gRPC's few rules of an answer: a message behind a prefix, the status in the trailers. Nothing is trusted. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "connection.h"
#include "failures.h"

static void breaks(Stream *stream, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void breaks(Stream *stream, const char *format, ...) {
    va_list arguments;
    stream->broken = true;
    va_start(arguments, format);
    vsnprintf(stream->details, sizeof stream->details, format, arguments);
    va_end(arguments);
}

void copy_printable(const uint8_t *from, size_t size, char *text, size_t room) {
    size_t length = 0;
    for (; length < size && length + 1 < room; length++)
        text[length] = (char)(from[length] >= ' ' && from[length] <= '~' ? from[length] : '.');
    text[length] = '\0';
}

static int hexadecimal(uint8_t figure) {
    if (figure >= '0' && figure <= '9') return figure - '0';
    figure |= 32;
    return figure >= 'a' && figure <= 'f' ? figure - 'a' + 10 : -1;
}

/* A status message, percent-encoded. */
static void read_details(Stream *stream, const uint8_t *text, size_t size) {
    size_t length = 0;
    for (size_t i = 0; i < size && length + 1 < sizeof stream->details; i++) {
        uint8_t letter = text[i];
        if (letter == '%' && i + 2 < size && hexadecimal(text[i + 1]) >= 0 && hexadecimal(text[i + 2]) >= 0) {
            letter = (uint8_t)(16 * hexadecimal(text[i + 1]) + hexadecimal(text[i + 2]));
            i += 2;
        }
        stream->details[length++] = (char)(letter < ' ' ? ' ' : letter);
    }
    stream->details[length] = '\0';
}

/* A number of at most three figures, or -1. */
static int short_number(const uint8_t *text, size_t size) {
    int value = 0;
    if (size < 1 || size > 3) return -1;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9') return -1;
        value = 10 * value + (text[i] - '0');
    }
    return value;
}

static bool is(const uint8_t *name, size_t size, const char *wanted) {
    return size == strlen(wanted) && memcmp(name, wanted, size) == 0;
}

/* A web server's page, say. An error's own type does not matter. */
static void check_content_type(Stream *stream, const uint8_t *value, size_t size) {
    static const char wanted[] = "application/grpc";
    const size_t least = sizeof wanted - 1;
    if (stream->http_status != 200 || (size >= least && memcmp(value, wanted, least) == 0)) return;
    char type[40];
    copy_printable(value, size, type, sizeof type);
    breaks(stream, "it is no gRPC server: it answers with content-type %s", type);
}

void answer_header(Stream *stream, const uint8_t *name, size_t name_size, const uint8_t *value, size_t value_size) {
    if (is(name, name_size, ":status")) stream->http_status = short_number(value, value_size);
    if (is(name, name_size, "grpc-status")) stream->status = short_number(value, value_size);
    if (is(name, name_size, "grpc-message")) read_details(stream, value, value_size);
    if (is(name, name_size, "content-type")) check_content_type(stream, value, value_size);
}

void answer_data(Stream *stream, const uint8_t *data, size_t size) {
    static const char *const problems[] = {
        [COMPRESSED] = "expected an answer that is not compressed",
        [TOO_LONG] = "the answer is too long",
        [NO_MEMORY] = "out of memory",
        [MORE_THAN_ONE] = "expected one message",
    };
    Buffer *read = stream->connection->loop->intake.buffer;
    const Taken taken = incoming_take(&stream->answer, stream->limit, read, data, size);
    if (taken != TAKEN) breaks(stream, "%s", problems[taken]);
}

/* gRPC's status where the server gave none of its own. */
static int http_outcome(int http_status) {
    switch (http_status) {
        case 401: return GRPC_UNAUTHENTICATED;
        case 403: return GRPC_PERMISSION_DENIED;
        case 404: return GRPC_UNIMPLEMENTED;
        case 429:
        case 502:
        case 503:
        case 504: return GRPC_UNAVAILABLE;
        default: return GRPC_UNKNOWN;
    }
}

void answer_judge(const Stream *stream, uint32_t code, Outcome *outcome) {
    memcpy(outcome->details, stream->details, sizeof outcome->details);
    if (code == NGHTTP2_REFUSED_STREAM) {
        *outcome = (Outcome){GRPC_UNAVAILABLE, true, "the server refused the call"};
        if (stream->connection->leaving)
            snprintf(outcome->details, sizeof outcome->details, "%s", stream->connection->channel.problem.text);
    } else if (stream->status > 0) {
        outcome->status = stream->status;
    } else if (stream->http_status != 200 && stream->http_status != 0) {
        outcome->status = http_outcome(stream->http_status);
        snprintf(outcome->details, sizeof outcome->details, "HTTP status %d", stream->http_status);
    } else if (stream->status < 0) {
        const int status = code == NGHTTP2_NO_ERROR ? GRPC_UNKNOWN : GRPC_UNAVAILABLE;
        *outcome = (Outcome){status, false, "the stream was broken off"};
    } else if (!incoming_is_whole(&stream->answer)) {
        *outcome = (Outcome){GRPC_INTERNAL, false, "the answer is cut short"};
    }
}
