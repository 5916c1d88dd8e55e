#include "buffers.h"

#include <stdlib.h>

Buffer *buffer_new(size_t room) {
    Buffer *buffer = malloc(sizeof *buffer + room);
    if (buffer == NULL) return NULL;
    buffer->holders = 1;
    buffer->room = room;
    return buffer;
}

void buffer_release(Buffer *buffer) {
    if (buffer != NULL && --buffer->holders == 0) free(buffer);
}
