/* What is to happen at a time: a heap of timers, which live in what they concern. For one thread. */
#ifndef ELASTICREC_TIMERS_H
#define ELASTICREC_TIMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Timer Timer;
struct Timer {
    uint64_t at_ns;
    size_t position; /* in the heap, from 1; 0: not set */
    void (*ring)(Timer *timer);
};

typedef struct {
    Timer **heap; /* the next one first */
    size_t count, room;
} Timers;

/* Ring at this time of CLOCK_MONOTONIC, once; a timer that is set already moves. False where memory is out. */
bool timer_set(Timers *timers, Timer *timer, uint64_t at_ns, void (*ring)(Timer *timer));
void timer_stop(Timers *timers, Timer *timer); /* one that is not set stays so */

/* Ring all that are due; a timer may set and stop others. */
void timers_run(Timers *timers, uint64_t now_ns);

/* When the next one is to ring; UINT64_MAX where none is set. */
uint64_t timers_next_ns(const Timers *timers);
void timers_free(Timers *timers);

/* The struct of a type whose member a pointer points to. */
#define OWNER(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))

#endif
