/* What a peer sends: it is read into buffers, and a gRPC message stays where it was read if it came whole. */
#ifndef ELASTICREC_INCOMING_H
#define ELASTICREC_INCOMING_H

#include <stdatomic.h>

#include "message.h"

/* Bytes that were read, for all who read them. */
typedef struct {
    atomic_int holders;
    size_t room;
    uint8_t bytes[];
} Buffer;

void buffer_release(Buffer *buffer); /* a holder less, in any thread; NULL: nothing */

/* What a thread reads into, from one socket after another; zeroed at its beginning. */
typedef struct {
    Buffer *buffer; /* NULL: there is none yet */
    size_t room;    /* of the next one */
} Intake;

void intake_close(Intake *intake);

/* Where to read into, which no message that was read before stays in; NULL where memory is out. */
Buffer *intake_buffer(Intake *intake);

/* Whether what was read filled the buffer, so that there may be more; the next one has more room then. */
bool intake_filled(Intake *intake, size_t got);

/* A message and the prefix before it, whatever pieces they come in; zeroed at its beginning. */
typedef struct {
    uint8_t prefix[PREFIX_BYTES];
    size_t prefix_got, size, got;
    const uint8_t *bytes; /* in `held` */
    Buffer *held;         /* to be released by who waits for the message */
} Incoming;

/* What is wrong with a message, of which no more is taken then. */
typedef enum { TAKEN, COMPRESSED, TOO_LONG, NO_MEMORY, MORE_THAN_ONE } Taken;

/* Take what came of it, of at most `limit` bytes in all; read: the buffer that `data` is in. */
Taken incoming_take(Incoming *incoming, size_t limit, Buffer *read, const uint8_t *data, size_t size);
bool incoming_is_whole(const Incoming *incoming);

#endif
