/* gRPC calls over HTTP/2 connections that share one epoll, for one thread at a time. */
#ifndef ELASTICREC_HTTP2_H
#define ELASTICREC_HTTP2_H

#include <sys/socket.h>

#include "../wire/incoming.h"
#include "../wire/nghttp2.h"
#include "messages.h"
#include "timers.h"

enum { DETAILS_BYTES = 256, ADDRESS_BYTES = 300 };

typedef struct Connection Connection;
typedef struct Stream Stream;
typedef struct Loop Loop;

/* How a call ended. */
typedef struct {
    int status; /* gRPC's; with 0 there is an answer */
    bool unseen; /* the server says that it has not looked at the call: it may be sent again */
    char details[DETAILS_BYTES];
} Outcome;

/* One call; who makes it fills in the first part, zeroes the second, and keeps it until `ended` is called: once. */
struct Stream {
    const Message *message;
    size_t limit; /* of the answer's bytes */
    void (*ended)(Stream *stream, const Outcome *outcome);

    Connection *connection; /* NULL where it is not under way */
    Stream *previous, *next;
    int32_t id;             /* 0: not sent yet */
    size_t sent;
    Incoming answer; /* what it holds is to be released by who made the call */
    int http_status, status;
    bool broken; /* the answer is none; `details` says why */
    char details[DETAILS_BYTES];
};

/* Who holds a connection is told of what becomes of it. */
typedef struct ConnectionOwner ConnectionOwner;
struct ConnectionOwner {
    /* It takes no new calls; those under way go on. No longer the owner's. */
    void (*leaving)(ConnectionOwner *owner, const char *why);
    void (*lost)(ConnectionOwner *owner, const char *why); /* it is gone; its calls end. No longer the owner's. */
};

/* What connections share. */
struct Loop {
    int epoll;
    Timers timers;
    Tls *tls; /* NULL: plain text */
    Connection *connections, *touched, **last_touched; /* all; those to be flushed, in this order */
    Intake intake;
    uint64_t now_ns;
};

bool loop_open(Loop *loop, Tls *tls, Problem *problem);
void loop_close(Loop *loop); /* after its connections */

/* Where a server is, as `connect` takes it. */
typedef struct {
    struct sockaddr_storage socket_address;
    socklen_t socket_address_bytes;
    char text[ADDRESS_BYTES]; /* HOST:PORT */
    char host[ADDRESS_BYTES]; /* that the server's certificate must be for */
} Address;

/* Begin to connect; NULL where memory is out. Calls wait until the server has spoken: none is sent before. */
Connection *connection_open(Loop *loop, const Address *address, ConnectionOwner *owner);

/* Make a call; it ends later, never within this function. */
void connection_call(Connection *connection, Stream *stream);

/* Nobody waits for a call any more: `ended` is not called, and the stream and its message may be freed.
 *
 * The server is told (RST_STREAM) only where it has not got all of the request, and so has not begun with it: Triton 2.51
 * crashes on calls that are cancelled while it works on them. Of others HTTP/2 keeps a few hundred bytes until the server
 * answers; one that leaves too many of them is hung up on. */
void connection_forsake(Stream *stream);

/* The owner lets go of it: it closes once no call is under way. */
void connection_leave(Connection *connection);

/* A connection's socket is ready, as epoll said. */
void connection_ready(Connection *connection, uint32_t events);

/* Send what is to be sent: to be called before waiting. */
void loop_flush(Loop *loop);

/* Free what has ended. No event that epoll has told of may be told to `connection_ready` afterwards. */
void loop_bury(Loop *loop);

/* End all connections and their calls. */
void loop_hang_up(Loop *loop, const char *why);

#endif
