/* `dense` (B, features), `indices` (B, columns) -> `sums` (B, tables * dim), asked of the embedding services; `divisors`
 * (B, tables) where some are averaged; with `missing_shard: degrade` also `degraded` (B, 1). Queries that Triton hands over together are asked as one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../native/queries.h"
#include "keeper.h"

static const char ADDRESSES[] = "ELASTICREC_ADDRESSES"; /* names the address file; else it is the build's own */
static const uint64_t CONNECT_WAIT_NS = 10000000000; /* then it serves all the same, and says which do not answer */

typedef struct {
    Router *router;
    Settings settings;
    Tls *tls;
    Counters *counters;
    Engine *engine;
    Keeper *keeper;
    char *addresses;
    atomic_int_fast64_t in_flight;
} Model;

/* A client's query. */
typedef struct {
    TRITONBACKEND_Request *request;
    Tensor indices;
    uint64_t begin_ns;
} Member;

/* The queries of one call of Triton's. */
typedef struct {
    Query query;
    Model *model;
    TRITONBACKEND_ModelInstance *instance;
    Member *members;
    uint32_t member_count;
    int64_t rows; /* of all */
    Service *parts;   /* their ids, one a service */
    int32_t *numbers; /* that the parts point to */
} Job;

/* ---- answers ---- */

/* Send a response, good or not, and let the request go. */
static void respond(Job *job, const Member *member, TRITONBACKEND_Response *response, int code, const char *why) {
    const uint64_t end_ns = now_ns();
    TRITONSERVER_Error *error = why == NULL ? NULL : TRITONSERVER_ErrorNew(code, why);
    if (response != NULL) log_error(TRITONBACKEND_ResponseSend(response, TRITON_RESPONSE_FINAL, error));
    if (error != NULL) TRITONSERVER_ErrorDelete(error);
    log_error(TRITONBACKEND_ModelInstanceReportStatistics(job->instance, member->request, why == NULL, member->begin_ns,
                                                          member->begin_ns, end_ns, end_ns));
    log_error(TRITONBACKEND_RequestRelease(member->request, TRITON_RELEASE_ALL));
}

static void refuse(Job *job, const Member *member, int code, const char *why) {
    Problem problem;
    TRITONBACKEND_Response *response = NULL;
    if (!passed(TRITONBACKEND_ResponseNew(&response, member->request), &problem)) log_warning("%s", problem.text);
    respond(job, member, response, code, why);
}

/* The sums of the rows from `begin` on, added up in the plan's order. */
static bool put_sums(const Job *job, int64_t begin, int64_t rows, TRITONBACKEND_Response *response, Problem *problem) {
    const Settings *settings = &job->model->settings;
    const int64_t width = settings->tables * settings->dim;
    void *total, *degraded;
    if (!add_output(response, "sums", TRITON_TYPE_FP32, rows, width, &total, problem)) return false;
    memset(total, 0, sizeof(float) * (size_t)(rows * width));
    for (int64_t k = 0; k < job->query.call_count; k++) {
        const Call *call = job->query.calls + k;
        if (call->sums == NULL) continue;
        const SumsShape before = {begin, call->shape.width, call->shape.half}, here = {rows, before.width, before.half};
        sums_add((const char *)call->sums + sums_bytes(&before), &here, settings->services[k].tables, settings->dim,
                 settings->tables, total);
    }
    if (!settings->degrade) return true;
    if (!add_output(response, "degraded", TRITON_TYPE_BOOL, rows, 1, &degraded, problem)) return false;
    memset(degraded, job->query.degraded, (size_t)rows);
    return true;
}

/* What averaged bags are divided by: the ids that were answered. */
static bool put_divisors(const Job *job, int64_t begin, int64_t rows, TRITONBACKEND_Response *response,
                         Problem *problem) {
    const Router *router = job->model->router;
    const int64_t tables = router->table_count, services = router->service_count;
    void *data;
    if (router->mean_count == 0) return true;
    float *divisors = malloc((size_t)(rows * tables) * sizeof *divisors); /* an output's buffer need not be aligned */
    Service *parts = malloc((size_t)services * sizeof *parts);
    bool *asked = malloc((size_t)services * sizeof *asked);
    bool good = (divisors != NULL && parts != NULL && asked != NULL) || fail(problem, "divisors: out of memory");
    for (int64_t k = 0; good && k < services; k++) {
        parts[k] = job->parts[k];
        parts[k].lengths += begin * parts[k].tables;
        asked[k] = job->query.calls[k].sums != NULL;
    }
    if (good) router_divide(router, parts, asked, rows, divisors);
    good = good && add_output(response, "divisors", TRITON_TYPE_FP32, rows, tables, &data, problem);
    if (good) memcpy(data, divisors, (size_t)(rows * tables) * sizeof *divisors);
    free(asked);
    free(parts);
    free(divisors);
    return good;
}

static void answer(Job *job, const Member *member, int64_t begin) {
    Problem problem;
    TRITONBACKEND_Response *response = NULL;
    const bool good = passed(TRITONBACKEND_ResponseNew(&response, member->request), &problem) &&
                      put_sums(job, begin, member->indices.rows, response, &problem) &&
                      put_divisors(job, begin, member->indices.rows, response, &problem);
    respond(job, member, response, TRITON_ERROR_INTERNAL, good ? NULL : problem.text);
}

