#include "message.h"

#include <stdlib.h>

void message_add(Message *message, const void *bytes, size_t size) {
    if (size == 0) return;
    message->pieces[message->piece_count++] = (Piece){bytes, size};
    message->size += size;
}

void message_seal(Message *message) {
    const size_t size = message->size - PREFIX_BYTES;
    message->text[0] = 0; /* not compressed; then the size, big end first */
    for (int i = 0; i < 4; i++) message->text[1 + i] = (char)(size >> (24 - 8 * i));
}

void message_close(Message *message) {
    free(message->text);
    free(message->pieces);
    *message = (Message){0};
}

size_t message_bytes(const Message *message) {
    return message->size;
}

bool message_each(const Message *message, size_t offset, size_t size, bool (*take)(void *to, const void *bytes, size_t size),
                  void *to) {
    for (const Piece *piece = message->pieces; size > 0; piece++) {
        if (offset >= piece->size) {
            offset -= piece->size;
            continue;
        }
        const size_t here = piece->size - offset < size ? piece->size - offset : size;
        if (!take(to, (const char *)piece->bytes + offset, here)) return false;
        size -= here;
        offset = 0;
    }
    return true;
}
