/* Load on one server: the fan-out router's client without the router, some calls always under way, each one timed. Each has
 * a connection of its own, as each of several front ends has one, and one call at a time for a shard of one instance. */
#include <errno.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "../fanout/failures.h"
#include "../fanout/http2.h"

#define EXPORTED __attribute__((visibility("default")))

enum { STOP_MS = 100 /* between two looks whether it is to end */, MOST_EVENTS = 64, MOST_TENSORS = 256, MOST_ANSWER_BYTES = 1 << 30 };

/* A tensor (1, n) of numbers of 4 bytes. */
typedef struct {
    const char *name, *datatype;
    const void *numbers;
    int64_t count;
} LoadTensor;

typedef struct {
    const LoadTensor *tensors;
    int64_t count;
} LoadQuery;

/* What is asked, of whom, and below it what came of that. */
typedef struct {
    const char *address, *host, *port; /* HOST:PORT, and its parts: both numbers */
    const char *model, *version;
    const LoadQuery *queries; /* in turn, again and again */
    int64_t query_count, in_flight;
    uint64_t duration_ns;
    uint64_t patience_ns; /* with the first answer, and after `duration_ns` with the last ones */
    uint64_t *latencies_ns; /* of the first `room` calls */
    int64_t room;
    atomic_int stop; /* set by whoever wants it to end: no call begins any more */

    int64_t calls;
    uint64_t took_ns; /* from the first call to the last answer */
    Problem problem;
} Load;

typedef struct LoadRun LoadRun;

/* One after another on a connection. */
typedef struct {
    Stream stream;
    LoadRun *run;
    ConnectionOwner owner;
    Connection *connection; /* NULL once it is gone */
    uint64_t begin_ns;
} Call;

struct LoadRun {
    Load *load;
    Loop loop;
    Message *messages;      /* a query each */
    Call *calls;            /* `in_flight` of them */
    int64_t under_way, next_query;
    uint64_t begin_ns; /* 0: before the first answers, which are not counted: they took the connections' time too */
    Timer patience;
    bool failed, given_up;
};

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1000000000 * (uint64_t)now.tv_sec + (uint64_t)now.tv_nsec;
}

/* The first problem counts; no call begins after it. */
static void tell(LoadRun *run, const char *what, const char *why) {
    if (!run->failed) fail(&run->load->problem, "%s: %s", what, why);
    run->failed = true;
}

static void gone(ConnectionOwner *owner, const char *why) {
    Call *call = OWNER(owner, Call, owner);
    call->connection = NULL;
    tell(call->run, status_name(GRPC_UNAVAILABLE), why);
}

static void out_of_patience(Timer *timer) {
    LoadRun *run = OWNER(timer, LoadRun, patience);
    char why[80];
    snprintf(why, sizeof why, "%lld calls were not answered in time", (long long)run->under_way);
    tell(run, status_name(GRPC_UNAVAILABLE), why);
    run->given_up = true;
}

/* ---- calls ---- */

static void call_ended(Stream *stream, const Outcome *outcome);

static void begin_call(Call *call) {
    LoadRun *run = call->run;
    const Message *message = run->messages + run->next_query++ % run->load->query_count;
    call->stream = (Stream){.message = message, .limit = MOST_ANSWER_BYTES, .ended = call_ended};
    call->begin_ns = run->loop.now_ns;
    run->under_way++;
    connection_call(call->connection, &call->stream);
}

static void begin(LoadRun *run) {
    run->begin_ns = run->loop.now_ns;
    run->next_query = 0;
    timer_set(&run->loop.timers, &run->patience, run->begin_ns + run->load->duration_ns + run->load->patience_ns,
              out_of_patience);
    for (int64_t i = 0; i < run->load->in_flight; i++) begin_call(run->calls + i);
}

static void count_call(Load *load, uint64_t latency_ns, uint64_t took_ns) {
    if (load->calls < load->room) load->latencies_ns[load->calls] = latency_ns;
    load->calls++;
    load->took_ns = took_ns;
}

static void call_ended(Stream *stream, const Outcome *outcome) {
    Call *call = OWNER(stream, Call, stream);
    LoadRun *run = call->run;
    buffer_release(stream->answer.held);
    run->under_way--;
    if (outcome->status != GRPC_OK) return tell(run, status_name(outcome->status), outcome->details);
    if (run->failed) return;
    if (run->begin_ns == 0) {
        if (run->under_way == 0) begin(run);
        return;
    }
    const uint64_t spent_ns = run->loop.now_ns - run->begin_ns;
    count_call(run->load, run->loop.now_ns - call->begin_ns, spent_ns);
    if (spent_ns < run->load->duration_ns) begin_call(call);
}

/* ---- the loop ---- */

static int wait_ms(const Loop *loop) {
    const uint64_t at_ns = timers_next_ns(&loop->timers);
    const uint64_t left_ms = at_ns <= loop->now_ns ? 0 : (at_ns - loop->now_ns) / 1000000 + 1;
    return left_ms < STOP_MS ? (int)left_ms : STOP_MS;
}

