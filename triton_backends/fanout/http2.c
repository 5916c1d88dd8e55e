/* Frames by nghttp2: each call is a stream. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../wire/frames.h"
#include "connection.h"
#include "failures.h"

enum { TLS_ALERT = 21, TLS_MAJOR = 3 }; /* how a TLS server answers plain text */

static nghttp2_session_callbacks *callbacks;

/* ---- a call's request ---- */

static ssize_t on_read(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t room, uint32_t *flags,
                       nghttp2_data_source *source, void *user) {
    (void)buffer, (void)source, (void)user;
    const Stream *stream = h2.session_get_stream_user_data(session, id);
    if (stream == NULL) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* it was forsaken */
    const size_t left = message_bytes(stream->message) - stream->sent, size = left < room ? left : room;
    *flags = NGHTTP2_DATA_FLAG_NO_COPY | (size == left ? NGHTTP2_DATA_FLAG_EOF : 0);
    return (ssize_t)size;
}

static int on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t size,
                        nghttp2_data_source *source, void *user) {
    (void)source;
    Connection *connection = user;
    Stream *stream = h2.session_get_stream_user_data(session, frame->stream_id);
    if (stream == NULL) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    return frames_take(&connection->channel, head, stream->message, &stream->sent, size);
}

void http2_submit(Connection *connection, Stream *stream) {
    const nghttp2_nv headers[] = {
        nghttp2_header(":method", "POST"),
        nghttp2_header(":scheme", connection->channel.secured != NULL ? "https" : "http"),
        nghttp2_header(":path", "/inference.GRPCInferenceService/ModelInfer"),
        nghttp2_header(":authority", connection->address.text),
        nghttp2_header("te", "trailers"),
        nghttp2_header("content-type", "application/grpc"),
        nghttp2_header("user-agent", "elasticrec"),
    };
    const nghttp2_data_provider body = {.read = on_read};
    stream->id = h2.submit_request(connection->session, NULL, headers, sizeof headers / sizeof *headers, &body, stream);
    if (stream->id < 0) connection_break(connection, h2.strerror(stream->id));
    connection_touch(connection);
}

/* ---- its answer ---- */

/* What comes of a broken answer later is not waited for. */
static void break_off(Connection *connection, Stream *stream) {
    Outcome outcome = {.status = GRPC_INTERNAL};
    memcpy(outcome.details, stream->details, sizeof outcome.details);
    http2_cancel(connection, stream);
    stream_end(stream, &outcome);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                     const uint8_t *value, size_t value_size, uint8_t flags, void *user) {
    (void)flags;
    Stream *stream = h2.session_get_stream_user_data(session, frame->stream_id);
    if (stream == NULL) return 0;
    answer_header(stream, name, name_size, value, value_size);
    if (stream->broken) break_off(user, stream);
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t size, void *user) {
    (void)flags;
    Stream *stream = h2.session_get_stream_user_data(session, id);
    if (stream == NULL) return 0;
    answer_data(stream, data, size);
    if (stream->broken) break_off(user, stream);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *user) {
    Connection *connection = user;
    Stream *stream = h2.session_get_stream_user_data(session, id);
    if (stream != NULL) {
        Outcome outcome = {0};
        answer_judge(stream, code, &outcome);
        stream_end(stream, &outcome);
    }
    connection->unheard--;
    connection_touch(connection);
    return 0;
}

/* A request that could not be begun: the server goes away. */
static int on_frame_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int code, void *user) {
    (void)session;
    Connection *connection = user;
    if (frame->type != NGHTTP2_HEADERS) return 0;
    for (Stream *stream = connection->streams; stream != NULL; stream = stream->next)
        if (stream->id == frame->stream_id) {
            Outcome outcome = {GRPC_UNAVAILABLE, true, ""};
            snprintf(outcome.details, sizeof outcome.details, "%s",
                     connection->leaving ? connection->channel.problem.text : h2.strerror(code));
            stream_end(stream, &outcome);
            break;
        }
    return 0;
}

/* Make calls of what waited for the server's first word. */
static void heard(Connection *connection) {
    connection->heard = true;
    timer_stop(&connection->loop->timers, &connection->patience);
    for (Stream *stream = connection->streams; stream != NULL; stream = stream->next)
        http2_submit(connection, stream);
}

