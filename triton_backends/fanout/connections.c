/* Connections from their first packet to their last, and the epoll that waits for all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "connection.h"
#include "failures.h"

enum {
    MOST_READS = 16, /* at a time: others wait */
    MOST_UNHEARD_BYTES = 8 << 20,
    UNHEARD_BYTES = 512 /* more than nghttp2 holds of a call whose request is sent, or is not to be sent any more */
};
static const uint64_t CONNECT_NS = 1000000000; /* until the server speaks */
static const uint64_t LEAVE_NS = 60000000000;  /* for answers that nobody waits for */

bool loop_open(Loop *loop, Tls *tls, Problem *problem) {
    *loop = (Loop){.epoll = -1, .tls = tls, .last_touched = &loop->touched};
    if (!http2_load(problem)) return false;
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    return loop->epoll >= 0 || fail(problem, "no epoll");
}

void loop_close(Loop *loop) {
    if (loop->epoll >= 0) close(loop->epoll);
    intake_close(&loop->intake);
    timers_free(&loop->timers);
}

static void out_of_patience(Timer *timer) {
    Connection *connection = OWNER(timer, Connection, patience);
    if (connection->channel.problem.text[0] == '\0')
        fail(&connection->channel.problem, "failed to connect: the server %s in time",
             connection->state == CONNECTING ? "does not accept" : "says nothing");
    connection_end(connection, connection->channel.problem.text);
}

Connection *connection_open(Loop *loop, const Address *address, ConnectionOwner *owner) {
    Connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) return NULL;
    connection->loop = loop;
    connection->owner = owner;
    connection->address = *address;
    connection->channel = (Channel){.epoll = loop->epoll, .user = connection, .socket = -1};
    connection->next = loop->connections;
    loop->connections = connection;
    const bool opened = transport_open(connection);
    /* where it failed already that is told later, as any failure is */
    timer_set(&loop->timers, &connection->patience, loop->now_ns + (opened ? CONNECT_NS : 0), out_of_patience);
    return connection;
}

void connection_touch(Connection *connection) {
    if (connection->touched || connection->state == ENDED) return;
    connection->touched = true;
    connection->next_touched = NULL;
    *connection->loop->last_touched = connection;
    connection->loop->last_touched = &connection->next_touched;
}

void connection_call(Connection *connection, Stream *stream) {
    stream->status = -1;
    stream->connection = connection;
    stream->next = connection->streams;
    stream->previous = NULL;
    if (stream->next != NULL) stream->next->previous = stream;
    connection->streams = stream;
    if (connection->heard) http2_submit(connection, stream);
}

/* Its connection knows it no longer. */
static void let_go(Stream *stream) {
    Connection *connection = stream->connection;
    if (connection->channel.gathered_count > 0) channel_keep(&connection->channel); /* its message may go */
    if (stream->id > 0) {
        http2_forget(connection, stream);
        connection->unheard++;
    }
    *(stream->previous != NULL ? &stream->previous->next : &connection->streams) = stream->next;
    if (stream->next != NULL) stream->next->previous = stream->previous;
    stream->connection = NULL;
}

void connection_forsake(Stream *stream) {
    Connection *connection = stream->connection;
    if (connection == NULL) return;
    if (connection->state == OPEN && stream->id > 0 && !http2_is_sent(stream)) http2_cancel(connection, stream);
    let_go(stream);
    connection_touch(connection);
    if (connection->unheard > MOST_UNHEARD_BYTES / UNHEARD_BYTES)
        connection_break(connection, "the server has left too many calls unanswered");
}

void stream_end(Stream *stream, const Outcome *outcome) {
    let_go(stream);
    stream->ended(stream, outcome);
}

static void left(Timer *timer) {
    Connection *connection = OWNER(timer, Connection, patience);
    if (connection->streams == NULL) connection_end(connection, "closed");
    else timer_set(&connection->loop->timers, timer, connection->loop->now_ns + LEAVE_NS, left);
}

void connection_leave(Connection *connection) {
    connection->owner = NULL;
    connection->leaving = true;
    connection_touch(connection);
    if (connection->streams == NULL && connection->state != OPEN) return connection_end(connection, "closed");
    if (connection->state == OPEN && connection->heard)
        timer_set(&connection->loop->timers, &connection->patience, connection->loop->now_ns + LEAVE_NS, left);
}

