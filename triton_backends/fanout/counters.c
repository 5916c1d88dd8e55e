#include "counters.h"

#include <stdlib.h>

#include "../native/shell.h"

typedef enum {
    CALLS_FAMILY,
    DURATION_FAMILY,
    QUERIES_FAMILY,
    WAIT_FAMILY,
    REPEATED_BAGS_FAMILY,
    FAILURES_FAMILY,
    SKIPPED_FAMILY,
    RETRIES_FAMILY,
    HEDGES_FAMILY,
    DEGRADED_FAMILY,
    SET_ASIDE_FAMILY,
    REPLICAS_FAMILY,
    REPLICAS_ASIDE_FAMILY,
    OVERLOADED_FAMILY,
    FAMILIES
} Family;

enum { COUNTER = TRITON_METRIC_COUNTER, GAUGE = TRITON_METRIC_GAUGE };

/* An operator's alerts name them: they stay as they are. */
static const struct {
    int kind;
    const char *name, *description;
} FAMILY[FAMILIES] = {
    {COUNTER, "elasticrec_remote_calls_total", "Calls of an embedding service that succeeded"},
    {COUNTER, "elasticrec_remote_call_duration_us_total",
     "Microseconds that successful calls of an embedding service took"},
    {COUNTER, "elasticrec_remote_queries_total", "Queries that successful calls of an embedding service were made for"},
    {COUNTER, "elasticrec_remote_wait_us_total",
     "Microseconds that queries waited in the router for a replica of an embedding service that is free"},
    {COUNTER, "elasticrec_remote_repeated_bags_total",
     "Bags that an embedding service was not asked for again, since the query's row before has the same"},
    {COUNTER, "elasticrec_remote_failures_total", "Calls of an embedding service that failed, by reason; of late ones, the queries"},
    {COUNTER, "elasticrec_remote_skipped_total", "Calls spared because no id of the queries is held there"},
    {COUNTER, "elasticrec_retries_total", "Calls sent again, to another replica, or a query at a time"},
    {COUNTER, "elasticrec_hedges_total", "Calls sent to a second replica because the first was slow"},
    {COUNTER, "elasticrec_degraded_queries_total", "Queries scored without an embedding service"},
    {COUNTER, "elasticrec_set_aside_total", "Times that a replica of an embedding service was set aside"},
    {GAUGE, "elasticrec_replicas", "Replicas of an embedding service that the router knows"},
    {GAUGE, "elasticrec_replicas_aside", "Those of them that are set aside, or have not answered yet"},
    {COUNTER, "elasticrec_overloaded_queries_total", "Queries refused because max_in_flight were under way"},
};

struct Counters {
    TRITONSERVER_MetricFamily *families[FAMILIES];
    TRITONSERVER_Metric **metrics; /* a service's SERVICE_COUNTERS, then the next one's; at the end OVERLOADED */
    int64_t metric_count;
};

static Family family_of(Counter counter) {
    if (counter < FAILURES) return (Family)counter;
    return counter < SKIPPED ? FAILURES_FAMILY : (Family)(counter - REASONS + 1);
}

/* service, reason: NULL where the metric has no such label. */
static bool add_metric(Counters *counters, Family family, const char *model, const char *service, const char *reason,
                       Problem *problem) {
    const char *const names[] = {"model", "service", "reason"}, *const values[] = {model, service, reason};
    TRITONSERVER_Parameter *labels[3];
    uint64_t label_count = 0;
    for (int i = 0; i < 3 && values[i] != NULL; i++)
        labels[label_count++] = TRITONSERVER_ParameterNew(names[i], TRITON_PARAMETER_STRING, values[i]);
    TRITONSERVER_Metric **metric = counters->metrics + counters->metric_count;
    const bool made = passed(TRITONSERVER_MetricNew(metric, counters->families[family],
                                                    (const TRITONSERVER_Parameter **)labels, label_count),
                             problem);
    if (made) counters->metric_count++;
    for (uint64_t i = 0; i < label_count; i++) TRITONSERVER_ParameterDelete(labels[i]);
    return made;
}

static bool fill(Counters *counters, const Settings *settings, Problem *problem) {
    for (Family f = 0; f < FAMILIES; f++)
        if (!passed(TRITONSERVER_MetricFamilyNew(counters->families + f, FAMILY[f].kind, FAMILY[f].name,
                                                 FAMILY[f].description),
                    problem))
            return false;
    for (int64_t k = 0; k < settings->service_count; k++)
        for (Counter counter = 0; counter < SERVICE_COUNTERS; counter++) {
            const bool failure = family_of(counter) == FAILURES_FAMILY;
            const char *reason = failure ? reason_label((Reason)(counter - FAILURES)) : NULL;
            if (!add_metric(counters, family_of(counter), settings->name, settings->services[k].name, reason, problem))
                return false;
        }
    return add_metric(counters, OVERLOADED_FAMILY, settings->name, NULL, NULL, problem);
}

Counters *counters_open(const Settings *settings, Problem *problem) {
    Counters *counters = calloc(1, sizeof *counters);
    if (counters != NULL)
        counters->metrics = calloc((size_t)settings->service_count * SERVICE_COUNTERS + 1, sizeof *counters->metrics);
    if (counters != NULL && counters->metrics != NULL && fill(counters, settings, problem)) return counters;
    if (counters == NULL || counters->metrics == NULL) fail(problem, "out of memory");
    if (counters != NULL) counters_close(counters);
    return NULL;
}

void counters_close(Counters *counters) {
    for (int64_t i = 0; i < counters->metric_count; i++) log_error(TRITONSERVER_MetricDelete(counters->metrics[i]));
    for (Family f = 0; f < FAMILIES; f++)
        if (counters->families[f] != NULL) log_error(TRITONSERVER_MetricFamilyDelete(counters->families[f]));
    free(counters->metrics);
    free(counters);
}

void count(Counters *counters, Counter counter, int64_t service, double amount) {
    const int64_t index = counter == OVERLOADED ? counters->metric_count - 1 : service * SERVICE_COUNTERS + counter;
    log_error(TRITONSERVER_MetricIncrement(counters->metrics[index], amount));
}

void gauge(Counters *counters, Counter counter, int64_t service, double value) {
    log_error(TRITONSERVER_MetricSet(counters->metrics[service * SERVICE_COUNTERS + counter], value));
}
