/* Inside a connection: `transport.c` connects its channel, `http2.c` makes frames of them, and `grpc.c` answers. */
#ifndef ELASTICREC_CONNECTION_H
#define ELASTICREC_CONNECTION_H

#include "http2.h"

enum { FIRST_BYTES = 24 };
typedef enum { CONNECTING, SHAKING_HANDS, OPEN, ENDED } State;

struct Connection {
    Loop *loop;
    ConnectionOwner *owner; /* NULL once it has let go */
    State state;
    Channel channel;
    nghttp2_session *session;
    Stream *streams; /* all of its calls */
    bool heard, leaving; /* the server has spoken; no new calls */
    size_t unheard;      /* streams that HTTP/2 still knows, but nobody here */
    uint8_t first[FIRST_BYTES]; /* that the server said */
    size_t first_got;
    bool touched;
    Connection *next_touched, *next;
    Timer patience; /* to connect; where it is leaving: with unheard streams */
    Address address;
};

/* The connection is gone: its calls end, and it is freed by `loop_bury`. */
void connection_end(Connection *connection, const char *why);

/* A call ends; its connection knows it no longer. */
void stream_end(Stream *stream, const Outcome *outcome);

/* Likewise, but later: what makes a call must not see it end. */
void connection_break(Connection *connection, const char *why);

/* Note that there may be something to send. */
void connection_touch(Connection *connection);

/* ---- transport.c ---- */

bool transport_open(Connection *connection); /* false and the problem where there is no socket */

/* Go on connecting; 1: it is open, 0: later, -1: it failed, and the problem says why. */
int transport_connect(Connection *connection);

/* ---- grpc.c ---- */

/* What comes of an answer; it may be `broken` by it. */
void answer_header(Stream *stream, const uint8_t *name, size_t name_size, const uint8_t *value, size_t value_size);
void answer_data(Stream *stream, const uint8_t *data, size_t size);
void answer_judge(const Stream *stream, uint32_t code, Outcome *outcome); /* its end, with HTTP/2's code */

/* Letters of what a server said; a point for each other byte. */
void copy_printable(const uint8_t *from, size_t size, char *text, size_t room);

/* ---- http2.c ---- */

bool http2_load(Problem *problem);
bool http2_begin(Connection *connection); /* on an open transport */
void http2_end(Connection *connection);
void http2_submit(Connection *connection, Stream *stream);
bool http2_received(Connection *connection, const uint8_t *bytes, size_t size);
bool http2_send(Connection *connection); /* what there is; false where the connection is broken */
bool http2_idle(const Connection *connection); /* nothing to be read or sent any more */
bool http2_is_sent(const Stream *stream); /* all of its request */
void http2_cancel(Connection *connection, const Stream *stream);
void http2_forget(Connection *connection, const Stream *stream); /* its frames go unheard from now on */

#endif
