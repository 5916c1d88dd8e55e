/* Bytes that were read, for all who read them: an answer stays where it came, and is copied only where it came in parts. */
#ifndef ELASTICREC_BUFFERS_H
#define ELASTICREC_BUFFERS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    int64_t holders;
    size_t room;
    uint8_t bytes[];
} Buffer;

Buffer *buffer_new(size_t room); /* with one holder; NULL where memory is out */
void buffer_release(Buffer *buffer); /* a holder less; NULL: nothing */

#endif
