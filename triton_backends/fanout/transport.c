#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "connection.h"

enum { GIVE_UP_MS = 10000 }; /* on a peer whose kernel does not acknowledge what was sent: its machine is gone */
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

bool transport_send(Connection *connection) {
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

char *transport_room(Connection *connection, size_t size) {
    if (connection->out_room - connection->out_bytes < size) {
        const size_t room = 2 * connection->out_room + size;
        char *out = realloc(connection->out, room);
        if (out == NULL) return NULL;
        connection->out = out;
        connection->out_room = room;
    }
    char *here = connection->out + connection->out_bytes;
    connection->out_bytes += size;
    return here;
}

bool transport_append(Connection *connection, const void *bytes, size_t size) {
    char *here = transport_room(connection, size);
    if (here == NULL) return fail(&connection->problem, "out of memory");
    memcpy(here, bytes, size);
    return true;
}
