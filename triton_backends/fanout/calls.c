#include "calls.h"

#include <stdlib.h>
#include <string.h>

#include "attempts.h"

static bool try_replica(Call *call, Replica *replica) {
    call->tried[call->tried_count++] = replica->number;
    return attempt_begin(call, replica);
}

/* ---- how a query ends ---- */

static void query_end(Query *query) {
    timer_stop(&query->calls[0].service->loop->timers, &query->deadline);
    for (int64_t k = 0; k < query->call_count; k++) call_stop(query->calls + k);
    query->answered(query);
}

/* Nobody waits for the call's attempts any more. */
void call_stop(Call *call) {
    timer_stop(&call->service->loop->timers, &call->hedge);
    while (call->attempt_count > 0) attempt_leave(call->attempts[0]);
    call->under_way = false;
}

static void call_ended(Call *call) {
    Query *query = call->query;
    call_stop(call);
    if (--query->left == 0 && !query->beginning) query_end(query);
}

/* ---- how a call ends ---- */

void call_succeeded(Call *call, uint8_t *answer) {
    call->answer = answer;
    service_judge(call->service, call->tried, call->tried_count);
    call_ended(call);
}

static void call_failed(Call *call, Reason reason, const char *why) {
    Query *query = call->query;
    if (query->degrade && reason != REFUSED && reason != WRONG) { /* these are no outage but a fault */
        call->missing = query->degraded = true;
        return call_ended(call);
    }
    query->problem = (Problem){{0}};
    fail(&query->problem, "%s", why);
    query->failed = true;
    call->under_way = false;
    query->left--;
    if (!query->beginning) query_end(query); /* the others are not waited for */
}

/* One of its attempts failed and is over. */
void call_attempt_failed(Call *call, Reason reason, const char *why) {
    if (call->attempt_count > 0) return; /* the other one may still answer */
    timer_stop(&call->service->loop->timers, &call->hedge);
    Replica *other = NULL;
    if ((reason == GONE || reason == FULL || reason == WRONG) && !call->retried)
        other = service_pick(call->service, call->tried, call->tried_count);
    if (other == NULL) return call_failed(call, reason, why);
    call->retried = true;
    count(call->service->counters, RETRIES, call->service->index, 1);
    if (!try_replica(call, other)) call_failed(call, reason, "out of memory");
}

/* ---- how they begin ---- */

static void send_hedge(Timer *timer) {
    Call *call = OWNER(timer, Call, hedge);
    Replica *second = service_pick(call->service, call->tried, call->tried_count);
    if (second == NULL || !second->ready) return;
    count(call->service->counters, HEDGES, call->service->index, 1);
    try_replica(call, second);
}

static void call_begin(Call *call) {
    RemoteService *service = call->service;
    Problem problem;
    call->under_way = true;
    call->query->left++;
    Replica *first = service_pick(service, NULL, 0);
    if (first == NULL) {
        fail(&problem, "service %s: its address list is empty", service->shard->name);
        return call_failed(call, GONE, problem.text);
    }
    const uint64_t usual_ns = service->window.value_ns;
    if (usual_ns > 0 && service->replica_count > 1)
        timer_set(&service->loop->timers, &call->hedge, service->loop->now_ns + usual_ns, send_hedge);
    if (!try_replica(call, first)) call_failed(call, REFUSED, "out of memory");
}

/* Calls without an answer by now fail. */
static void deadline_passed(Timer *timer) {
    Query *query = OWNER(timer, Query, deadline);
    query->beginning = true; /* so that it ends below, and only there */
    for (int64_t k = 0; k < query->call_count; k++) {
        Call *call = query->calls + k;
        if (!call->under_way) continue;
        Problem problem = {"the deadline has passed"};
        while (call->attempt_count > 0) attempt_timed_out(call->attempts[0], &problem);
        call_failed(call, TIMEOUT, problem.text);
    }
    query_end(query);
}

void query_begin(Query *query, uint64_t deadline_ns) {
    query->beginning = true;
    for (int64_t k = 0; k < query->call_count && !query->failed; k++) {
        Call *call = query->calls + k;
        RemoteService *service = call->service;
        call->query = query;
        if (call->ids == 0) {
            count(service->counters, SKIPPED, service->index, 1);
        } else if (query->degrade && !atomic_load(&service->ready)) { /* known: no reason to wait for the deadline */
            call->missing = query->degraded = true;
        } else {
            call_begin(call);
        }
    }
    query->beginning = false;
    if (query->failed || query->left == 0) return query_end(query);
    if (timer_set(&query->calls[0].service->loop->timers, &query->deadline, deadline_ns, deadline_passed)) return;
    query->failed = true;
    fail(&query->problem, "out of memory");
    query_end(query);
}
