#include "attempts.h"

#include <stdlib.h>
#include <string.h>

#include "../native/shell.h"

static const uint64_t LOST_NS = 60000000000; /* after which a call that nobody waits for is given up */
static const uint64_t PROBE_NS = 1000000000;

struct Attempt {
    Stream stream;
    Call *call;   /* NULL where nobody waits */
    Query *query; /* whose message it sends; NULL: a probe */
    Replica *replica;
    uint64_t begin_ns;
    Timer timer;
    bool sent_again, counted;
};

static void free_attempt(Attempt *attempt) {
    timer_stop(&attempt->replica->service->wire->timers, &attempt->timer);
    free(attempt->stream.answer);
    replica_release(attempt->replica);
    if (attempt->query != NULL) query_release(attempt->query);
    free(attempt);
}

void attempt_leave(Attempt *attempt) {
    Call *call = attempt->call;
    int place = 0;
    while (call->attempts[place] != attempt) place++;
    call->attempts[place] = call->attempts[--call->attempt_count];
    attempt->call = NULL;
    attempt->replica->in_flight--;
}

/* ---- what becomes of it ---- */

static void failed(Attempt *attempt, int status, const char *details) {
    Call *call = attempt->call;
    Replica *replica = attempt->replica;
    RemoteService *service = replica->service;
    const Reason reason = failure_reason(status, details);
    Problem problem;
    fail(&problem, "service %s: replica %s: %s: %s", service->shard->name, replica->place.text, status_name(status),
         details);
    count(service->counters, FAILURES + reason, service->place, 1);
    if (reason == GONE || reason == TIMEOUT) replica_set_aside(replica, problem.text);
    attempt_leave(attempt);
    free_attempt(attempt);
    call_attempt_failed(call, reason, problem.text);
}

static void answered(Attempt *attempt) {
    Call *call = attempt->call;
    Replica *replica = attempt->replica;
    RemoteService *service = replica->service;
    const uint64_t spent_ns = service->wire->now_ns - attempt->begin_ns;
    const void *sums;
    Problem problem;
    if (!sums_find(attempt->stream.answer, attempt->stream.answer_bytes, &call->shape, &sums, &problem))
        return failed(attempt, GRPC_INTERNAL, problem.text);
    replica_set_ready(replica);
    count(service->counters, CALLS, service->place, 1);
    count(service->counters, CALL_DURATION_US, service->place, (double)spent_ns / 1000);
    if (service->hedge_ppm > 0) latency_add(&service->window, spent_ns, service->hedge_ppm);
    uint8_t *answer = attempt->stream.answer;
    attempt->stream.answer = NULL;
    attempt_leave(attempt);
    free_attempt(attempt);
    call_succeeded(call, answer, sums);
}

void attempt_timed_out(Attempt *attempt, Problem *problem) {
    Replica *replica = attempt->replica;
    RemoteService *service = replica->service;
    const double waited_ms = (double)(service->wire->now_ns - attempt->begin_ns) / 1e6;
    fail(problem, "service %s: replica %s did not answer within %.*f ms", service->shard->name, replica->place.text,
         waited_ms < 10 ? 2 : 0, waited_ms); /* a try that began late has little time: not "0 ms" */
    count(service->counters, FAILURES + TIMEOUT, service->place, 1);
    replica_set_aside(replica, problem->text);
    attempt_leave(attempt);
}

/* ---- how it is sent ---- */

static void lose(Timer *timer) {
    connection_cancel(&OWNER(timer, Attempt, timer)->stream);
}

static void no_connection(Timer *timer) {
    Attempt *attempt = OWNER(timer, Attempt, timer);
    const Problem problem = attempt->replica->problem;
    if (attempt->call == NULL) return free_attempt(attempt);
    failed(attempt, GRPC_UNAVAILABLE, problem.text);
}

/* Where there is no connection it fails, but later: what begins a call must not see it end. */
static void send_attempt(Attempt *attempt) {
    Wire *wire = attempt->replica->service->wire;
    Connection *connection = replica_connection(attempt->replica);
    timer_set(&wire->timers, &attempt->timer, connection == NULL ? wire->now_ns : wire->now_ns + LOST_NS,
              connection == NULL ? no_connection : lose);
    if (connection != NULL) connection_call(connection, &attempt->stream);
}

/* The server has gone away without a look at it: once more, on the connection that follows. */
static void send_again(Attempt *attempt) {
    const Stream old = attempt->stream;
    free(old.answer);
    attempt->stream = (Stream){.message = old.message, .limit = old.limit, .ended = old.ended};
    attempt->sent_again = true;
    send_attempt(attempt);
}

static void attempt_ended(Stream *stream, const Outcome *outcome) {
    Attempt *attempt = OWNER(stream, Attempt, stream);
    if (attempt->call == NULL) return free_attempt(attempt);
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
    attempt->begin_ns = replica->service->wire->now_ns;
    replica->references++;
    return attempt;
}

bool attempt_begin(Call *call, Replica *replica) {
    Attempt *attempt = attempt_new(replica, &call->message, answer_limit(&call->shape), attempt_ended);
    if (attempt == NULL) return false;
    attempt->call = call;
    attempt->query = call->query;
    attempt->query->references++;
    call->attempts[call->attempt_count++] = attempt;
    replica->in_flight++;
    send_attempt(attempt);
    return true;
}

/* ---- probes ---- */

static void probe_ended(Stream *stream, const Outcome *outcome) {
    Attempt *attempt = OWNER(stream, Attempt, stream);
    Replica *replica = attempt->replica;
    const bool heard = replica->service->wire->now_ns < attempt->begin_ns + PROBE_NS;
    if (!attempt->counted) replica->probing = false;
    if (heard && outcome->status == GRPC_OK && replica->listed) replica_set_ready(replica);
    free_attempt(attempt);
}

/* A later answer goes unheard, and another probe may be sent. */
static void probe_late(Timer *timer) {
    Attempt *attempt = OWNER(timer, Attempt, timer);
    attempt->counted = true;
    attempt->replica->probing = false;
    timer_set(&attempt->replica->service->wire->timers, timer, attempt->begin_ns + LOST_NS, lose);
}

void probe(Replica *replica) {
    RemoteService *service = replica->service;
    Connection *connection = replica_connection(replica);
    if (connection == NULL) return;
    Attempt *attempt = attempt_new(replica, &service->probe, answer_limit(&service->probe_shape), probe_ended);
    if (attempt == NULL) return;
    replica->probing = true;
    timer_set(&service->wire->timers, &attempt->timer, attempt->begin_ns + PROBE_NS, probe_late);
    connection_call(connection, &attempt->stream);
}
