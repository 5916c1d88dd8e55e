#include "calls.h"

#include <stdlib.h>

#include "bundles.h"

enum { MOST_CALLS = 64 }; /* of a bundle */

/* ---- those that wait ---- */

static void enqueue(Call *call) {
    RemoteService *service = call->service;
    call->next = NULL;
    call->wait_ns = service->loop->now_ns;
    call->link = service->last_waiting;
    *service->last_waiting = call;
    service->last_waiting = &call->next;
    service->waiting_count++;
    service_wake(service);
}

static void dequeue(Call *call) {
    RemoteService *service = call->service;
    if (call->link == NULL) return;
    const uint64_t waited_ns = service->loop->now_ns - call->wait_ns;
    if (waited_ns > 0)
        count(service->counters, WAIT_US, service->index,
              (double)waited_ns / 1000 * (double)call->query->client_queries);
    *call->link = call->next;
    *(call->next != NULL ? &call->next->link : &service->last_waiting) = call->link;
    call->link = NULL;
    service->waiting_count--;
}

/* ---- how a query ends ---- */

/* Nobody waits for it any more. */
static void call_stop(Call *call) {
    if (!call->under_way) return;
    call->under_way = false;
    dequeue(call);
    if (call->bundle != NULL) bundle_leave(call);
}

void call_close(Call *call) {
    if (call->bundle != NULL) bundle_release(call->bundle);
    call->bundle = NULL;
}

static void query_end(Query *query) {
    timer_stop(&query->calls[0].service->loop->timers, &query->deadline);
    for (int64_t k = 0; k < query->call_count; k++) call_stop(query->calls + k);
    query->answered(query);
}

static void call_ended(Call *call) {
    Query *query = call->query;
    if (--query->left == 0 && !query->beginning) query_end(query);
}

/* ---- how a call ends ---- */

void call_succeeded(Call *call) {
    call->under_way = false;
    call->answered = true;
    call_ended(call);
}

void call_failed(Call *call, Reason reason, const char *why) {
    Query *query = call->query;
    call_stop(call);
    if (query->degrade && reason != REFUSED && reason != WRONG) { /* these are no outage but a fault */
        call->missing = query->degraded = true;
        return call_ended(call);
    }
    query->problem = (Problem){{0}};
    fail(&query->problem, "%s", why);
    query->failed = true;
    query->left--;
    if (!query->beginning) query_end(query); /* the others are not waited for */
}

/* ---- how they begin ---- */

/* The next one's share of those that wait: as much for each that can be worked on now; for a replica in doubt one. */
static int64_t share_of(const RemoteService *service, const Replica *replica) {
    const int64_t places = service_places(service);
    const int64_t share = places > 1 ? (service->waiting_count + places - 1) / places : service->waiting_count;
    if (replica->wrong > 0) return 1;
    return share < MOST_CALLS ? share : MOST_CALLS;
}

static void send_together(RemoteService *service, Replica *replica) {
    Call *calls[MOST_CALLS];
    const int64_t count = bundle_room(service, share_of(service, replica));
    for (int64_t i = 0; i < count; i++) {
        calls[i] = service->waiting;
        dequeue(calls[i]);
    }
    Bundle *bundle = bundle_new(service, calls, count);
    if (bundle != NULL) return bundle_send(bundle, replica);
    for (int64_t i = 0; i < count; i++) call_failed(calls[i], REFUSED, "out of memory");
}

/* None waits while a replica works on fewer calls of ours than it can at a time. One more there, ahead of time, was
 * measured (benchmarks/joined.py): less is joined then, which costs more than it gives. */
static void send_waiting(Timer *timer) {
    RemoteService *service = OWNER(timer, RemoteService, wake);
    while (service->waiting != NULL) {
        Problem problem;
        Replica *replica = service_pick(service, NULL, 0);
        if (replica == NULL) {
            fail(&problem, "service %s: %s", service->shard->name,
                 service->closed ? "the router stops" : "its address list is empty");
            call_failed(service->waiting, GONE, problem.text);
        } else if (service->settings->degrade && !atomic_load(&service->ready)) {
            call_failed(service->waiting, GONE, "no replica is ready"); /* no reason to wait for the deadline */
        } else if (replica->in_flight < service->shard->instances) {
            send_together(service, replica);
        } else {
            return;
        }
    }
}

void service_wake(RemoteService *service) {
    if (service->waiting != NULL && service->wake.position == 0)
        timer_set(&service->loop->timers, &service->wake, service->loop->now_ns, send_waiting);
}

static void never_sent(Call *call, Problem *problem) {
    RemoteService *service = call->service;
    const uint64_t query_ns = service->loop->now_ns - call->query->begin_ns;
    fail(problem, "service %s: no replica was free within %.*f ms, the query's deadline; calls that wait: %lld",
         service->shard->name, query_ns < 10000000 ? 2 : 0, (double)query_ns / 1e6, (long long)service->waiting_count);
    count(service->counters, FAILURES + TIMEOUT, service->index, 1);
}

/* Calls without an answer by now fail. */
static void deadline_passed(Timer *timer) {
    Query *query = OWNER(timer, Query, deadline);
    query->beginning = true; /* so that it ends below, and only there */
    for (int64_t k = 0; k < query->call_count; k++) {
        Call *call = query->calls + k;
        if (!call->under_way) continue;
        Problem problem = {"the deadline has passed"};
        if (call->bundle != NULL) bundle_late(call, &problem);
        else never_sent(call, &problem);
        call_failed(call, TIMEOUT, problem.text);
    }
    query_end(query);
}

/* The last service first: a plan's coldest, whose rows lie in memory and not in caches, so that it answers last. */
void query_begin(Query *query, uint64_t deadline_ns) {
    for (int64_t k = query->call_count; k-- > 0;) {
        Call *call = query->calls + k;
        RemoteService *service = call->service;
        call->query = query;
        if (call->ids == 0) {
            count(service->counters, SKIPPED, service->index, 1);
            continue;
        }
        call->under_way = true;
        query->left++;
        enqueue(call);
    }
    if (query->left == 0) return query_end(query);
    if (timer_set(&query->calls[0].service->loop->timers, &query->deadline, deadline_ns, deadline_passed)) return;
    query->failed = true;
    fail(&query->problem, "out of memory");
    query_end(query);
}
