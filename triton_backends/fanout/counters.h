/* What the router counts of its remote calls, as Triton metrics. */
#ifndef ELASTICREC_COUNTERS_H
#define ELASTICREC_COUNTERS_H

#include "failures.h"
#include "settings.h"

typedef struct Counters Counters;

/* Each is of one service, but for the last. */
typedef enum {
    CALLS,
    CALL_DURATION_US,
    QUERIES,
    WAIT_US,
    REPEATED_BAGS,
    FAILURES, /* and REASONS - 1 more: FAILURES + reason */
    SKIPPED = FAILURES + REASONS,
    RETRIES,
    HEDGES,
    DEGRADED,
    SET_ASIDE,
    REPLICAS,       /* a gauge */
    REPLICAS_ASIDE, /* likewise */
    SERVICE_COUNTERS,
    OVERLOADED = SERVICE_COUNTERS
} Counter;

/* All metrics, at 0; NULL and the problem where Triton gives none. */
Counters *counters_open(const Settings *settings, Problem *problem);
void counters_close(Counters *counters);

/* Count something of a service; of OVERLOADED the service does not matter. From any thread. */
void count(Counters *counters, Counter counter, int64_t service, double amount);

/* What there is now of a service. */
void gauge(Counters *counters, Counter counter, int64_t service, double value);

#endif
