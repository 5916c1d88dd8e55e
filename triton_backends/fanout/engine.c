#include "engine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "../native/shell.h"

enum { MOST_EVENTS = 64 };
static const uint64_t TICK_NS = 250000000; /* between two looks for replicas that are back */

typedef struct AddressList AddressList;
struct AddressList {
    AddressList *next;
    int64_t service, count;
    Address *addresses;
};

struct Engine {
    const Settings *settings;
    Loop loop;
    RemoteService *services;
    int64_t service_count; /* that are open */
    Timer tick;
    int alarm; /* a timerfd: the next timer is due */
    uint64_t alarm_ns; /* when it rings; 0: it has rung */
    pthread_mutex_t turn; /* whose holder has all of the above to itself */
    pthread_t thread;
    int wake; /* an eventfd: there are addresses below, or it is the end */
    pthread_mutex_t lock;
    Query *queries, **last_query;
    AddressList *lists, **last_list;
    bool stopping;
};

RemoteService *engine_service(Engine *engine, int64_t index) {
    return engine->services + index;
}

/* ---- handed over by other threads ---- */

static void wake(Engine *engine) {
    const uint64_t one = 1;
    if (write(engine->wake, &one, sizeof one) < 0) log_warning("the router's thread: %s", strerror(errno));
}

void engine_set_addresses(Engine *engine, int64_t service, Address *addresses, int64_t count) {
    AddressList *list = malloc(sizeof *list);
    if (list == NULL) {
        free(addresses);
        return log_warning("service %s: out of memory", engine->settings->services[service].name);
    }
    *list = (AddressList){NULL, service, count, addresses};
    pthread_mutex_lock(&engine->lock);
    *engine->last_list = list;
    engine->last_list = &list->next;
    pthread_mutex_unlock(&engine->lock);
    wake(engine);
}

/* ---- a turn ---- */

static void look(Engine *engine) {
    for (int64_t k = 0; k < engine->service_count; k++)
        for (int64_t i = 0; i < engine->services[k].replica_count; i++) {
            Replica *replica = engine->services[k].replicas[i];
            if (!replica->ready && !replica->probing && !replica_rests(replica)) probe(replica);
        }
}

static void tick(Timer *timer) {
    Engine *engine = OWNER(timer, Engine, tick);
    look(engine);
    timer_set(&engine->loop.timers, timer, engine->loop.now_ns + TICK_NS, tick);
}

/* Take over what other threads left; false once the engine is to stop. */
static bool take_over(Engine *engine) {
    pthread_mutex_lock(&engine->lock);
    Query *query = engine->queries;
    AddressList *list = engine->lists;
    const bool stopping = engine->stopping;
    engine->queries = NULL;
    engine->lists = NULL;
    engine->last_query = &engine->queries;
    engine->last_list = &engine->lists;
    pthread_mutex_unlock(&engine->lock);
    if (list != NULL) timer_set(&engine->loop.timers, &engine->tick, engine->loop.now_ns, tick);
    for (AddressList *next; list != NULL; list = next) {
        next = list->next;
        service_set_addresses(engine->services + list->service, list->addresses, list->count);
        free(list->addresses);
        free(list);
    }
    for (Query *next; query != NULL; query = next) {
        next = query->next;
        query_begin(query, query->begin_ns + 1000 * (uint64_t)engine->settings->deadline_us);
    }
    return !stopping;
}

/* Have the engine's thread woken once the next timer is due. One that rings too soon does no harm. */
static void set_alarm(Engine *engine) {
    const uint64_t at_ns = timers_next_ns(&engine->loop.timers);
    if (engine->alarm_ns != 0 && engine->alarm_ns <= at_ns) return;
    const struct itimerspec at = {.it_value = {(time_t)(at_ns / 1000000000), (long)(at_ns % 1000000000)}};
    if (timerfd_settime(engine->alarm, TFD_TIMER_ABSTIME, &at, NULL) == 0) engine->alarm_ns = at_ns;
    else log_warning("the router's alarm: %s", strerror(errno));
}

/* All that is to be done now, by whoever has the turn; false once the engine is to stop. */
static bool work(Engine *engine) {
    const bool goes_on = take_over(engine);
    timers_run(&engine->loop.timers, engine->loop.now_ns);
    loop_flush(&engine->loop);
    set_alarm(engine);
    return goes_on;
}

static bool is_asked(Engine *engine) {
    pthread_mutex_lock(&engine->lock);
    const bool asked = engine->queries != NULL;
    pthread_mutex_unlock(&engine->lock);
    return asked;
}

/* Begin the queries that were handed over. Who has the turn now looks again after it, so that none is left. */
static void begin_queries(Engine *engine) {
    while (is_asked(engine) && pthread_mutex_trylock(&engine->turn) == 0) {
        engine->loop.now_ns = now_ns();
        work(engine);
        pthread_mutex_unlock(&engine->turn);
    }
}

