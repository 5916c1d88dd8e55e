/* The part of nghttp2's API, version 1, that the router's calls and the shards' listener use.
 *
 * The library keeps functions, values and structs of its major version (libnghttp2.so.14) as they are, so no header is
 * needed to compile; it is opened when somebody needs it. Functions return 0 or a size where all went well,
 * else a negative code. Source: nghttp2.h of nghttp2/nghttp2.
 */
#ifndef ELASTICREC_NGHTTP2_H
#define ELASTICREC_NGHTTP2_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "../native/files.h"

typedef struct nghttp2_session nghttp2_session;
typedef struct nghttp2_session_callbacks nghttp2_session_callbacks;

enum {
    NGHTTP2_ERR_WOULDBLOCK = -504,
    NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE = -521, /* of one stream, which is reset */
    NGHTTP2_ERR_CALLBACK_FAILURE = -902
};
enum { NGHTTP2_DATA = 0, NGHTTP2_HEADERS = 1, NGHTTP2_SETTINGS = 4, NGHTTP2_GOAWAY = 7 };                 /* frames */
enum { /* flags */
    NGHTTP2_DATA_FLAG_EOF = 1,
    NGHTTP2_DATA_FLAG_NO_END_STREAM = 2,
    NGHTTP2_DATA_FLAG_NO_COPY = 4,
    NGHTTP2_FLAG_END_STREAM = 1
};
enum { NGHTTP2_NO_ERROR = 0, NGHTTP2_REFUSED_STREAM = 7, NGHTTP2_CANCEL = 8 };          /* ends of streams */
enum {
    NGHTTP2_SETTINGS_ENABLE_PUSH = 2,
    NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS = 3,
    NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE = 4,
    NGHTTP2_SETTINGS_MAX_FRAME_SIZE = 5
};
/* of a header: the library need not copy name and value */
enum { NGHTTP2_NV_FLAG_NO_COPY_NAME = 2, NGHTTP2_NV_FLAG_NO_COPY_VALUE = 4 };

typedef struct {
    uint8_t *name, *value;
    size_t name_size, value_size;
    uint8_t flags;
} nghttp2_nv;

/* how every frame begins */
typedef struct {
    size_t length;
    int32_t stream_id;
    uint8_t type, flags, reserved;
} nghttp2_frame;

typedef struct {
    nghttp2_frame head;
    int32_t last_stream_id;
    uint32_t error_code;
    uint8_t *text; /* what the server adds, of any bytes */
    size_t text_size;
} nghttp2_goaway;

typedef struct {
    int32_t id;
    uint32_t value;
} nghttp2_settings_entry;

typedef union {
    int fd;
    void *ptr;
} nghttp2_data_source;

typedef struct {
    nghttp2_data_source source;
    ssize_t (*read)(nghttp2_session *, int32_t stream, uint8_t *buffer, size_t room, uint32_t *flags,
                    nghttp2_data_source *, void *user);
} nghttp2_data_provider;

typedef int nghttp2_on_header(nghttp2_session *, const nghttp2_frame *, const uint8_t *name, size_t name_size,
                              const uint8_t *value, size_t value_size, uint8_t flags, void *user);
typedef int nghttp2_on_data(nghttp2_session *, uint8_t flags, int32_t stream, const uint8_t *data, size_t size,
                            void *user);
typedef int nghttp2_on_stream_close(nghttp2_session *, int32_t stream, uint32_t code, void *user);
typedef int nghttp2_on_frame(nghttp2_session *, const nghttp2_frame *, void *user);
typedef int nghttp2_on_frame_not_sent(nghttp2_session *, const nghttp2_frame *, int code, void *user);
typedef int nghttp2_send_data(nghttp2_session *, nghttp2_frame *, const uint8_t *head, size_t size,
                              nghttp2_data_source *, void *user); /* head: 9 bytes */
typedef ssize_t nghttp2_read_length(nghttp2_session *, uint8_t type, int32_t stream, int32_t session_window,
                                    int32_t stream_window, uint32_t max_frame_size, void *user);

