#include "bundles.h"

#include <stdlib.h>
#include <string.h>

#include "../native/shell.h"

static const uint64_t PROBE_NS = 1000000000;

struct Attempt {
    Stream stream;
    Bundle *bundle; /* whose message it sends; NULL: a probe */
    Replica *replica;
    uint64_t begin_ns;
    Timer timer; /* to tell that there is no connection; a probe's patience */
    bool sent_again;
};

static void free_attempt(Attempt *attempt) {
    connection_forsake(&attempt->stream);
    timer_stop(&attempt->replica->service->loop->timers, &attempt->timer);
    buffer_release(attempt->stream.answer.held);
    replica_release(attempt->replica);
    free(attempt);
}

void attempt_leave(Attempt *attempt) {
    Bundle *bundle = attempt->bundle;
    int index = 0;
    while (bundle->attempts[index] != attempt) index++;
    bundle->attempts[index] = bundle->attempts[--bundle->attempt_count];
    attempt->replica->in_flight--;
    service_wake(bundle->service);
    free_attempt(attempt);
}

/* ---- what becomes of it ---- */

static void failed(Attempt *attempt, int status, const char *details) {
    Bundle *bundle = attempt->bundle;
    Replica *replica = attempt->replica;
    RemoteService *service = replica->service;
    const Reason reason = failure_reason(status, details);
    Problem problem;
    fail(&problem, "service %s: replica %s: %s: %s", service->shard->name, replica->address.text, status_name(status),
         details);
    count(service->counters, FAILURES + reason, service->index, 1);
    if (reason == GONE) replica_set_aside(replica, problem.text);
    if (reason == WRONG) replica_answered_wrongly(replica, problem.text);
    attempt_leave(attempt);
    bundle_attempt_failed(bundle, reason, problem.text);
}

static void answered(Attempt *attempt) {
    Bundle *bundle = attempt->bundle;
    Replica *replica = attempt->replica;
    RemoteService *service = replica->service;
    const uint64_t spent_ns = service->loop->now_ns - attempt->begin_ns;
    Problem problem;
    if (!sums_find(attempt->stream.answer.bytes, attempt->stream.answer.size, bundle->shapes, service->shard->tensor_count,
                   bundle->sums, &problem))
        return failed(attempt, GRPC_INTERNAL, problem.text);
    replica_answered(replica);
    count(service->counters, CALLS, service->index, 1);
    count(service->counters, CALL_DURATION_US, service->index, (double)spent_ns / 1000);
    if (service->settings->hedge_ppm > 0) latency_add(&service->window, spent_ns, service->settings->hedge_ppm);
    Buffer *answer = attempt->stream.answer.held;
    attempt->stream.answer.held = NULL;
    attempt_leave(attempt);
    bundle_answered(bundle, answer);
}

void attempt_late(Attempt *attempt, const Query *query, Problem *problem) {
    Replica *replica = attempt->replica;
    RemoteService *service = replica->service;
    const uint64_t asked_ns = service->loop->now_ns - attempt->begin_ns;
    const uint64_t query_ns = service->loop->now_ns - query->begin_ns;
    fail(problem, "service %s: replica %s did not answer within %.*f ms, the query's deadline; asked %.*f ms before",
         service->shard->name, replica->address.text, query_ns < 10000000 ? 2 : 0, (double)query_ns / 1e6,
         asked_ns < 10000000 ? 2 : 0, (double)asked_ns / 1e6); /* a try that began late has little time: not "0 ms" */
    count(service->counters, FAILURES + TIMEOUT, service->index, 1);
    if (2 * asked_ns >= query_ns) replica_set_aside(replica, problem->text); /* a second try may have come too late */
}

/* ---- how it is sent ---- */

static void no_connection(Timer *timer) {
    Attempt *attempt = OWNER(timer, Attempt, timer);
    const Problem problem = attempt->replica->problem;
    failed(attempt, GRPC_UNAVAILABLE, problem.text);
}

/* Where there is no connection it fails, but later: what begins a call must not see it end. */
static void send_attempt(Attempt *attempt) {
    Loop *loop = attempt->replica->service->loop;
    Connection *connection = replica_connection(attempt->replica);
    if (connection != NULL) connection_call(connection, &attempt->stream);
    else timer_set(&loop->timers, &attempt->timer, loop->now_ns, no_connection);
}

/* The server has gone away without a look at it: once more, on the connection that follows. */
static void send_again(Attempt *attempt) {
    const Stream old = attempt->stream;
    buffer_release(old.answer.held);
    attempt->stream = (Stream){.message = old.message, .limit = old.limit, .ended = old.ended};
    attempt->sent_again = true;
    send_attempt(attempt);
}

static void attempt_ended(Stream *stream, const Outcome *outcome) {
    Attempt *attempt = OWNER(stream, Attempt, stream);
    if (outcome->unseen && !attempt->sent_again && attempt->replica->listed) return send_again(attempt);
    if (outcome->status == GRPC_OK) return answered(attempt);
    failed(attempt, outcome->status, outcome->details);
}

static Attempt *attempt_new(Replica *replica, const Message *message, size_t limit,
                            void (*ended)(Stream *, const Outcome *)) {
    Attempt *attempt = calloc(1, sizeof *attempt);
    if (attempt == NULL) return NULL;
    attempt->stream = (Stream){.message = message, .limit = limit, .ended = ended};
    attempt->replica = replica;
    attempt->begin_ns = replica->service->loop->now_ns;
    replica->references++;
    return attempt;
}

bool attempt_begin(Bundle *bundle, Replica *replica) {
    const size_t limit = answer_limit(bundle->shapes, replica->service->shard->tensor_count);
    Attempt *attempt = attempt_new(replica, &bundle->message, limit, attempt_ended);
    if (attempt == NULL) return false;
    attempt->bundle = bundle;
    bundle->attempts[bundle->attempt_count++] = attempt;
    replica->in_flight++;
    send_attempt(attempt);
    return true;
}

/* ---- probes ---- */

static void tell_failure(Replica *replica, const Outcome *outcome) {
    Problem problem;
    fail(&problem, "%s: %s", status_name(outcome->status), outcome->details);
    replica_tell(replica, problem.text);
}

static void probe_ended(Stream *stream, const Outcome *outcome) {
    Attempt *attempt = OWNER(stream, Attempt, stream);
    Replica *replica = attempt->replica;
    replica->probing = false;
    if (outcome->status == GRPC_OK && replica->listed) replica_set_ready(replica);
    if (outcome->status != GRPC_OK) tell_failure(replica, outcome);
    free_attempt(attempt);
}

/* A later answer goes unheard, and another probe may be sent. */
static void probe_late(Timer *timer) {
    Attempt *attempt = OWNER(timer, Attempt, timer);
    attempt->replica->probing = false;
    replica_tell(attempt->replica, "it does not answer a probe in time");
    free_attempt(attempt);
}

void probe(Replica *replica) {
    RemoteService *service = replica->service;
    Connection *connection = replica_connection(replica);
    if (connection == NULL) return;
    const size_t limit = answer_limit(service->probe_shapes, service->shard->tensor_count);
    Attempt *attempt = attempt_new(replica, &service->probe, limit, probe_ended);
    if (attempt == NULL) return;
    replica->probing = true;
    timer_set(&service->loop->timers, &attempt->timer, attempt->begin_ns + PROBE_NS, probe_late);
    connection_call(connection, &attempt->stream);
}
