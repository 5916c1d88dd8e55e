#include "bundles.h"

#include <string.h>

/* ---- how it ends ---- */

/* No answer is waited for. */
static void stop(Bundle *bundle) {
    timer_stop(&bundle->service->loop->timers, &bundle->hedge);
    while (bundle->attempt_count > 0) attempt_leave(bundle->attempts[0]);
}

void bundle_leave(Call *call) {
    Bundle *bundle = call->bundle;
    call->bundle = NULL;
    bundle->calls[call->position] = NULL;
    if (--bundle->waiting == 0) stop(bundle);
    bundle_release(bundle);
}

void bundle_late(Call *call, Problem *problem) {
    for (int i = 0; i < call->bundle->attempt_count; i++) attempt_late(call->bundle->attempts[i], call->query, problem);
}

void bundle_answered(Bundle *bundle, Buffer *answer) {
    RemoteService *service = bundle->service;
    bundle->answer = answer;
    bundle->references++; /* its calls may be gone before the last one is told */
    stop(bundle);
    bundle_share(bundle);
    service_judge(service, bundle->tried, bundle->tried_count);
    for (int64_t i = 0; i < bundle->call_count; i++) {
        Call *call = bundle->calls[i];
        if (call == NULL) continue;
        count(service->counters, QUERIES, service->index, (double)call->query->client_queries);
        call_succeeded(call);
    }
    bundle_release(bundle);
}

static void bundle_failed(Bundle *bundle, Reason reason, const char *why) {
    bundle->references++;
    for (int64_t i = 0; i < bundle->call_count; i++)
        if (bundle->calls[i] != NULL) call_failed(bundle->calls[i], reason, why);
    bundle_release(bundle);
}

/* ---- how it goes on ---- */

static bool try_replica(Bundle *bundle, Replica *replica) {
    bundle->tried[bundle->tried_count++] = replica->number;
    return attempt_begin(bundle, replica);
}

/* A call goes on alone: to another replica if there is one, and once more to any where that was no fault of the first. */
static void send_alone(const Bundle *bundle, Call *call, Reason reason) {
    RemoteService *service = bundle->service;
    bundle_leave(call);
    Bundle *alone = bundle_new(service, &call, 1);
    if (alone == NULL) return call_failed(call, REFUSED, "out of memory");
    alone->retried = bundle->retried || reason == WRONG;
    if (reason == WRONG) {
        alone->tried_count = bundle->tried_count;
        memcpy(alone->tried, bundle->tried, sizeof alone->tried);
    }
    Replica *replica = service_pick(service, alone->tried, alone->tried_count);
    if (replica == NULL) replica = service_pick(service, NULL, 0);
    count(service->counters, RETRIES, service->index, 1);
    if (replica == NULL) bundle_failed(alone, GONE, "its address list is empty");
    else if (!try_replica(alone, replica)) bundle_failed(alone, REFUSED, "out of memory");
}

/* One of the calls may be at fault, or all of them too large together: none is to fail for another. */
static void send_each(Bundle *bundle, Reason reason) {
    bundle->references++;
    for (int64_t i = 0; i < bundle->call_count; i++)
        if (bundle->calls[i] != NULL) send_alone(bundle, bundle->calls[i], reason);
    bundle_release(bundle);
}

void bundle_attempt_failed(Bundle *bundle, Reason reason, const char *why) {
    if (bundle->attempt_count > 0) return; /* the other one may still answer */
    timer_stop(&bundle->service->loop->timers, &bundle->hedge);
    if (bundle->call_count > 1 && reason != GONE) return send_each(bundle, reason);
    Replica *other = NULL;
    if ((reason == GONE || reason == FULL || reason == WRONG) && !bundle->retried)
        other = service_pick(bundle->service, bundle->tried, bundle->tried_count);
    if (other == NULL) return bundle_failed(bundle, reason, why);
    bundle->retried = true;
    count(bundle->service->counters, RETRIES, bundle->service->index, 1);
    if (!try_replica(bundle, other)) bundle_failed(bundle, reason, "out of memory");
}

/* ---- how it begins ---- */

static void send_hedge(Timer *timer) {
    Bundle *bundle = OWNER(timer, Bundle, hedge);
    Replica *second = service_pick(bundle->service, bundle->tried, bundle->tried_count);
    if (second == NULL || !second->ready) return;
    count(bundle->service->counters, HEDGES, bundle->service->index, 1);
    try_replica(bundle, second);
}

void bundle_send(Bundle *bundle, Replica *replica) {
    const RemoteService *service = bundle->service;
    const uint64_t usual_ns = service->window.value_ns;
    if (usual_ns > 0 && service->replica_count > 1)
        timer_set(&service->loop->timers, &bundle->hedge, service->loop->now_ns + usual_ns, send_hedge);
    if (!try_replica(bundle, replica)) bundle_failed(bundle, REFUSED, "out of memory");
}