/* What was asked for is waited for, also after a problem: Triton 2.51 crashes on calls that are cancelled. */
static void drive(LoadRun *run) {
    struct epoll_event events[MOST_EVENTS];
    Loop *loop = &run->loop;
    while (run->under_way > 0 && !run->given_up) {
        const int count = epoll_wait(loop->epoll, events, MOST_EVENTS, wait_ms(loop));
        if (count < 0 && errno != EINTR) tell(run, "no epoll", strerror(errno));
        if (atomic_load(&run->load->stop)) tell(run, "interrupted", "by its caller");
        loop->now_ns = now_ns();
        for (int i = 0; i < count; i++) connection_ready(events[i].data.ptr, events[i].events);
        timers_run(&loop->timers, loop->now_ns);
        loop_flush(loop);
        loop_bury(loop);
    }
}

/* ---- its beginning and end ---- */

static bool write_message(const Load *load, const LoadQuery *query, Message *message) {
    RequestTensor tensors[MOST_TENSORS];
    Piece pieces[MOST_TENSORS];
    if (query->count > MOST_TENSORS) return false;
    for (int64_t i = 0; i < query->count; i++) {
        const LoadTensor *tensor = query->tensors + i;
        if (strlen(tensor->name) >= TENSOR_NAME_BYTES) return false;
        pieces[i] = (Piece){tensor->numbers, 4 * (size_t)tensor->count};
        tensors[i] = (RequestTensor){.datatype = tensor->datatype, .pieces = pieces + i, .piece_count = 1};
        strcpy(tensors[i].name, tensor->name);
    }
    return message_write(message, load->model, load->version, tensors, query->count);
}

static bool write_messages(LoadRun *run) {
    Load *load = run->load;
    if (load->query_count < 1 || load->in_flight < 1)
        return fail(&load->problem, "expected queries, and calls under way, got %lld and %lld",
                    (long long)load->query_count, (long long)load->in_flight);
    run->messages = calloc((size_t)load->query_count, sizeof *run->messages);
    run->calls = calloc((size_t)load->in_flight, sizeof *run->calls);
    bool good = run->messages != NULL && run->calls != NULL;
    good = good && strlen(load->model) < NAME_BYTES && strlen(load->version) < NAME_BYTES;
    for (int64_t i = 0; good && i < load->query_count; i++)
        good = write_message(load, load->queries + i, run->messages + i);
    return good || fail(&load->problem, "a query is too large: its names, its tensors or all of it");
}

static bool find_address(Load *load, Address *address) {
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    const int error = getaddrinfo(load->host, load->port, &hints, &found);
    if (error != 0) return fail(&load->problem, "expected a numeric HOST:PORT: %s", gai_strerror(error));
    *address = (Address){.socket_address_bytes = found->ai_addrlen};
    memcpy(&address->socket_address, found->ai_addr, found->ai_addrlen);
    snprintf(address->text, sizeof address->text, "%s", load->address);
    freeaddrinfo(found);
    return true;
}

static bool connect_all(LoadRun *run) {
    Address address;
    if (!find_address(run->load, &address)) return false;
    run->loop.now_ns = now_ns();
    bool good = timer_set(&run->loop.timers, &run->patience, run->loop.now_ns + run->load->patience_ns,
                          out_of_patience);
    for (int64_t i = 0; good && i < run->load->in_flight; i++) {
        Call *call = run->calls + i;
        *call = (Call){.run = run, .owner = {gone, gone}};
        call->connection = connection_open(&run->loop, &address, &call->owner);
        good = call->connection != NULL;
    }
    return good || fail(&run->load->problem, "out of memory");
}

static void close_run(LoadRun *run) {
    for (int64_t i = 0; run->calls != NULL && i < run->load->in_flight; i++)
        if (run->calls[i].connection != NULL) connection_leave(run->calls[i].connection);
    loop_hang_up(&run->loop, "it is over");
    loop_bury(&run->loop);
    loop_close(&run->loop);
    for (int64_t i = 0; run->messages != NULL && i < run->load->query_count; i++) message_close(run->messages + i);
    free(run->messages);
    free(run->calls);
}

/* Call the server for a while; false and the problem where a call fails, which ends it. */
EXPORTED bool elasticrec_call_load(Load *load) {
    LoadRun run = {.load = load};
    if (loop_open(&run.loop, NULL, &load->problem) && write_messages(&run) && connect_all(&run)) {
        for (int64_t i = 0; i < load->in_flight; i++) begin_call(run.calls + i);
        drive(&run);
    } else run.failed = true;
    close_run(&run);
    return !run.failed;
}

/* Whether a load can begin at all; false and the problem where nghttp2 is missing. */
EXPORTED bool elasticrec_call_load_ready(Problem *problem) {
    Loop loop;
    const bool ready = loop_open(&loop, NULL, problem);
    loop_close(&loop);
    return ready;
}
