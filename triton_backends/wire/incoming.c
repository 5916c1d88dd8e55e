#include "incoming.h"

#include <stdlib.h>
#include <string.h>

enum {
    /* so many that TLS keeps nothing back; doubled where they are filled: a message that stays keeps the rest from others */
    FIRST_READ_BYTES = TLS_RECORD_BYTES,
    MOST_READ_BYTES = 1 << 17,
    MOST_HELD = 4 /* bytes that stay with a message, for each of its own */
};

/* ---- buffers ---- */

static Buffer *buffer_new(size_t room) {
    Buffer *buffer = malloc(sizeof *buffer + room);
    if (buffer == NULL) return NULL;
    atomic_init(&buffer->holders, 1);
    buffer->room = room;
    return buffer;
}

void buffer_release(Buffer *buffer) {
    if (buffer != NULL && atomic_fetch_sub(&buffer->holders, 1) == 1) free(buffer);
}

void intake_close(Intake *intake) {
    buffer_release(intake->buffer);
}

Buffer *intake_buffer(Intake *intake) {
    if (intake->room == 0) intake->room = FIRST_READ_BYTES;
    Buffer *buffer = intake->buffer;
    if (buffer != NULL && atomic_load(&buffer->holders) == 1 && buffer->room == intake->room) return buffer;
    buffer_release(buffer);
    return intake->buffer = buffer_new(intake->room);
}

bool intake_filled(Intake *intake, size_t got) {
    const bool full = got == intake->buffer->room;
    if (full && intake->room < MOST_READ_BYTES) intake->room *= 2;
    return full;
}

/* ---- a message ---- */

/* Whether a message stays where it was read: if it is all there, and is a good part of what then stays with it. */
static bool stays(const Buffer *read, const uint8_t *data, size_t size, size_t message_bytes) {
    return size >= message_bytes && MOST_HELD * message_bytes >= read->room && data >= read->bytes &&
           data + message_bytes <= read->bytes + read->room;
}

/* The message's length is known: make room for it. data: what there is of it. */
static Taken begin(Incoming *incoming, size_t limit, Buffer *read, const uint8_t *data, size_t size) {
    for (int i = 1; i < PREFIX_BYTES; i++) incoming->size = incoming->size << 8 | incoming->prefix[i];
    if (incoming->prefix[0] != 0) return COMPRESSED;
    if (incoming->size > limit) return TOO_LONG;
    const bool whole = stays(read, data, size, incoming->size);
    incoming->held = whole ? read : buffer_new(incoming->size);
    if (incoming->held == NULL) return NO_MEMORY;
    if (whole) atomic_fetch_add(&read->holders, 1);
    incoming->bytes = whole ? data : incoming->held->bytes;
    return TAKEN;
}

Taken incoming_take(Incoming *incoming, size_t limit, Buffer *read, const uint8_t *data, size_t size) {
    while (size > 0 && incoming->prefix_got < PREFIX_BYTES) {
        incoming->prefix[incoming->prefix_got++] = *data++;
        size--;
        if (incoming->prefix_got < PREFIX_BYTES) continue;
        const Taken taken = begin(incoming, limit, read, data, size);
        if (taken != TAKEN) return taken;
    }
    if (size == 0) return TAKEN;
    if (size > incoming->size - incoming->got) return MORE_THAN_ONE;
    if (incoming->bytes + incoming->got != data) memcpy(incoming->held->bytes + incoming->got, data, size);
    incoming->got += size;
    return TAKEN;
}

bool incoming_is_whole(const Incoming *incoming) {
    return incoming->prefix_got == PREFIX_BYTES && incoming->got == incoming->size;
}
