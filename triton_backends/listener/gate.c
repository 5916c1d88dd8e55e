#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getcpu */
#endif
#include "gate.h"

#include <sched.h>
#include <unistd.h>

bool gate_make(Gate *gate) {
    struct epoll_event event = {EPOLLIN, {.ptr = gate}};
    gate->sockets = epoll_create1(EPOLL_CLOEXEC);
    gate->outer = epoll_create1(EPOLL_CLOEXEC);
    return gate->sockets >= 0 && gate->outer >= 0 && epoll_ctl(gate->outer, EPOLL_CTL_ADD, gate->sockets, &event) == 0;
}

void gate_dismantle(Gate *gate) {
    pthread_mutex_destroy(&gate->lock);
    if (gate->sockets >= 0) close(gate->sockets);
    if (gate->outer >= 0) close(gate->outer);
}

static bool stays_closed(const Gate *gate) {
    return atomic_load(&gate->calls) >= atomic_load(&gate->instances) && atomic_load(&gate->unsent) == 0;
}

static void turn(Gate *gate, bool closed) {
    struct epoll_event event = {closed ? 0 : EPOLLIN, {.ptr = gate}};
    pthread_mutex_lock(&gate->lock); /* so that `closed` and the epoll never differ */
    atomic_store(&gate->closed, closed);
    epoll_ctl(gate->outer, EPOLL_CTL_MOD, gate->sockets, &event);
    pthread_mutex_unlock(&gate->lock);
}

static void close_where_calls_wait(Gate *gate) {
    if (atomic_load(&gate->calls) <= atomic_load(&gate->instances) || sched_getcpu() != atomic_load(&gate->core)) return;
    if (!stays_closed(gate)) return;
    turn(gate, true);
    /* whoever changes a count from here on sees that it is closed; for those who did before we look again */
    if (!stays_closed(gate)) turn(gate, false);
}

int gate_wait(Gate *gate, struct epoll_event *events, int most, int patience_ms) {
    close_where_calls_wait(gate);
    const int count = epoll_wait(gate->outer, events, most, patience_ms);
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr != gate) continue;
        events[i] = events[count - 1];
        const int ready = epoll_wait(gate->sockets, events + count - 1, most - count + 1, 0);
        return count - 1 + (ready > 0 ? ready : 0);
    }
    return count;
}

void gate_count(Gate *gate, atomic_int *count, int change) {
    atomic_fetch_add(count, change);
    if (atomic_load(&gate->closed) && !stays_closed(gate)) turn(gate, false);
}

void gate_answered(Gate *gate) {
    atomic_store(&gate->core, sched_getcpu());
    gate_count(gate, &gate->calls, -1);
}
