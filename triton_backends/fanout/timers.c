#include "timers.h"

#include <stdlib.h>

static void put(Timers *timers, Timer *timer, size_t position) {
    timers->heap[position - 1] = timer;
    timer->position = position;
}

static void rise(Timers *timers, Timer *timer, size_t position) {
    for (; position > 1 && timers->heap[position / 2 - 1]->at_ns > timer->at_ns; position /= 2)
        put(timers, timers->heap[position / 2 - 1], position);
    put(timers, timer, position);
}

static void sink(Timers *timers, Timer *timer, size_t position) {
    for (size_t child; (child = 2 * position) <= timers->count; position = child) {
        if (child < timers->count && timers->heap[child]->at_ns < timers->heap[child - 1]->at_ns) child++;
        if (timers->heap[child - 1]->at_ns >= timer->at_ns) break;
        put(timers, timers->heap[child - 1], position);
    }
    put(timers, timer, position);
}

static bool make_room(Timers *timers) {
    if (timers->count < timers->room) return true;
    const size_t room = 2 * timers->room + 64;
    Timer **heap = realloc(timers->heap, room * sizeof *heap);
    if (heap == NULL) return false;
    timers->heap = heap;
    timers->room = room;
    return true;
}

bool timer_set(Timers *timers, Timer *timer, uint64_t at_ns, void (*ring)(Timer *timer)) {
    timer_stop(timers, timer);
    if (!make_room(timers)) return false;
    timer->at_ns = at_ns;
    timer->ring = ring;
    rise(timers, timer, ++timers->count);
    return true;
}

void timer_stop(Timers *timers, Timer *timer) {
    const size_t position = timer->position;
    if (position == 0) return;
    timer->position = 0;
    Timer *last = timers->heap[--timers->count];
    if (last == timer) return;
    rise(timers, last, position);
    sink(timers, last, last->position);
}

void timers_run(Timers *timers, uint64_t now_ns) {
    while (timers->count > 0 && timers->heap[0]->at_ns <= now_ns) {
        Timer *timer = timers->heap[0];
        timer_stop(timers, timer);
        timer->ring(timer);
    }
}

uint64_t timers_next_ns(const Timers *timers) {
    return timers->count > 0 ? timers->heap[0]->at_ns : UINT64_MAX;
}

void timers_free(Timers *timers) {
    free(timers->heap);
    *timers = (Timers){0};
}
