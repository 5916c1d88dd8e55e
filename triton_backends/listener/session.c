#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "../wire/frames.h"

enum {
    MOST_READS = 16, /* at a time: others wait */
    MOST_STREAMS = 256,
    MOST_CALLS = 2 * MOST_STREAMS, /* those too that were reset, until Triton has answered them */
    MOST_REQUEST_BYTES = 1 << 28
};

static nghttp2_session_callbacks *callbacks;

/* ---- calls and their streams ---- */

static void open_call(Session *session, Call *call) {
    atomic_fetch_add(&session->holders, 1);
    call->session = session;
    call->next = session->calls;
    if (call->next != NULL) call->next->previous = call;
    session->calls = call;
}

/* The stream is gone: its hold on the call goes once nothing of the answer waits to be sent. */
static void close_call(Session *session, Call *call) {
    *(call->previous != NULL ? &call->previous->next : &session->calls) = call->next;
    if (call->next != NULL) call->next->previous = call->previous;
    session->answered -= call->answered;
    call->stream = 0;
    call->next = session->closed;
    session->closed = call;
}

static void release_all(Call *calls) {
    while (calls != NULL) {
        Call *call = calls;
        calls = call->next;
        call_release(call);
    }
}

/* ---- requests ---- */

static int on_begin(nghttp2_session *http2, const nghttp2_frame *frame, void *user) {
    Session *session = user;
    if (frame->type != NGHTTP2_HEADERS || h2.session_get_stream_user_data(http2, frame->stream_id) != NULL) return 0;
    Call *call = atomic_load(&session->holders) <= MOST_CALLS ? calloc(1, sizeof *call) : NULL;
    if (call == NULL) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    call->stream = frame->stream_id;
    atomic_init(&call->holders, 1);
    open_call(session, call);
    h2.session_set_stream_user_data(http2, frame->stream_id, call);
    return 0;
}

static bool is(const uint8_t *text, size_t size, const char *wanted) {
    return size == strlen(wanted) && memcmp(text, wanted, size) == 0;
}

static int on_header(nghttp2_session *http2, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                     const uint8_t *value, size_t value_size, uint8_t flags, void *user) {
    (void)flags, (void)user;
    Call *call = h2.session_get_stream_user_data(http2, frame->stream_id);
    if (call != NULL && is(name, name_size, ":path"))
        call->known = is(value, value_size, "/inference.GRPCInferenceService/ModelInfer");
    return 0;
}

static void take_request(Call *call, Buffer *read, const uint8_t *data, size_t size) {
    switch (incoming_take(&call->request, MOST_REQUEST_BYTES, read, data, size)) {
        case TAKEN: return;
        case COMPRESSED: return call_fail(call, GRPC_UNIMPLEMENTED, "expected a message that is not compressed");
        case TOO_LONG:
            return call_fail(call, GRPC_RESOURCE_EXHAUSTED, "expected a message of at most %d bytes, got %zu",
                             MOST_REQUEST_BYTES, call->request.size);
        case NO_MEMORY:
            return call_fail(call, GRPC_RESOURCE_EXHAUSTED, "out of memory for a message of %zu bytes",
                             call->request.size);
        case MORE_THAN_ONE: return call_fail(call, GRPC_INVALID_ARGUMENT, "expected one message in a call");
    }
}

static int on_data(nghttp2_session *http2, uint8_t flags, int32_t id, const uint8_t *data, size_t size, void *user) {
    (void)flags;
    Session *session = user;
    Call *call = h2.session_get_stream_user_data(http2, id);
    if (call != NULL && call->known && call->status == GRPC_OK) take_request(call, session->read, data, size);
    return 0;
}

/* All of a request is there: it is made once the session is no longer locked. */
static int on_frame(nghttp2_session *http2, const nghttp2_frame *frame, void *user) {
    Session *session = user;
    if ((frame->flags & NGHTTP2_FLAG_END_STREAM) == 0 || (frame->type != NGHTTP2_DATA && frame->type != NGHTTP2_HEADERS))
        return 0;
    Call *call = h2.session_get_stream_user_data(http2, frame->stream_id);
    if (call == NULL) return 0;
    if (!call->known) call_fail(call, GRPC_UNIMPLEMENTED, "only ModelInfer is served here; all else at Triton's ports");
    else if (!incoming_is_whole(&call->request))
        call_fail(call, GRPC_INVALID_ARGUMENT, "the message is cut short");
    atomic_fetch_add(&call->holders, 1);
    *session->last_complete = call;
    session->last_complete = &call->after;
    return 0;
}