static void job_free(Job *job) {
    for (int64_t k = 0; k < job->query.call_count; k++) free(job->query.calls[k].answer);
    free(job->query.calls);
    free(job->parts);
    free(job->members);
    free(job->numbers);
    free(job);
}

static void answered(Query *query) {
    Job *job = OWNER(query, Job, query);
    Model *model = job->model;
    for (int64_t k = 0; !query->failed && k < query->call_count; k++)
        if (query->calls[k].missing) count(model->counters, DEGRADED, k, job->member_count);
    int64_t begin = 0;
    for (uint32_t i = 0; i < job->member_count; i++) {
        const Member *member = job->members + i;
        if (query->failed) refuse(job, member, TRITON_ERROR_UNAVAILABLE, query->problem.text);
        else answer(job, member, begin);
        begin += member->indices.rows;
        atomic_fetch_sub(&model->in_flight, 1);
    }
    const uint64_t end_ns = now_ns();
    log_error(TRITONBACKEND_ModelInstanceReportBatchStatistics(job->instance, (uint64_t)job->rows, query->begin_ns,
                                                               query->begin_ns, end_ns, end_ns));
    job_free(job);
}

/* ---- queries ---- */

/* Whether one more query may be under way. */
static bool enter(Model *model, Problem *problem) {
    const int64_t limit = model->settings.max_in_flight;
    int_fast64_t inside = atomic_load(&model->in_flight);
    while (inside < limit)
        if (atomic_compare_exchange_weak(&model->in_flight, &inside, inside + 1)) return true;
    count(model->counters, OVERLOADED, 0, 1);
    return fail(problem,
                "overloaded: %lld queries are under way and max_in_flight is %lld; send fewer, or run more front ends",
                (long long)inside, (long long)limit);
}

static void leave(Job *job, Member *member, int code, const char *why) {
    tensor_close(&member->indices);
    refuse(job, member, code, why);
    atomic_fetch_sub(&job->model->in_flight, 1);
}

/* Take the requests that are in order; the others get their errors. */
static void accept_requests(Job *job, TRITONBACKEND_Request **requests, uint32_t request_count) {
    for (uint32_t i = 0; i < request_count; i++) {
        Problem problem;
        Member *member = job->members + job->member_count;
        *member = (Member){.request = requests[i], .begin_ns = now_ns()};
        if (!enter(job->model, &problem)) {
            refuse(job, member, TRITON_ERROR_UNAVAILABLE, problem.text);
        } else if (!query_open(job->model->router, requests[i], &member->indices, &problem)) {
            leave(job, member, TRITON_ERROR_INVALID_ARG, problem.text);
        } else {
            job->rows += member->indices.rows;
            job->member_count++;
        }
    }
}

/* Room for the ids and lengths of all rows. */
static bool make_room(Job *job) {
    const Router *router = job->model->router;
    size_t lengths = 0, ids = 0;
    for (int64_t k = 0; k < router->service_count; k++) {
        lengths += (size_t)(job->rows * router->services[k].tables);
        ids += (size_t)(job->rows * router->services[k].capacity);
    }
    job->numbers = malloc(4 * (lengths + ids));
    job->parts = calloc((size_t)router->service_count, sizeof *job->parts);
    job->query.calls = calloc((size_t)router->service_count, sizeof *job->query.calls);
    if (job->numbers == NULL || job->parts == NULL || job->query.calls == NULL) return false;
    memset(job->numbers, 0, 4 * lengths);
    int32_t *next_lengths = job->numbers, *next_ids = job->numbers + lengths;
    for (int64_t k = 0; k < router->service_count; k++) {
        const RoutedService *service = router->services + k;
        job->parts[k] = (Service){next_ids, next_lengths, service->tables, 0};
        next_lengths += job->rows * service->tables;
        next_ids += job->rows * service->capacity;
    }
    return true;
}

/* Add a query's ids behind those of the rows before it; where one is bad nothing of it stays. */
static bool route(Job *job, const Member *member, int64_t begin, Service *outputs, Problem *problem) {
    const int64_t count = job->model->router->service_count;
    for (int64_t k = 0; k < count; k++) {
        outputs[k] = job->parts[k];
        outputs[k].lengths += begin * outputs[k].tables;
    }
    const bool good = query_route(job->model->router, &member->indices, outputs, problem);
    for (int64_t k = 0; k < count; k++) {
        if (good) job->parts[k].count = outputs[k].count;
        else memset(outputs[k].lengths, 0, 4 * (size_t)(member->indices.rows * outputs[k].tables));
    }
    return good;
}

/* Route all queries; those with a bad id get their errors, the others move up. */
static void route_all(Job *job, Service *outputs) {
    uint32_t kept = 0;
    int64_t rows = 0;
    for (uint32_t i = 0; i < job->member_count; i++) {
        Problem problem;
        Member member = job->members[i];
        if (!route(job, &member, rows, outputs, &problem)) {
            leave(job, &member, TRITON_ERROR_INVALID_ARG, problem.text);
            continue;
        }
        tensor_close(&member.indices);
        rows += member.indices.rows;
        job->members[kept++] = member;
    }
    job->member_count = kept;
    job->rows = rows;
}

