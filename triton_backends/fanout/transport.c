#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>

#include "connection.h"

bool transport_open(Connection *connection) {
    const Address *address = &connection->address;
    Channel *channel = &connection->channel;
    const int one = 1, give_up_ms = GIVE_UP_MS;
    channel->socket = socket(address->socket_address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (channel->socket < 0) return fail(&channel->problem, "no socket: %s", strerror(errno));
    setsockopt(channel->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(channel->socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &give_up_ms, sizeof give_up_ms);
    struct epoll_event event = {EPOLLOUT, {.ptr = channel->user}};
    channel->events = EPOLLOUT;
    if (epoll_ctl(channel->epoll, EPOLL_CTL_ADD, channel->socket, &event) != 0)
        return fail(&channel->problem, "no socket: %s", strerror(errno));
    const struct sockaddr *to = (const struct sockaddr *)&address->socket_address;
    if (connect(channel->socket, to, address->socket_address_bytes) != 0 && errno != EINPROGRESS)
        return fail(&channel->problem, "failed to connect: %s", strerror(errno));
    return true;
}

static int shake_hands(Connection *connection) {
    const int done = channel_secure(&connection->channel, connection->loop->tls, connection->address.host);
    const Problem problem = connection->channel.problem;
    if (done < 0) fail(&connection->channel.problem, "failed to connect: %s", problem.text);
    return done;
}

int transport_connect(Connection *connection) {
    if (connection->state == SHAKING_HANDS) return shake_hands(connection);
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(connection->channel.socket, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
    if (error != 0) {
        fail(&connection->channel.problem, "failed to connect: %s", strerror(error));
        return -1;
    }
    if (connection->loop->tls == NULL) {
        channel_wait(&connection->channel, EPOLLIN);
        return 1;
    }
    connection->state = SHAKING_HANDS;
    return shake_hands(connection);
}
