/* A message as gRPC carries it: behind a prefix that says how long it is, in pieces that stay where they are. */
#ifndef ELASTICREC_MESSAGE_H
#define ELASTICREC_MESSAGE_H

#include "channel.h"

enum { PREFIX_BYTES = 5 };

typedef struct {
    char *text; /* the prefix, and what stands around the numbers */
    Piece *pieces;
    int64_t piece_count;
    size_t size;
} Message;

void message_add(Message *message, const void *bytes, size_t size); /* one more piece, for which there is room */
void message_seal(Message *message); /* write the prefix, once all pieces are there */
void message_close(Message *message);
size_t message_bytes(const Message *message);

/* The `size` bytes from `offset` on, which must be there, piece by piece; false, and no more, where `take` is. */
bool message_each(const Message *message, size_t offset, size_t size, bool (*take)(void *to, const void *bytes, size_t size),
                  void *to);

#endif
