#include "nghttp2.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

static const char *const LIBRARY = "libnghttp2.so.14";
enum { WINDOW_BYTES = 1 << 30, STREAM_WINDOW_BYTES = 1 << 26, FRAME_BYTES = 1 << 20 };

struct Nghttp2 h2;

static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;

static bool load_functions(Problem *problem) {
    /* DEEPBIND: the server may hold another version for libcurl, whose functions this one must not call */
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (library == NULL) return fail(problem, "%s; install Debian's libnghttp2-14", dlerror());
    const char *missing = NULL;
#define LOAD(type, name, ...)                                                                                         \
    *(void **)&h2.name = dlsym(library, "nghttp2_" #name);                                                            \
    if (h2.name == NULL) missing = #name;
    NGHTTP2_FUNCTIONS(LOAD)
    return missing == NULL || fail(problem, "%s: nghttp2_%s is not there", LIBRARY, missing);
}

static bool load(nghttp2_session_callbacks **callbacks, void (*set)(nghttp2_session_callbacks *), Problem *problem) {
    if (*callbacks != NULL) return true;
    if (!load_functions(problem)) return false;
    if (h2.session_callbacks_new(callbacks) != 0) return fail(problem, "%s: out of memory", LIBRARY);
    set(*callbacks);
    h2.session_callbacks_set_data_source_read_length_callback(*callbacks, nghttp2_frame_length);
    return true;
}

bool nghttp2_load(nghttp2_session_callbacks **callbacks, void (*set)(nghttp2_session_callbacks *), Problem *problem) {
    pthread_mutex_lock(&loading);
    const bool loaded = load(callbacks, set, problem);
    pthread_mutex_unlock(&loading);
    return loaded;
}

int nghttp2_greet(nghttp2_session *session, uint32_t most_streams) {
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, FRAME_BYTES},
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, most_streams},
    };
    const int code = h2.submit_settings(session, 0, settings, sizeof settings / sizeof *settings);
    return code != 0 ? code : h2.session_set_local_window_size(session, 0, 0, WINDOW_BYTES);
}

ssize_t nghttp2_frame_length(nghttp2_session *session, uint8_t type, int32_t id, int32_t session_window,
                             int32_t stream_window, uint32_t max_frame_size, void *user) {
    (void)session, (void)type, (void)id, (void)user;
    ssize_t length = session_window < stream_window ? session_window : stream_window;
    if (length > (ssize_t)max_frame_size) length = max_frame_size;
    return length < FRAME_BYTES ? length : FRAME_BYTES;
}

nghttp2_nv nghttp2_header(const char *name, const char *value) {
    return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value),
                        NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}
