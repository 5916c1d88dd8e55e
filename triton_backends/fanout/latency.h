/* The latest latencies of a service, for hedging: how long is longer than usual. */
#ifndef ELASTICREC_LATENCY_H
#define ELASTICREC_LATENCY_H

#include <stdint.h>

enum {
    LATENCY_WINDOW = 512, /* latest calls that count */
    LATENCY_LEAST = 64,   /* calls before a quantile means anything */
    LATENCY_EVERY = 32    /* calls between two looks: sorting the window for each would cost more than it tells */
};

typedef struct {
    uint64_t latest_ns[LATENCY_WINDOW], value_ns; /* value_ns: the quantile; 0 while too few calls are known */
    int64_t added;
} LatencyWindow;

/* A call that succeeded took that long; quantile_ppm: the quantile in millionths. */
void latency_add(LatencyWindow *window, uint64_t spent_ns, int64_t quantile_ppm);

#endif
