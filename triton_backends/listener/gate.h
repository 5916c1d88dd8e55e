/* When the listener's thread is woken for what comes to its sockets.
 *
 * Not while all instances of the model compute, further calls wait for one, and the listener has no core beside theirs:
 * whatever came would wait as well, and each reading would interrupt an instance's thread. Once an instance is idle all
 * that came is read at once. */
#ifndef ELASTICREC_GATE_H
#define ELASTICREC_GATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/epoll.h>

typedef struct {
    int sockets; /* an epoll: of what is heard while the gate is open */
    int outer;   /* an epoll: of the former, and of what is heard always */
    pthread_mutex_t lock; /* of turning it */
    atomic_bool closed;
    atomic_int core;      /* where a call was answered last; -1: none was */
    atomic_int instances; /* of the model */
    atomic_int calls;     /* that Triton has and has not answered */
    atomic_int unsent;    /* sessions with answers that are not sent whole: only the listener goes on with these */
} Gate;

/* What is none yet, and can be dismantled. */
#define NO_GATE ((Gate){.sockets = -1, .outer = -1, .lock = PTHREAD_MUTEX_INITIALIZER, .core = -1})

bool gate_make(Gate *gate); /* an open one; false: errno says why not */
void gate_dismantle(Gate *gate);

/* The listener waits; it closes the gate before where there is reason to. Otherwise as `epoll_wait`. */
int gate_wait(Gate *gate, struct epoll_event *events, int most, int patience_ms);

/* One of the gate's counts changes, which may open it. In any thread; but calls become more in the listener's alone. */
void gate_count(Gate *gate, atomic_int *count, int change);

/* A call was answered, in this thread. */
void gate_answered(Gate *gate);

#endif
