/* What nghttp2 has to say, as bytes of a channel. */
#ifndef ELASTICREC_FRAMES_H
#define ELASTICREC_FRAMES_H

#include "message.h"
#include "nghttp2.h"

/* Take a frame of data: its head, of 9 bytes, and the message's `size` bytes from `*sent` on, which stay where they are.
 * Returns what nghttp2 wants to hear of it. */
int frames_take(Channel *channel, const uint8_t *head, const Message *message, size_t *sent, size_t size);

/* Send all that there is, or what can be sent; false and the channel's problem where the connection is broken. */
bool frames_send(nghttp2_session *session, Channel *channel);

#endif
