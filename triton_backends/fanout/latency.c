#include "latency.h"

#include <stdlib.h>
#include <string.h>

static int compare(const void *left, const void *right) {
    const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

void latency_add(LatencyWindow *window, uint64_t spent_ns, int64_t quantile_ppm) {
    window->latest_ns[window->added++ % LATENCY_WINDOW] = spent_ns;
    if (window->added < LATENCY_LEAST || window->added % LATENCY_EVERY != 0) return;
    const int64_t count = window->added < LATENCY_WINDOW ? window->added : LATENCY_WINDOW;
    uint64_t ordered[LATENCY_WINDOW];
    memcpy(ordered, window->latest_ns, sizeof ordered);
    qsort(ordered, (size_t)count, sizeof *ordered, compare);
    const int64_t index = quantile_ppm * count / 1000000;
    window->value_ns = ordered[index < count ? index : count - 1];
}
