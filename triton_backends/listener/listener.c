#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* accept4 */
#endif
#include "listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "session.h"

enum { MOST_SESSIONS = 4096, BACKLOG = 512, READ_BYTES = 1 << 18, MOST_EVENTS = 64, DEAF_MS = 100, HOST_BYTES = 64 };
static const char VARIABLE[] = "ELASTICREC_LISTEN";

struct Listener {
    Core core;
    int epoll, socket, stop;
    bool deaf; /* no connection can be accepted for now */
    Session *sessions;
    size_t session_count;
    uint8_t *buffer;
    pthread_t thread;
};

/* ---- connections ---- */

static bool hear(Listener *listener, int operation, uint32_t events) {
    struct epoll_event event = {events, {.ptr = listener}};
    return epoll_ctl(listener->epoll, operation, listener->socket, &event) == 0;
}

static void bury(Listener *listener, Session *session) {
    Session **link = &listener->sessions;
    while (*link != session) link = &(*link)->next;
    *link = session->next;
    listener->session_count--;
    session_bury(session);
}

static void serve(Listener *listener, Session *session) {
    if (!session_ready(session, &listener->core, listener->buffer, READ_BYTES)) bury(listener, session);
}

static void welcome(Listener *listener, int socket) {
    const int one = 1, give_up_ms = GIVE_UP_MS;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &give_up_ms, sizeof give_up_ms);
    setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    Session *session = listener->session_count < MOST_SESSIONS ? session_open(listener->epoll, socket) : NULL;
    if (session == NULL) {
        close(socket);
        return;
    }
    session->next = listener->sessions;
    listener->sessions = session;
    listener->session_count++;
    serve(listener, session);
}

static void accept_all(Listener *listener) {
    for (;;) {
        const int socket = accept4(listener->socket, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (socket >= 0) welcome(listener, socket);
        else if (errno == EAGAIN || errno == EWOULDBLOCK) return;
        else if (errno != EINTR && errno != ECONNABORTED) { /* out of descriptors or memory */
            listener->deaf = hear(listener, EPOLL_CTL_MOD, 0);
            return;
        }
    }
}

static void *run(void *argument) {
    Listener *listener = argument;
    struct epoll_event events[MOST_EVENTS];
    prctl(PR_SET_NAME, "elasticrec-lis");
    for (bool stopping = false; !stopping;) {
        const int count = epoll_wait(listener->epoll, events, MOST_EVENTS, listener->deaf ? DEAF_MS : -1);
        if (listener->deaf) listener->deaf = !hear(listener, EPOLL_CTL_MOD, EPOLLIN);
        for (int i = 0; i < count; i++) {
            void *ready = events[i].data.ptr;
            if (ready == NULL) stopping = true;
            else if (ready == listener) accept_all(listener);
            else serve(listener, ready);
        }
    }
    while (listener->sessions != NULL) bury(listener, listener->sessions);
    return NULL;
}

/* ---- where it listens ---- */

static bool wrong(const char *where, const char *why, Problem *problem) {
    return fail(problem, "%s=%s: expected HOST:PORT, an address of this machine that nobody listens at: %s", VARIABLE,
                where, why);
}

/* Split HOST:PORT; brackets around an IPv6 address are taken off. */
static bool split(const char *where, char host[HOST_BYTES], const char **port) {
    const char *colon = strrchr(where, ':');
    if (colon == NULL) return false;
    size_t size = (size_t)(colon - where);
    if (size >= 2 && where[0] == '[' && colon[-1] == ']') {
        where++;
        size -= 2;
    }
    if (size == 0 || size >= HOST_BYTES) return false;
    memcpy(host, where, size);
    host[size] = '\0';
    *port = colon + 1;
    return true;
}

static bool bind_to(Listener *listener, const struct addrinfo *address) {
    const int one = 1;
    listener->socket = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return listener->socket >= 0 && setsockopt(listener->socket, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
           bind(listener->socket, address->ai_addr, address->ai_addrlen) == 0 && listen(listener->socket, BACKLOG) == 0;
}

static bool listen_at(Listener *listener, const char *where, Problem *problem) {
    char host[HOST_BYTES];
    const char *port;
    struct addrinfo *address = NULL;
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    if (!split(where, host, &port)) return wrong(where, "there is no host or no port", problem);
    const int code = getaddrinfo(host, port, &hints, &address);
    if (code != 0) return wrong(where, gai_strerror(code), problem);
    const bool bound = bind_to(listener, address);
    if (!bound) wrong(where, strerror(errno), problem);
    freeaddrinfo(address);
    return bound;
}

/* ---- its life ---- */

static void dismantle(Listener *listener) {
    if (listener->epoll >= 0) close(listener->epoll);
    if (listener->socket >= 0) close(listener->socket);
    if (listener->stop >= 0) close(listener->stop);
    core_close(&listener->core);
    free(listener->buffer);
    free(listener);
}

static bool start(Listener *listener, Problem *problem) {
    struct epoll_event stop = {EPOLLIN, {.ptr = NULL}};
    listener->epoll = epoll_create1(EPOLL_CLOEXEC);
    listener->stop = eventfd(0, EFD_CLOEXEC);
    listener->buffer = malloc(READ_BYTES);
    return (listener->epoll >= 0 && listener->stop >= 0 && listener->buffer != NULL &&
            epoll_ctl(listener->epoll, EPOLL_CTL_ADD, listener->stop, &stop) == 0 &&
            hear(listener, EPOLL_CTL_ADD, EPOLLIN) && pthread_create(&listener->thread, NULL, run, listener) == 0) ||
           fail(problem, "%s: no thread, or no epoll: %s", VARIABLE, strerror(errno));
}

bool listener_open(TRITONBACKEND_Model *model, Listener **listener, Problem *problem) {
    const char *where = getenv(VARIABLE);
    *listener = NULL;
    if (where == NULL || *where == '\0') return true;
    Listener *made = calloc(1, sizeof *made);
    if (made == NULL) return fail(problem, "out of memory");
    made->epoll = made->socket = made->stop = -1;
    if (!session_load(problem) || !core_open(model, &made->core, problem) || !listen_at(made, where, problem) ||
        !start(made, problem)) {
        dismantle(made);
        return false;
    }
    *listener = made;
    return true;
}

void listener_close(Listener *listener) {
    const uint64_t one = 1;
    if (listener == NULL) return;
    while (write(listener->stop, &one, sizeof one) < 0 && errno == EINTR) continue;
    pthread_join(listener->thread, NULL);
    dismantle(listener);
}