static void submit(Job *job) {
    const Settings *settings = &job->model->settings;
    Query *query = &job->query;
    query->answered = answered;
    query->call_count = settings->service_count;
    query->degrade = settings->degrade != 0;
    for (int64_t k = 0; k < query->call_count; k++) {
        const RemoteShard *shard = settings->services + k;
        Call *call = query->calls + k;
        call->service = engine_service(job->model->engine, k);
        call->shape = (SumsShape){job->rows, shard->table_count * settings->dim, settings->half != 0};
        message_write(&call->message, shard->model, settings->version, job->parts[k].ids, job->parts[k].count,
                      job->parts[k].lengths, job->rows * shard->table_count);
    }
    engine_submit(job->model->engine, query);
}

/* Whether the job is the engine's now; else nothing of it is left to be done. */
static bool execute(Job *job, TRITONBACKEND_Request **requests, uint32_t request_count) {
    accept_requests(job, requests, request_count);
    Service *outputs = calloc((size_t)job->model->router->service_count, sizeof *outputs);
    if (outputs != NULL && make_room(job)) {
        route_all(job, outputs);
    } else {
        for (uint32_t i = 0; i < job->member_count; i++)
            leave(job, job->members + i, TRITON_ERROR_UNAVAILABLE, "indices: out of memory");
        job->member_count = 0;
    }
    free(outputs);
    if (job->member_count == 0) return false;
    submit(job); /* and it may be gone by now */
    return true;
}

void model_execute(void *state, TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request **requests,
                   uint32_t request_count) {
    Job none = {.model = state, .instance = instance};
    Job *job = calloc(1, sizeof *job);
    Member *members = calloc(request_count, sizeof *members);
    if (job == NULL || members == NULL) {
        for (uint32_t i = 0; i < request_count; i++) {
            const Member member = {.request = requests[i], .begin_ns = now_ns()};
            refuse(&none, &member, TRITON_ERROR_UNAVAILABLE, "out of memory");
        }
        free(members);
        return free(job);
    }
    *job = (Job){.model = state, .instance = instance, .members = members, .query.begin_ns = now_ns()};
    if (!execute(job, requests, request_count)) job_free(job);
}

/* ---- the model ---- */

/* Its own copy: the environment may change. */
static char *address_path(const char *folder) {
    const char *named = getenv(ADDRESSES);
    const size_t room = strlen(folder) + sizeof "/fleet.json";
    if (named != NULL && *named != '\0') return strdup(named);
    char *path = malloc(room);
    if (path != NULL) snprintf(path, room, "%s/fleet.json", folder);
    return path;
}

/* The names of the services of which no replica answers; false where there are none. */
static bool unready(const Model *model, char *names, size_t room) {
    size_t length = 0;
    for (int64_t k = 0; k < model->settings.service_count; k++)
        if (!atomic_load(&engine_service(model->engine, k)->ready) && length < room)
            length += (size_t)snprintf(names + length, room - length, "%s%s", length > 0 ? ", " : "",
                                       model->settings.services[k].name);
    return length > 0;
}

static void wait_until_ready(const Model *model) {
    const struct timespec pause = {0, 20000000};
    const uint64_t until_ns = now_ns() + CONNECT_WAIT_NS;
    char names[400];
    while (unready(model, names, sizeof names) && now_ns() < until_ns) nanosleep(&pause, NULL);
    if (unready(model, names, sizeof names)) log_warning("no replica answers yet: %s", names);
}

static bool open_all(Model *model, const char *folder, Problem *problem) {
    model->router = router_open(folder, problem);
    if (model->router == NULL || !settings_open(folder, model->router, &model->settings, problem) ||
        !tls_open(&model->tls, problem))
        return false;
    model->addresses = address_path(folder);
    if (model->addresses == NULL) return fail(problem, "out of memory");
    model->counters = counters_open(&model->settings, problem);
    if (model->counters == NULL) return false;
    model->engine = engine_open(&model->settings, model->tls, model->counters, problem);
    if (model->engine == NULL) return false;
    model->keeper = keeper_open(model->addresses, &model->settings, model->engine, problem);
    return model->keeper != NULL;
}

void *model_open(const char *folder, Problem *problem) {
    Model *model = calloc(1, sizeof *model);
    if (model == NULL) fail(problem, "out of memory");
    if (model == NULL) return NULL;
    if (open_all(model, folder, problem)) {
        wait_until_ready(model);
        return model;
    }
    model_close(model);
    return NULL;
}

void model_close(void *state) {
    Model *model = state;
    if (model->keeper != NULL) keeper_close(model->keeper);
    if (model->engine != NULL) engine_close(model->engine);
    if (model->counters != NULL) counters_close(model->counters);
    if (model->tls != NULL) tls_close(model->tls);
    if (model->router != NULL) router_close(model->router);
    settings_close(&model->settings);
    free(model->addresses);
    free(model);
}