static void goes_away(Connection *connection, const nghttp2_goaway *frame) {
    ConnectionOwner *owner = connection->owner;
    char text[80];
    copy_printable(frame->text, frame->text_size, text, sizeof text);
    fail(&connection->channel.problem, "the server ended the connection with GOAWAY (%s%s%s)",
         h2.http2_strerror(frame->error_code), *text != '\0' ? ": " : "", text);
    connection_leave(connection);
    if (owner != NULL) owner->leaving(owner, connection->channel.problem.text);
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    (void)session;
    Connection *connection = user;
    if (frame->type == NGHTTP2_SETTINGS && !connection->heard) heard(connection);
    if (frame->type == NGHTTP2_GOAWAY && !connection->leaving)
        goes_away(connection, (const nghttp2_goaway *)frame);
    return 0;
}

bool http2_is_sent(const Stream *stream) {
    return stream->sent == message_bytes(stream->message);
}

void http2_cancel(Connection *connection, const Stream *stream) {
    h2.submit_rst_stream(connection->session, 0, stream->id, NGHTTP2_CANCEL);
}

void http2_forget(Connection *connection, const Stream *stream) {
    h2.session_set_stream_user_data(connection->session, stream->id, NULL);
}

/* ---- a session ---- */

static void set_callbacks(nghttp2_session_callbacks *made) {
    h2.session_callbacks_set_on_header_callback(made, on_header);
    h2.session_callbacks_set_on_data_chunk_recv_callback(made, on_data);
    h2.session_callbacks_set_on_stream_close_callback(made, on_stream_close);
    h2.session_callbacks_set_on_frame_recv_callback(made, on_frame);
    h2.session_callbacks_set_on_frame_not_send_callback(made, on_frame_not_sent);
    h2.session_callbacks_set_send_data_callback(made, on_send_data);
}

bool http2_load(Problem *problem) {
    return nghttp2_load(&callbacks, set_callbacks, problem);
}

bool http2_begin(Connection *connection) {
    nghttp2_session *session = NULL;
    int code = h2.session_client_new(&session, callbacks, connection);
    connection->session = session;
    if (code == 0) code = nghttp2_greet(session, 0); /* calls come from here alone */
    return code == 0 || fail(&connection->channel.problem, "%s", h2.strerror(code));
}

void http2_end(Connection *connection) {
    if (connection->session != NULL) h2.session_del(connection->session);
}

/* Whether what a server says first can be HTTP/2's: a frame of settings. */
static bool check_first(Connection *connection, const uint8_t *bytes, size_t size) {
    char text[FIRST_BYTES + 1];
    const size_t room = FIRST_BYTES - connection->first_got, more = size < room ? size : room;
    memcpy(connection->first + connection->first_got, bytes, more);
    connection->first_got += more;
    if (connection->first_got < 4 || connection->first[3] == NGHTTP2_SETTINGS) return true;
    copy_printable(connection->first, connection->first_got, text, sizeof text);
    if (connection->channel.secured == NULL && connection->first[0] == TLS_ALERT && connection->first[1] == TLS_MAJOR)
        return fail(&connection->channel.problem, "the server speaks TLS; set ELASTICREC_TLS_CA");
    return fail(&connection->channel.problem, "it is no gRPC server: it speaks %s, not HTTP/2 (it says \"%s\")",
                strncmp(text, "HTTP/1", 6) == 0 ? "HTTP/1" : "something else", text);
}

bool http2_received(Connection *connection, const uint8_t *bytes, size_t size) {
    if (!connection->heard && !check_first(connection, bytes, size)) return false;
    const ssize_t used = h2.session_mem_recv(connection->session, bytes, size);
    return used >= 0 || fail(&connection->channel.problem, "broken HTTP/2: %s", h2.strerror((int)used));
}

bool http2_send(Connection *connection) {
    return frames_send(connection->session, &connection->channel);
}

bool http2_idle(const Connection *connection) {
    return !h2.session_want_read(connection->session) && !h2.session_want_write(connection->session);
}