static int on_stream_close(nghttp2_session *http2, int32_t id, uint32_t code, void *user) {
    (void)code;
    Call *call = h2.session_get_stream_user_data(http2, id);
    if (call == NULL) return 0;
    h2.session_set_stream_user_data(http2, id, NULL);
    close_call(user, call);
    return 0;
}

/* ---- answers ---- */

/* A status message, percent-encoded in place of itself. */
static void encode(char details[DETAILS_BYTES]) {
    static const char figures[] = "0123456789ABCDEF";
    char text[DETAILS_BYTES];
    size_t length = 0;
    for (const char *letter = details; *letter != '\0' && length + 4 < sizeof text; letter++) {
        if (*letter >= ' ' && *letter <= '~' && *letter != '%') {
            text[length++] = *letter;
            continue;
        }
        text[length++] = '%';
        text[length++] = figures[(uint8_t)*letter >> 4];
        text[length++] = figures[*letter & 15];
    }
    text[length] = '\0';
    memcpy(details, text, length + 1);
}

static ssize_t on_read(nghttp2_session *http2, int32_t id, uint8_t *buffer, size_t room, uint32_t *flags,
                       nghttp2_data_source *source, void *user) {
    (void)buffer, (void)source, (void)user;
    const nghttp2_nv end = nghttp2_header("grpc-status", "0");
    const Call *call = h2.session_get_stream_user_data(http2, id);
    const size_t left = message_bytes(&call->answer) - call->sent, size = left < room ? left : room;
    *flags = NGHTTP2_DATA_FLAG_NO_COPY;
    if (size < left) return (ssize_t)size;
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    return h2.submit_trailer(http2, id, &end, 1) == 0 ? (ssize_t)size : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static int on_send_data(nghttp2_session *http2, nghttp2_frame *frame, const uint8_t *head, size_t size,
                        nghttp2_data_source *source, void *user) {
    (void)source;
    Session *session = user;
    Call *call = h2.session_get_stream_user_data(http2, frame->stream_id);
    return frames_take(&session->channel, head, &call->answer, &call->sent, size);
}

static int submit(Session *session, Call *call) {
    const nghttp2_data_provider body = {.read = on_read};
    call->answered = true;
    session->answered++;
    nghttp2_nv headers[4] = {nghttp2_header(":status", "200"), nghttp2_header("content-type", "application/grpc")};
    if (call->status == GRPC_OK) return h2.submit_response(session->http2, call->stream, headers, 2, &body);
    encode(call->details);
    snprintf(call->status_text, sizeof call->status_text, "%d", call->status);
    headers[2] = nghttp2_header("grpc-status", call->status_text);
    headers[3] = nghttp2_header("grpc-message", call->details);
    return h2.submit_response(session->http2, call->stream, headers, 4, NULL);
}

/* ---- the session ---- */

static void set_callbacks(nghttp2_session_callbacks *made) {
    h2.session_callbacks_set_on_begin_headers_callback(made, on_begin);
    h2.session_callbacks_set_on_header_callback(made, on_header);
    h2.session_callbacks_set_on_data_chunk_recv_callback(made, on_data);
    h2.session_callbacks_set_on_frame_recv_callback(made, on_frame);
    h2.session_callbacks_set_on_stream_close_callback(made, on_stream_close);
    h2.session_callbacks_set_send_data_callback(made, on_send_data);
}

bool session_load(Problem *problem) {
    return nghttp2_load(&callbacks, set_callbacks, problem);
}

Session *session_open(Gate *gate, int socket, Tls *tls) {
    Session *session = calloc(1, sizeof *session);
    if (session == NULL) return NULL;
    struct epoll_event event = {EPOLLIN, {.ptr = session}};
    atomic_init(&session->holders, 1);
    session->gate = gate;
    session->tls = tls;
    session->met = tls == NULL;
    pthread_mutex_init(&session->lock, NULL);
    session->last_complete = &session->complete;
    session->channel = (Channel){.epoll = gate->sockets, .user = session, .socket = socket, .events = EPOLLIN};
    if (h2.session_server_new(&session->http2, callbacks, session) == 0 &&
        nghttp2_greet(session->http2, MOST_STREAMS) == 0 && epoll_ctl(gate->sockets, EPOLL_CTL_ADD, socket, &event) == 0)
        return session;
    if (session->http2 != NULL) h2.session_del(session->http2);
    session->http2 = NULL;
    session->channel.socket = -1; /* not taken */
    session_release(session);
    return NULL;
}

void session_release(Session *session) {
    if (atomic_fetch_sub(&session->holders, 1) > 1) return;
    channel_close(&session->channel);
    pthread_mutex_destroy(&session->lock);
    free(session);
}

/* Send what can be sent; false where the connection is at its end. */
static bool flush(Session *session) {
    return frames_send(session->http2, &session->channel) &&
           (h2.session_want_read(session->http2) || h2.session_want_write(session->http2) ||
            session->channel.out_bytes > 0);
}

/* Whoever sent, or ended the session, tells the gate what is left. */
static void tell_unsent(Session *session) {
    const bool unsent = !session->ended && (session->channel.out_bytes > 0 || session->answered > 0);
    if (unsent == session->unsent) return;
    session->unsent = unsent;
    gate_count(session->gate, &session->gate->unsent, unsent ? 1 : -1);
}

static Call *take_closed(Session *session) {
    Call *calls = session->closed;
    session->closed = NULL;
    return calls;
}

static Call *take_complete(Session *session) {
    Call *calls = session->complete;
    session->complete = NULL;
    session->last_complete = &session->complete;
    return calls;
}

/* Go on with the handshake; false where it failed. */
static bool meet(Session *session) {
    const int done = channel_secure(&session->channel, session->tls, NULL);
    session->met = done > 0;
    return done == 0 || (done > 0 && flush(session));
}

static bool receive(Session *session, Intake *intake) {
    bool more = true;
    for (int i = 0; i < MOST_READS && more; i++) {
        session->read = intake_buffer(intake);
        if (session->read == NULL) return false;
        const ssize_t got = channel_read(&session->channel, session->read->bytes, session->read->room);
        if (got < 0) return false;
        if (h2.session_mem_recv(session->http2, session->read->bytes, (size_t)got) < 0) return false;
        more = intake_filled(intake, (size_t)got) || (got > 0 && session->channel.secured != NULL);
    }
    return true;
}

bool session_ready(Session *session, const Core *core, Intake *intake) {
    pthread_mutex_lock(&session->lock);
    if (!session->met) session->ended = !meet(session);
    else if (!session->ended) session->ended = !receive(session, intake) || !flush(session);
    tell_unsent(session);
    const bool ended = session->ended;
    Call *complete = take_complete(session), *closed = ended ? NULL : take_closed(session);
    pthread_mutex_unlock(&session->lock);
    while (complete != NULL) {
        Call *call = complete;
        complete = call->after;
        call_make(call, core);
        call_release(call);
    }
    release_all(closed);
    return !ended;
}

void session_answer(Call *call) {
    Session *session = call->session;
    Call *closed = NULL;
    pthread_mutex_lock(&session->lock);
    if (call->stream != 0 && !session->ended) {
        if (submit(session, call) != 0 || !flush(session)) {
            session->ended = true;
            shutdown(session->channel.socket, SHUT_RDWR); /* the listener sees that */
        } else {
            closed = take_closed(session);
        }
        tell_unsent(session);
    }
    pthread_mutex_unlock(&session->lock);
    release_all(closed);
}

void session_bury(Session *session) {
    pthread_mutex_lock(&session->lock);
    session->ended = true;
    while (session->calls != NULL) close_call(session, session->calls);
    h2.session_del(session->http2);
    session->http2 = NULL;
    tell_unsent(session);
    shutdown(session->channel.socket, SHUT_RDWR);
    epoll_ctl(session->channel.epoll, EPOLL_CTL_DEL, session->channel.socket, NULL);
    Call *closed = take_closed(session);
    pthread_mutex_unlock(&session->lock);
    release_all(closed);
    session_release(session);
}