void engine_submit(Engine *engine, Query *query) {
    query->next = NULL;
    pthread_mutex_lock(&engine->lock);
    *engine->last_query = query;
    engine->last_query = &query->next;
    pthread_mutex_unlock(&engine->lock);
    begin_queries(engine);
}

/* ---- the thread ---- */

static void finish(Engine *engine) {
    timer_stop(&engine->loop.timers, &engine->tick);
    for (int64_t k = 0; k < engine->service_count; k++) service_close(engine->services + k);
    loop_hang_up(&engine->loop, "the router stops");
    timers_run(&engine->loop.timers, engine->loop.now_ns); /* calls that found no connection */
}

static void empty(int fd) {
    uint64_t rung;
    if (read(fd, &rung, sizeof rung) < 0 && errno != EAGAIN) log_warning("the router's thread: %s", strerror(errno));
}

static void see(Engine *engine, const struct epoll_event *event) {
    if (event->data.ptr == &engine->wake) return empty(engine->wake);
    if (event->data.ptr != &engine->alarm) return connection_ready(event->data.ptr, event->events);
    empty(engine->alarm);
    engine->alarm_ns = 0;
}

static void *run(void *argument) {
    Engine *engine = argument;
    struct epoll_event events[MOST_EVENTS];
    bool goes_on = true;
    prctl(PR_SET_NAME, "elasticrec-fan");
    while (goes_on) {
        const int count = epoll_wait(engine->loop.epoll, events, MOST_EVENTS, -1);
        pthread_mutex_lock(&engine->turn);
        engine->loop.now_ns = now_ns();
        for (int i = 0; i < count; i++) see(engine, events + i);
        goes_on = work(engine);
        if (!goes_on) finish(engine);
        loop_bury(&engine->loop); /* in this thread alone: what epoll has told of is used no more */
        pthread_mutex_unlock(&engine->turn);
        begin_queries(engine);
    }
    return NULL;
}

/* ---- its beginning and end ---- */

static bool open_services(Engine *engine, Counters *counters, Problem *problem) {
    const int64_t count = engine->settings->service_count;
    engine->services = calloc((size_t)count, sizeof *engine->services);
    if (engine->services == NULL) return fail(problem, "out of memory");
    for (int64_t k = 0; k < count; k++, engine->service_count++)
        if (!service_open(engine->services + k, &engine->loop, engine->settings, k, counters, problem)) return false;
    return true;
}

/* Signals are the server's, not this thread's. */
static bool start_thread(Engine *engine, Problem *problem) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    const int error = pthread_create(&engine->thread, NULL, run, engine);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return error == 0 || fail(problem, "no thread: %s", strerror(error));
}

static void engine_free(Engine *engine) {
    for (int64_t k = 0; k < engine->service_count; k++) service_free(engine->services + k);
    free(engine->services);
    if (engine->wake >= 0) close(engine->wake);
    if (engine->alarm >= 0) close(engine->alarm);
    loop_close(&engine->loop);
    pthread_mutex_destroy(&engine->turn);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

static bool watch(Engine *engine, int *fd) {
    struct epoll_event event = {EPOLLIN, {.ptr = fd}};
    return *fd >= 0 && epoll_ctl(engine->loop.epoll, EPOLL_CTL_ADD, *fd, &event) == 0;
}

static bool open_all(Engine *engine, Tls *tls, Counters *counters, Problem *problem) {
    if (!loop_open(&engine->loop, tls, problem) || !open_services(engine, counters, problem)) return false;
    engine->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    engine->alarm = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (!watch(engine, &engine->wake) || !watch(engine, &engine->alarm))
        return fail(problem, "no eventfd, or no timerfd: %s", strerror(errno));
    engine->loop.now_ns = now_ns();
    if (!timer_set(&engine->loop.timers, &engine->tick, engine->loop.now_ns, tick))
        return fail(problem, "out of memory");
    set_alarm(engine);
    return start_thread(engine, problem);
}

Engine *engine_open(const Settings *settings, Tls *tls, Counters *counters, Problem *problem) {
    Engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) {
        fail(problem, "out of memory");
        return NULL;
    }
    engine->settings = settings;
    engine->wake = engine->alarm = -1;
    engine->last_query = &engine->queries;
    engine->last_list = &engine->lists;
    pthread_mutex_init(&engine->turn, NULL);
    pthread_mutex_init(&engine->lock, NULL);
    if (open_all(engine, tls, counters, problem)) return engine;
    engine_free(engine);
    return NULL;
}

void engine_close(Engine *engine) {
    pthread_mutex_lock(&engine->lock);
    engine->stopping = true;
    pthread_mutex_unlock(&engine->lock);
    wake(engine);
    pthread_join(engine->thread, NULL);
    engine_free(engine);
}
