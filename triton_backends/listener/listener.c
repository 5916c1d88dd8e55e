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

#include "../native/shell.h"
#include "session.h"

enum { MOST_SESSIONS = 4096, BACKLOG = 512, MOST_EVENTS = 64, DEAF_MS = 100, HOST_BYTES = 64 };
enum { MOST_STRANGERS = 1024, LOOK_MS = 500 /* for those whose time is over */ };
static const uint64_t HANDSHAKE_NS = 5000000000, TELL_NS = 1000000000; /* until it is done; between warnings */
static const char VARIABLE[] = "ELASTICREC_LISTEN";

/* The oldest comes first. */
typedef struct {
    Session *first, **end;
    size_t count;
} Sessions;

struct Listener {
    Core core;
    Tls *tls; /* NULL: plain text */
    Gate gate;
    int socket, stop;
    bool deaf;          /* no connection can be accepted for now */
    Sessions strangers; /* whose handshake is not done */
    Sessions guests;    /* all others */
    uint64_t told_ns;
    Intake intake;
    pthread_t thread;
};

/* ---- connections ---- */

static void add(Sessions *sessions, Session *session) {
    session->next = NULL;
    *sessions->end = session;
    sessions->end = &session->next;
    sessions->count++;
}

static void take_out(Sessions *sessions, Session *session) {
    Session **link = &sessions->first;
    while (*link != session) link = &(*link)->next;
    *link = session->next;
    if (*link == NULL) sessions->end = link;
    sessions->count--;
}

static bool hear(Listener *listener, int operation, uint32_t events) {
    struct epoll_event event = {events, {.ptr = listener}};
    return epoll_ctl(listener->gate.sockets, operation, listener->socket, &event) == 0;
}

static void bury(Sessions *sessions, Session *session) {
    take_out(sessions, session);
    session_bury(session);
}

static void serve(Listener *listener, Session *session) {
    if (!session_ready(session, &listener->core, &listener->intake)) bury(&listener->guests, session);
}

/* Warn of what is wrong with a handshake, or with renewed files; not of each, since anybody may come. */
static void tell(Listener *listener, const Session *session) {
    const char *problem = session->channel.problem.text;
    const uint64_t now = now_ns();
    if (*problem == '\0' || (listener->told_ns != 0 && now - listener->told_ns < TELL_NS)) return;
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    char host[HOST_BYTES] = "an unknown address";
    if (getpeername(session->channel.socket, (struct sockaddr *)&address, &size) == 0)
        getnameinfo((struct sockaddr *)&address, size, host, sizeof host, NULL, 0, NI_NUMERICHOST);
    log_warning("%s: a client at %s: %s", VARIABLE, host, problem);
    listener->told_ns = now;
}

/* A step of a handshake. What a client sends behind it is read when epoll tells of it again. */
static void meet(Listener *listener, Session *session) {
    const bool good = session_ready(session, &listener->core, &listener->intake);
    tell(listener, session);
    if (!good) return bury(&listener->strangers, session);
    if (!session->met) return;
    take_out(&listener->strangers, session);
    add(&listener->guests, session);
}

static void drop_late(Sessions *strangers) {
    while (strangers->first != NULL && now_ns() - strangers->first->opened_ns > HANDSHAKE_NS)
        bury(strangers, strangers->first);
}

static void welcome(Listener *listener, int socket) {
    const int one = 1, give_up_ms = GIVE_UP_MS;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &give_up_ms, sizeof give_up_ms);
    setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    Session *session = listener->guests.count < MOST_SESSIONS ? session_open(&listener->gate, socket, listener->tls) : NULL;
    if (session == NULL) {
        close(socket);
        return;
    }
    Sessions *strangers = &listener->strangers;
    if (strangers->count == MOST_STRANGERS) bury(strangers, strangers->first); /* they keep nobody else out */
    session->opened_ns = now_ns();
    add(session->met ? &listener->guests : strangers, session);
    if (session->met) serve(listener, session);
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

/* See to who is ready; false once the listener is to stop. Of handshakes, which take long, there is one step a time, that
 * no call waits for more: epoll tells of the others again. Who is new comes last, since others may have to go for it. */
static bool see(Listener *listener, const struct epoll_event *events, int count) {
    bool goes_on = true, knocked = false, met = false;
    for (int i = 0; i < count; i++) {
        Session *session = events[i].data.ptr;
        if (events[i].data.ptr == NULL) goes_on = false;
        else if (events[i].data.ptr == listener) knocked = true;
        else if (session->met) serve(listener, session);
        else if (!met) {
            meet(listener, session);
            met = true;
        }
    }
    if (knocked) accept_all(listener);
    return goes_on;
}

static void *run(void *argument) {
    Listener *listener = argument;
    struct epoll_event events[MOST_EVENTS];
    prctl(PR_SET_NAME, "elasticrec-lis");
    for (bool goes_on = true; goes_on;) {
        const int patience_ms = listener->deaf ? DEAF_MS : listener->strangers.count > 0 ? LOOK_MS : -1;
        const int count = gate_wait(&listener->gate, events, MOST_EVENTS, patience_ms);
        if (listener->deaf) listener->deaf = !hear(listener, EPOLL_CTL_MOD, EPOLLIN);
        goes_on = see(listener, events, count);
        drop_late(&listener->strangers);
    }
    while (listener->strangers.first != NULL) bury(&listener->strangers, listener->strangers.first);
    while (listener->guests.first != NULL) bury(&listener->guests, listener->guests.first);
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
    gate_dismantle(&listener->gate);
    if (listener->socket >= 0) close(listener->socket);
    if (listener->stop >= 0) close(listener->stop);
    core_close(&listener->core);
    if (listener->tls != NULL) tls_close(listener->tls);
    intake_close(&listener->intake);
    free(listener);
}

static bool start(Listener *listener, Problem *problem) {
    struct epoll_event stop = {EPOLLIN, {.ptr = NULL}};
    listener->stop = eventfd(0, EFD_CLOEXEC);
    return (gate_make(&listener->gate) && listener->stop >= 0 &&
            epoll_ctl(listener->gate.outer, EPOLL_CTL_ADD, listener->stop, &stop) == 0 &&
            hear(listener, EPOLL_CTL_ADD, EPOLLIN) && pthread_create(&listener->thread, NULL, run, listener) == 0) ||
           fail(problem, "%s: no thread, or no epoll: %s", VARIABLE, strerror(errno));
}

bool listener_open(TRITONBACKEND_Model *model, Listener **listener, Problem *problem) {
    const char *where = getenv(VARIABLE);
    *listener = NULL;
    if (where == NULL || *where == '\0') return true;
    Listener *made = calloc(1, sizeof *made);
    if (made == NULL) return fail(problem, "out of memory");
    made->gate = NO_GATE;
    made->socket = made->stop = -1;
    made->strangers.end = &made->strangers.first;
    made->guests.end = &made->guests.first;
    if (!session_load(problem) || !tls_server_open(&made->tls, problem) || !core_open(model, &made->core, problem) ||
        !listen_at(made, where, problem) || !start(made, problem)) {
        dismantle(made);
        return false;
    }
    *listener = made;
    return true;
}

void listener_instances(Listener *listener, int change) {
    if (listener != NULL) gate_count(&listener->gate, &listener->gate.instances, change);
}

void listener_close(Listener *listener) {
    const uint64_t one = 1;
    if (listener == NULL) return;
    while (write(listener->stop, &one, sizeof one) < 0 && errno == EINTR) continue;
    pthread_join(listener->thread, NULL);
    dismantle(listener);
}
