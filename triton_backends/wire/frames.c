#include "frames.h"

enum { HEAD_BYTES = 9, MOST_OUT_BYTES = 1 << 20 };

static bool is_full(const Channel *channel) {
    return channel->out_bytes + channel->gathered_bytes > MOST_OUT_BYTES;
}

static bool gather(void *channel, const void *bytes, size_t size) {
    return channel_gather(channel, bytes, size);
}

int frames_take(Channel *channel, const uint8_t *head, const Message *message, size_t *sent, size_t size) {
    if (is_full(channel)) return NGHTTP2_ERR_WOULDBLOCK;
    if (!channel_append(channel, head, HEAD_BYTES) || !message_each(message, *sent, size, gather, channel))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    *sent += size;
    return 0;
}

static bool fill(nghttp2_session *session, Channel *channel) {
    while (!is_full(channel)) {
        const uint8_t *bytes;
        const ssize_t size = h2.session_mem_send(session, &bytes);
        if (size < 0) return fail(&channel->problem, "broken HTTP/2: %s", h2.strerror((int)size));
        if (size == 0) return true;
        if (!channel_append(channel, bytes, (size_t)size)) return false;
    }
    return true;
}

bool frames_send(nghttp2_session *session, Channel *channel) {
    do {
        if (!fill(session, channel) || !channel_send(channel)) return false;
    } while (channel->out_bytes == 0 && h2.session_want_write(session));
    return true;
}
