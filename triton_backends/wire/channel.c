#include "channel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { LEAST_GATHERED_BYTES = 1024 /* fewer are copied as fast as they are told to the kernel apart */ };

void channel_close(Channel *channel) {
    if (channel->secured != NULL) tls_end(channel->secured);
    if (channel->socket >= 0) close(channel->socket);
    free(channel->out);
}

void channel_wait(Channel *channel, uint32_t events) {
    if (events == channel->events) return;
    struct epoll_event event = {events, {.ptr = channel->user}};
    if (epoll_ctl(channel->epoll, EPOLL_CTL_MOD, channel->socket, &event) == 0) channel->events = events;
}

int channel_secure(Channel *channel, Tls *tls, const char *host) {
    bool writes = false;
    if (channel->secured == NULL) channel->secured = tls_begin(tls, channel->socket, host, &channel->problem);
    if (channel->secured == NULL) return -1;
    const int done = tls_handshake(channel->secured, &writes, &channel->problem);
    if (done >= 0) channel_wait(channel, writes ? EPOLLOUT : EPOLLIN);
    return done;
}

ssize_t channel_read(Channel *channel, void *bytes, size_t room) {
    if (channel->secured != NULL) return tls_read(channel->secured, bytes, room, &channel->problem);
    const ssize_t got = recv(channel->socket, bytes, room, 0);
    if (got > 0) return got;
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    fail(&channel->problem, "%s", got == 0 ? "the server closed the connection" : strerror(errno));
    return -1;
}

static ssize_t send_some(Channel *channel, const char *bytes, size_t size) {
    if (channel->secured != NULL) return tls_write(channel->secured, bytes, size, &channel->problem);
    const ssize_t sent = send(channel->socket, bytes, size, MSG_NOSIGNAL);
    if (sent >= 0) return sent;
    if (errno == EAGAIN || errno == EINTR) return 0;
    fail(&channel->problem, "%s", strerror(errno));
    return -1;
}

/* ---- what is to be sent ---- */

/* Make room behind what is to be sent. */
static bool reserve(Channel *channel, size_t size) {
    const size_t taken = channel->out_bytes + channel->gathered_bytes;
    if (channel->out_room - taken >= size) return true;
    const size_t room = 2 * channel->out_room + size;
    char *out = realloc(channel->out, room);
    if (out == NULL) return fail(&channel->problem, "out of memory");
    channel->out = out;
    channel->out_room = room;
    return true;
}

bool channel_append(Channel *channel, const void *bytes, size_t size) {
    if (!reserve(channel, size)) return false;
    memcpy(channel->out + channel->out_bytes, bytes, size);
    channel->out_bytes += size;
    return true;
}

bool channel_gather(Channel *channel, const void *bytes, size_t size) {
    const bool copied = channel->secured != NULL || size < LEAST_GATHERED_BYTES;
    if (copied || channel->gathered_count == MOST_GATHERED) return channel_append(channel, bytes, size);
    if (!reserve(channel, size)) return false;
    channel->gathered[channel->gathered_count++] = (Gathered){channel->out_bytes, {bytes, size}};
    channel->gathered_bytes += size;
    return true;
}

/* From behind, so that nothing is written over before it has moved. */
void channel_keep(Channel *channel) {
    size_t from = channel->out_bytes, to = from + channel->gathered_bytes;
    channel->out_bytes = to;
    while (channel->gathered_count > 0) {
        const Gathered *gathered = channel->gathered + --channel->gathered_count;
        to -= from - gathered->at;
        memmove(channel->out + to, channel->out + gathered->at, from - gathered->at);
        from = gathered->at;
        to -= gathered->piece.size;
        memcpy(channel->out + to, gathered->piece.bytes, gathered->piece.size);
    }
    channel->gathered_bytes = 0;
}

/* Send what is gathered, with all that is around it, as far as it goes; the rest is kept. */
static bool send_gathered(Channel *channel) {
    struct iovec parts[2 * MOST_GATHERED + 1];
    size_t count = 0, from = channel->out_sent;
    for (size_t i = 0; i <= channel->gathered_count; i++) {
        const Gathered *gathered = i < channel->gathered_count ? channel->gathered + i : NULL;
        const size_t to = gathered != NULL ? gathered->at : channel->out_bytes;
        if (to > from) parts[count++] = (struct iovec){channel->out + from, to - from};
        if (gathered != NULL) parts[count++] = (struct iovec){(void *)gathered->piece.bytes, gathered->piece.size};
        from = to;
    }
    const struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    const ssize_t sent = sendmsg(channel->socket, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) return fail(&channel->problem, "%s", strerror(errno));
    const size_t now = channel->out_sent + (sent > 0 ? (size_t)sent : 0);
    if (now == channel->out_bytes + channel->gathered_bytes) /* nothing is left that were to be moved */
        channel->gathered_count = channel->gathered_bytes = channel->out_bytes = 0;
    else channel_keep(channel);
    channel->out_sent = channel->out_bytes == 0 ? 0 : now;
    return true;
}

bool channel_send(Channel *channel) {
    if (channel->gathered_count > 0 && !send_gathered(channel)) return false;
    while (channel->out_sent < channel->out_bytes) {
        const ssize_t sent =
            send_some(channel, channel->out + channel->out_sent, channel->out_bytes - channel->out_sent);
        if (sent < 0) return false;
        if (sent == 0) break;
        channel->out_sent += (size_t)sent;
    }
    const bool all = channel->out_sent == channel->out_bytes;
    if (all) channel->out_sent = channel->out_bytes = 0;
    channel_wait(channel, all ? EPOLLIN : EPOLLIN | EPOLLOUT);
    return true;
}