void connection_break(Connection *connection, const char *why) {
    if (connection->state == ENDED) return;
    fail(&connection->channel.problem, "%s", why);
    timer_set(&connection->loop->timers, &connection->patience, connection->loop->now_ns, out_of_patience);
}

void connection_end(Connection *connection, const char *why) {
    if (connection->state == ENDED) return;
    Outcome outcome = {GRPC_UNAVAILABLE, false, ""};
    snprintf(outcome.details, sizeof outcome.details, "%s", why);
    connection->state = ENDED;
    timer_stop(&connection->loop->timers, &connection->patience);
    ConnectionOwner *owner = connection->owner;
    connection->owner = NULL;
    if (owner != NULL) owner->lost(owner, outcome.details);
    while (connection->streams != NULL) stream_end(connection->streams, &outcome);
}

static void begin(Connection *connection) {
    connection->state = OPEN;
    if (!http2_begin(connection)) return connection_end(connection, connection->channel.problem.text);
    connection_touch(connection);
}

/* A server that closes before its first word may be one of another kind. */
static void closed(Connection *connection) {
    const Problem problem = connection->channel.problem;
    if (!connection->heard) fail(&connection->channel.problem, "%s before it spoke HTTP/2; is it a gRPC server?", problem.text);
    connection_end(connection, connection->channel.problem.text);
}

/* Read once, and let answers keep what they need of it; `more`: there may be more to read. */
static bool receive_some(Connection *connection, bool *more) {
    Intake *intake = &connection->loop->intake;
    Buffer *buffer = intake_buffer(intake);
    if (buffer == NULL) return connection_end(connection, "out of memory"), false;
    const ssize_t got = channel_read(&connection->channel, buffer->bytes, buffer->room);
    if (got < 0) return closed(connection), false;
    const bool good = got == 0 || http2_received(connection, buffer->bytes, (size_t)got);
    *more = intake_filled(intake, (size_t)got) || (got > 0 && connection->channel.secured != NULL);
    if (!good) connection_end(connection, connection->channel.problem.text);
    return good;
}

static void receive(Connection *connection) {
    bool more = true;
    for (int i = 0; i < MOST_READS && more; i++)
        if (!receive_some(connection, &more)) return;
    connection_touch(connection);
}

void connection_ready(Connection *connection, uint32_t events) {
    if (connection->state == ENDED) return;
    if (connection->state != OPEN) {
        const int done = transport_connect(connection);
        if (done > 0) begin(connection);
        if (done < 0) connection_end(connection, connection->channel.problem.text);
        return;
    }
    if (events & ~(uint32_t)EPOLLOUT) receive(connection);
    connection_touch(connection);
}

static void flush(Connection *connection) {
    if (connection->state != OPEN) return;
    if (!http2_send(connection)) return connection_end(connection, connection->channel.problem.text);
    const bool done = connection->leaving && connection->streams == NULL && connection->unheard == 0;
    if (done && connection->channel.out_bytes == 0) return connection_end(connection, "closed");
    if (!http2_idle(connection)) return;
    if (!connection->leaving) fail(&connection->channel.problem, "the server breaks the rules of HTTP/2");
    connection_end(connection, connection->channel.problem.text);
}

static void connection_free(Connection *connection) {
    http2_end(connection);
    channel_close(&connection->channel);
    free(connection);
}

void loop_flush(Loop *loop) {
    while (loop->touched != NULL) {
        Connection *connection = loop->touched;
        loop->touched = connection->next_touched;
        if (loop->touched == NULL) loop->last_touched = &loop->touched;
        connection->touched = false;
        flush(connection);
    }
}

void loop_bury(Loop *loop) {
    for (Connection **link = &loop->connections; *link != NULL;) {
        Connection *connection = *link;
        if (connection->state != ENDED) {
            link = &connection->next;
            continue;
        }
        *link = connection->next;
        connection_free(connection);
    }
}

void loop_hang_up(Loop *loop, const char *why) {
    for (Connection *connection = loop->connections; connection != NULL; connection = connection->next)
        connection_end(connection, why);
    loop_flush(loop);
}