/* type, name without `nghttp2_`, arguments */
#define NGHTTP2_FUNCTIONS(F)                                                                                          \
    F(const char *, strerror, int code)                                                                               \
    F(int, session_callbacks_new, nghttp2_session_callbacks **)                                                       \
    F(void, session_callbacks_set_on_header_callback, nghttp2_session_callbacks *, nghttp2_on_header *)               \
    F(void, session_callbacks_set_on_data_chunk_recv_callback, nghttp2_session_callbacks *, nghttp2_on_data *)        \
    F(void, session_callbacks_set_on_stream_close_callback, nghttp2_session_callbacks *, nghttp2_on_stream_close *)   \
    F(void, session_callbacks_set_on_frame_recv_callback, nghttp2_session_callbacks *, nghttp2_on_frame *)            \
    F(void, session_callbacks_set_on_frame_not_send_callback, nghttp2_session_callbacks *,                            \
      nghttp2_on_frame_not_sent *)                                                                                    \
    F(void, session_callbacks_set_send_data_callback, nghttp2_session_callbacks *, nghttp2_send_data *)               \
    F(void, session_callbacks_set_data_source_read_length_callback, nghttp2_session_callbacks *,                      \
      nghttp2_read_length *)                                                                                          \
    F(const char *, http2_strerror, uint32_t code) /* of a frame's code */                                            \
    F(void, session_callbacks_del, nghttp2_session_callbacks *)                                                       \
    F(void, session_callbacks_set_on_begin_headers_callback, nghttp2_session_callbacks *, nghttp2_on_frame *)          \
    F(int, session_server_new, nghttp2_session **, const nghttp2_session_callbacks *, void *user)                     \
    F(int, submit_response, nghttp2_session *, int32_t stream, const nghttp2_nv *, size_t count,                      \
      const nghttp2_data_provider *)                                                                                   \
    F(int, submit_trailer, nghttp2_session *, int32_t stream, const nghttp2_nv *, size_t count)                       \
    F(int, session_client_new, nghttp2_session **, const nghttp2_session_callbacks *, void *user)                     \
    F(void, session_del, nghttp2_session *)                                                                           \
    F(ssize_t, session_mem_recv, nghttp2_session *, const uint8_t *, size_t)                                          \
    F(ssize_t, session_mem_send, nghttp2_session *, const uint8_t **)                                                 \
    F(int, session_want_read, nghttp2_session *)                                                                      \
    F(int, session_want_write, nghttp2_session *)                                                                     \
    F(int, session_set_local_window_size, nghttp2_session *, uint8_t flags, int32_t stream, int32_t size)             \
    F(int, submit_settings, nghttp2_session *, uint8_t flags, const nghttp2_settings_entry *, size_t count)           \
    F(int32_t, submit_request, nghttp2_session *, const void *priority, const nghttp2_nv *, size_t count,             \
      const nghttp2_data_provider *, void *stream_user)                                                               \
    F(int, submit_rst_stream, nghttp2_session *, uint8_t flags, int32_t stream, uint32_t code)                        \
    F(void *, session_get_stream_user_data, nghttp2_session *, int32_t stream)                                        \
    F(int, session_set_stream_user_data, nghttp2_session *, int32_t stream, void *stream_user)

#define NGHTTP2_MEMBER(type, name, ...) type (*name)(__VA_ARGS__);
extern struct Nghttp2 {
    NGHTTP2_FUNCTIONS(NGHTTP2_MEMBER)
} h2; /* filled in by `nghttp2_load` */

/* Load the library, once, and make callbacks, once each; false and the problem where it is not there. */
bool nghttp2_load(nghttp2_session_callbacks **callbacks, void (*set)(nghttp2_session_callbacks *), Problem *problem);

/* Begin to speak on a new session: large windows and frames. */
int nghttp2_greet(nghttp2_session *session, uint32_t most_streams);

/* As large frames as the other side takes. */
ssize_t nghttp2_frame_length(nghttp2_session *, uint8_t type, int32_t stream, int32_t session_window,
                             int32_t stream_window, uint32_t max_frame_size, void *user);

nghttp2_nv nghttp2_header(const char *name, const char *value); /* which are not copied */

#endif
