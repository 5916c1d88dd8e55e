#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "connection.h"

enum {
    GIVE_UP_MS = 10000, /* on a peer whose kernel does not acknowledge what was sent: its machine is gone */
    LEAST_GATHERED_BYTES = 1024 /* fewer are copied as fast as they are told to the kernel apart */
};
#ifndef TCP_USER_TIMEOUT
#define TCP_USER_TIMEOUT 18
#endif

bool transport_open(Connection *connection) {
    const Address *address = &connection->address;
    const int one = 1, give_up_ms = GIVE_UP_MS;
    connection->socket = socket(address->socket_address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->socket < 0) return fail(&connection->problem, "no socket: %s", strerror(errno));
    setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(connection->socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &give_up_ms, sizeof give_up_ms);
    struct epoll_event event = {EPOLLOUT, {.ptr = connection}};
    connection->events = EPOLLOUT;
    if (epoll_ctl(connection->loop->epoll, EPOLL_CTL_ADD, connection->socket, &event) != 0)
        return fail(&connection->problem, "no socket: %s", strerror(errno));
    const struct sockaddr *to = (const struct sockaddr *)&address->socket_address;
    if (connect(connection->socket, to, address->socket_address_bytes) != 0 && errno != EINPROGRESS)
        return fail(&connection->problem, "failed to connect: %s", strerror(errno));
    return true;
}

void transport_close(Connection *connection) {
    if (connection->secured != NULL) tls_end(connection->secured);
    if (connection->socket >= 0) close(connection->socket);
    free(connection->out);
}

static void wait_for(Connection *connection, uint32_t events) {
    if (events == connection->events) return;
    struct epoll_event event = {events, {.ptr = connection}};
    if (epoll_ctl(connection->loop->epoll, EPOLL_CTL_MOD, connection->socket, &event) == 0) connection->events = events;
}

static int shake_hands(Connection *connection) {
    bool writes = false;
    Problem problem;
    const int done = tls_handshake(connection->secured, &writes, &problem);
    if (done < 0) fail(&connection->problem, "failed to connect: %s", problem.text);
    if (done >= 0) wait_for(connection, writes ? EPOLLOUT : EPOLLIN);
    return done;
}

int transport_connect(Connection *connection) {
    if (connection->state == SHAKING_HANDS) return shake_hands(connection);
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(connection->socket, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
    if (error != 0) {
        fail(&connection->problem, "failed to connect: %s", strerror(error));
        return -1;
    }
    if (connection->loop->tls == NULL) {
        wait_for(connection, EPOLLIN);
        return 1;
    }
    Problem problem;
    connection->state = SHAKING_HANDS;
    connection->secured = tls_begin(connection->loop->tls, connection->socket, connection->address.host, &problem);
    if (connection->secured != NULL) return shake_hands(connection);
    fail(&connection->problem, "failed to connect: %s", problem.text);
    return -1;
}

ssize_t transport_read(Connection *connection, void *bytes, size_t room) {
    if (connection->secured != NULL) return tls_read(connection->secured, bytes, room, &connection->problem);
    const ssize_t got = recv(connection->socket, bytes, room, 0);
    if (got > 0) return got;
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    fail(&connection->problem, "%s", got == 0 ? "the server closed the connection" : strerror(errno));
    return -1;
}

static ssize_t send_some(Connection *connection, const char *bytes, size_t size) {
    if (connection->secured != NULL) return tls_write(connection->secured, bytes, size, &connection->problem);
    const ssize_t sent = send(connection->socket, bytes, size, MSG_NOSIGNAL);
    if (sent >= 0) return sent;
    if (errno == EAGAIN || errno == EINTR) return 0;
    fail(&connection->problem, "%s", strerror(errno));
    return -1;
}

/* ---- what is to be sent ---- */

/* Make room behind what is to be sent. */
static bool reserve(Connection *connection, size_t size) {
    const size_t taken = connection->out_bytes + connection->gathered_bytes;
    if (connection->out_room - taken >= size) return true;
    const size_t room = 2 * connection->out_room + size;
    char *out = realloc(connection->out, room);
    if (out == NULL) return fail(&connection->problem, "out of memory");
    connection->out = out;
    connection->out_room = room;
    return true;
}

bool transport_append(Connection *connection, const void *bytes, size_t size) {
    if (!reserve(connection, size)) return false;
    memcpy(connection->out + connection->out_bytes, bytes, size);
    connection->out_bytes += size;
    return true;
}

bool transport_gather(Connection *connection, const void *bytes, size_t size) {
    const bool copied = connection->secured != NULL || size < LEAST_GATHERED_BYTES;
    if (copied || connection->gathered_count == MOST_GATHERED) return transport_append(connection, bytes, size);
    if (!reserve(connection, size)) return false;
    connection->gathered[connection->gathered_count++] = (Gathered){connection->out_bytes, {bytes, size}};
    connection->gathered_bytes += size;
    return true;
}

/* From behind, so that nothing is written over before it has moved. */
void transport_keep(Connection *connection) {
    size_t from = connection->out_bytes, to = from + connection->gathered_bytes;
    connection->out_bytes = to;
    while (connection->gathered_count > 0) {
        const Gathered *gathered = connection->gathered + --connection->gathered_count;
        to -= from - gathered->at;
        memmove(connection->out + to, connection->out + gathered->at, from - gathered->at);
        from = gathered->at;
        to -= gathered->piece.size;
        memcpy(connection->out + to, gathered->piece.bytes, gathered->piece.size);
    }
    connection->gathered_bytes = 0;
}

/* Send what is gathered, with all that is around it, as far as it goes; the rest is kept. */
static bool send_gathered(Connection *connection) {
    struct iovec parts[2 * MOST_GATHERED + 1];
    size_t count = 0, from = connection->out_sent;
    for (size_t i = 0; i <= connection->gathered_count; i++) {
        const Gathered *gathered = i < connection->gathered_count ? connection->gathered + i : NULL;
        const size_t to = gathered != NULL ? gathered->at : connection->out_bytes;
        if (to > from) parts[count++] = (struct iovec){connection->out + from, to - from};
        if (gathered != NULL) parts[count++] = (struct iovec){(void *)gathered->piece.bytes, gathered->piece.size};
        from = to;
    }
    const struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    const ssize_t sent = sendmsg(connection->socket, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) return fail(&connection->problem, "%s", strerror(errno));
    const size_t now = connection->out_sent + (sent > 0 ? (size_t)sent : 0);
    if (now == connection->out_bytes + connection->gathered_bytes) /* nothing is left that were to be moved */
        connection->gathered_count = connection->gathered_bytes = connection->out_bytes = 0;
    else transport_keep(connection);
    connection->out_sent = connection->out_bytes == 0 ? 0 : now;
    return true;
}

bool transport_send(Connection *connection) {
    if (connection->gathered_count > 0 && !send_gathered(connection)) return false;
    while (connection->out_sent < connection->out_bytes) {
        const ssize_t sent =
            send_some(connection, connection->out + connection->out_sent, connection->out_bytes - connection->out_sent);
        if (sent < 0) return false;
        if (sent == 0) break;
        connection->out_sent += (size_t)sent;
    }
    const bool all = connection->out_sent == connection->out_bytes;
    if (all) connection->out_sent = connection->out_bytes = 0;
    wait_for(connection, all ? EPOLLIN : EPOLLIN | EPOLLOUT);
    return true;
}
