/* The tensors that look-ups name -> of each group `sums` (rows, widths of all its look-ups), added up of what the embedding
 * services answer, or put together of rows that they answer as they are, and `divisors` (rows, bags of all look-ups) where some are averaged; with `missing_shard: degrade` also
 * `degraded` (rows of the first group, 1). Queries that Triton hands over together are asked as one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../native/queries.h"
#include "watcher.h"

static const char ADDRESSES[] = "ELASTICREC_ADDRESSES"; /* names the address file; else it is the build's own */
static const uint64_t CONNECT_WAIT_NS = 10000000000; /* then it serves all the same, and says which do not answer */

typedef struct {
    Router *router;
    Settings settings;
    Tls *tls;
    Counters *counters;
    Engine *engine;
    Watcher *watcher;
    char *addresses;
    atomic_int_fast64_t in_flight;
} Model;

/* A client's query. */
typedef struct {
    TRITONBACKEND_Request *request;
    QueryInputs inputs; /* until it is routed */
    int64_t *rows;      /* of each group */
    int64_t position;   /* the first of its ids' positions */
    uint64_t begin_ns;
} Member;

/* The queries of one call of Triton's. */
typedef struct {
    Query query;
    Model *model;
    TRITONBACKEND_ModelInstance *instance;
    Member *members;
    uint32_t member_count;
    int64_t *rows; /* of each group, of all; then those of the members */
    Unit *units;   /* what they are routed to */
    RowSet set;    /* the rows that are asked for as they are */
    AnsweredRows *found; /* what each unit answered */
    const void **sums;
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

/* Put rows that were answered as they are where they belong; zeros for padding, and for what is missing. */
static void put_rows(const Job *job, int64_t group, int64_t rows, const int32_t **position, int64_t width, char *total) {
    const Settings *settings = &job->model->settings;
    const RoutedLookup *lookups = job->model->router->lookups;
    const bool half = settings->half != 0;
    for (const UnpooledColumns *unpooled = settings->unpooled; unpooled < settings->unpooled + settings->unpooled_count; unpooled++) {
        if (lookups[unpooled->lookup].group != group) continue;
        const int64_t count = lookups[unpooled->lookup].routed.count, bytes = (half ? 2 : 4) * unpooled->dim;
        for (int64_t row = 0; row < rows; row++) {
            char *to = total + 4 * (row * width + unpooled->to);
            for (int64_t i = 0; i < count; i++, to += 4 * unpooled->dim) {
                const int32_t at = *(*position)++;
                const FoundRow *found = at < 0 ? NULL : job->set.rows + at;
                const AnsweredRows *answered = found == NULL ? NULL : job->found + found->unit;
                if (answered == NULL || answered->numbers == NULL) {
                    memset(to, 0, 4 * (size_t)unpooled->dim);
                } else {
                    const int64_t index = answered->index == NULL ? found->index : answered->index[found->index];
                    numbers_copy(answered->numbers + index * bytes, half, unpooled->dim, to);
                }
            }
        }
    }
}

/* A group's sums of the rows from `begin` on, added up in the plan's order. */
static bool put_sums(const Job *job, int64_t group, int64_t begin, int64_t rows, const int32_t **position,
                     TRITONBACKEND_Response *response, Problem *problem) {
    const Settings *settings = &job->model->settings;
    const int64_t width = settings->widths[group];
    char name[TENSOR_NAME_BYTES], suffix[SUFFIX_BYTES];
    void *total;
    group_suffix(group, suffix);
    snprintf(name, sizeof name, "sums%s", suffix);
    if (!add_output(response, name, TRITON_TYPE_FP32, rows, width, &total, problem)) return false;
    if (job->model->router->groups[group].unpooled > job->model->router->groups[group].first)
        memset(total, 0, sizeof(float) * (size_t)(rows * width));
    for (int64_t k = 0; k < job->query.call_count; k++) {
        const Call *call = job->query.calls + k;
        const RemoteShard *shard = settings->services + k;
        for (int64_t g = 0; call->answered && g < shard->group_count; g++) {
            const RemoteGroup *part = shard->groups + g;
            if (part->part->group != group || part->part->bags == 0) continue;
            const AnswerShape before = {.rows = begin, .width = part->width, .half = settings->half != 0};
            const AnswerShape here = {.rows = rows, .width = part->width, .half = settings->half != 0};
            sums_add((const char *)call->sums[part->tensor] + sums_bytes(&before), &here, part->runs, part->run_count,
                     width, total);
        }
    }
    put_rows(job, group, rows, position, width, total);
    return true;
}

static bool put_degraded(const Job *job, int64_t rows, TRITONBACKEND_Response *response, Problem *problem) {
    void *degraded;
    if (!job->model->settings.degrade) return true;
    if (!add_output(response, "degraded", TRITON_TYPE_BOOL, rows, 1, &degraded, problem)) return false;
    memset(degraded, job->query.degraded, (size_t)rows);
    return true;
}

/* What averaged bags are divided by: the ids that were answered. */
static bool put_all_divisors(const Job *job, const int64_t *begin, const int64_t *rows, TRITONBACKEND_Response *response,
                             Problem *problem) {
    const Router *router = job->model->router;
    Unit *units = malloc((size_t)router->unit_count * sizeof *units);
    bool *asked = malloc((size_t)router->service_count * sizeof *asked);
    bool good = (units != NULL && asked != NULL) || fail(problem, "divisors: out of memory");
    for (int64_t u = 0; good && u < router->unit_count; u++) {
        units[u] = job->units[u];
        units[u].lengths += begin[router->units[u].group] * units[u].bags;
    }
    for (int64_t k = 0; good && k < router->service_count; k++) asked[k] = job->query.calls[k].answered;
    for (int64_t g = 0; good && g < router->group_count; g++)
        good = put_divisors(router, g, units, asked, rows[g], response, problem);
    free(asked);
    free(units);
    return good;
}

/* begin: the member's first row of each group. */
static void answer(Job *job, const Member *member, const int64_t *begin) {
    Problem problem;
    TRITONBACKEND_Response *response = NULL;
    const int32_t *position = job->set.positions + member->position;
    bool good = passed(TRITONBACKEND_ResponseNew(&response, member->request), &problem);
    for (int64_t g = 0; good && g < job->model->router->group_count; g++)
        good = put_sums(job, g, begin[g], member->rows[g], &position, response, &problem);
    good = good && put_degraded(job, member->rows[0], response, &problem) &&
           put_all_divisors(job, begin, member->rows, response, &problem);
    respond(job, member, response, TRITON_ERROR_INTERNAL, good ? NULL : problem.text);
}

static void job_free(Job *job) {
    for (int64_t k = 0; k < job->query.call_count; k++) call_close(job->query.calls + k);
    free(job->units);
    free(job->found);
    rows_close(&job->set);
    free(job->query.calls);
    free(job->sums);
    free(job->members);
    free(job->rows);
    free(job);
}

static void answered(Query *query) {
    Job *job = OWNER(query, Job, query);
    Model *model = job->model;
    const uint64_t rows = (uint64_t)job->rows[0];
    for (int64_t k = 0; !query->failed && k < query->call_count; k++)
        if (query->calls[k].missing) count(model->counters, DEGRADED, k, job->member_count);
    int64_t *begin = job->rows; /* from here on */
    memset(begin, 0, (size_t)model->router->group_count * sizeof *begin);
    for (uint32_t i = 0; i < job->member_count; i++) {
        const Member *member = job->members + i;
        if (query->failed) refuse(job, member, TRITON_ERROR_UNAVAILABLE, query->problem.text);
        else answer(job, member, begin);
        for (int64_t g = 0; g < model->router->group_count; g++) begin[g] += member->rows[g];
        atomic_fetch_sub(&model->in_flight, 1);
    }
    const uint64_t end_ns = now_ns();
    log_error(TRITONBACKEND_ModelInstanceReportBatchStatistics(job->instance, rows, query->begin_ns, query->begin_ns,
                                                               end_ns, end_ns));
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
    query_close(job->model->router, &member->inputs);
    refuse(job, member, code, why);
    atomic_fetch_sub(&job->model->in_flight, 1);
}

/* Take the requests that are in order; the others get their errors. */
static void accept_requests(Job *job, TRITONBACKEND_Request **requests, uint32_t request_count) {
    const Router *router = job->model->router;
    for (uint32_t i = 0; i < request_count; i++) {
        Problem problem;
        Member *member = job->members + job->member_count;
        *member = (Member){.request = requests[i], .begin_ns = now_ns()};
        if (!enter(job->model, &problem)) {
            refuse(job, member, TRITON_ERROR_UNAVAILABLE, problem.text);
        } else if (!query_open(router, requests[i], &member->inputs, &problem)) {
            leave(job, member, TRITON_ERROR_INVALID_ARG, problem.text);
        } else {
            member->rows = job->rows + (1 + job->member_count++) * router->group_count;
            memcpy(member->rows, member->inputs.reading.rows, (size_t)router->group_count * sizeof *member->rows);
        }
    }
}

/* Room for the ids and lengths of all queries, and for the calls. */
static bool make_room(Job *job, int64_t *room, Problem *problem) {
    const Router *router = job->model->router;
    const Settings *settings = &job->model->settings;
    size_t tensors = 0;
    int64_t unpooled = 0;
    for (uint32_t i = 0; i < job->member_count; i++) {
        const Member *member = job->members + i;
        for (int64_t g = 0; g < router->group_count; g++) job->rows[g] += member->rows[g];
        for (int64_t u = 0; u < router->unit_count; u++) room[u] += member->inputs.reading.room[u];
        unpooled += member->inputs.reading.unpooled;
    }
    for (int64_t k = 0; k < settings->service_count; k++) tensors += (size_t)settings->services[k].tensor_count;
    job->query.calls = calloc((size_t)router->service_count, sizeof *job->query.calls);
    job->sums = calloc(tensors, sizeof *job->sums);
    job->found = calloc((size_t)router->unit_count, sizeof *job->found);
    return ((job->query.calls != NULL && job->sums != NULL && job->found != NULL) ||
            fail(problem, "out of memory")) &&
           rows_open(router, unpooled, &job->set, problem) &&
           units_open(router, room, job->rows, &job->units, problem);
}

/* Add a query's ids behind those of the rows before it, of which there are `begin`; where one is bad nothing of it stays. */
static bool route(Job *job, Member *member, const int64_t *begin, Unit *outputs, Problem *problem) {
    const Router *router = job->model->router;
    for (int64_t u = 0; u < router->unit_count; u++) {
        outputs[u] = job->units[u];
        outputs[u].lengths += begin[router->units[u].group] * outputs[u].bags;
    }
    member->position = job->set.position_count;
    const bool good = router_route(router, member->inputs.tensors, &member->inputs.reading, outputs, &job->set, problem);
    for (int64_t u = 0; u < router->unit_count; u++) {
        const size_t lengths = (size_t)(member->rows[router->units[u].group] * outputs[u].bags);
        if (good) job->units[u].count = outputs[u].count;
        else memset(outputs[u].lengths, 0, lengths * sizeof *outputs[u].lengths);
    }
    return good;
}

/* Route all queries; those with a bad id get their errors, the others move up. */
static void route_all(Job *job, Unit *outputs) {
    const int64_t groups = job->model->router->group_count;
    uint32_t kept = 0;
    memset(job->rows, 0, (size_t)groups * sizeof *job->rows);
    for (uint32_t i = 0; i < job->member_count; i++) {
        Problem problem;
        Member member = job->members[i];
        if (!route(job, &member, job->rows, outputs, &problem)) {
            leave(job, &member, TRITON_ERROR_INVALID_ARG, problem.text);
            continue;
        }
        query_close(job->model->router, &member.inputs);
        for (int64_t g = 0; g < groups; g++) job->rows[g] += member.rows[g];
        job->members[kept++] = member;
    }
    job->member_count = kept;
}

/* How many ids a query asks a service for. */
static int64_t count_ids(const RemoteShard *shard, const Unit *units) {
    int64_t ids = 0;
    for (int64_t g = 0; g < shard->group_count; g++)
        for (int64_t u = shard->groups[g].part->first; u < shard->groups[g].part->end; u++) ids += units[u].count;
    return ids;
}

static void make_calls(Job *job) {
    const Settings *settings = &job->model->settings;
    Query *query = &job->query;
    const void **sums = job->sums;
    query->answered = answered;
    query->degrade = settings->degrade != 0;
    query->client_queries = job->member_count;
    query->call_count = settings->service_count;
    for (int64_t k = 0; k < settings->service_count; k++) {
        const RemoteShard *shard = settings->services + k;
        query->calls[k] = (Call){
            .service = engine_service(job->model->engine, k),
            .units = job->units,
            .rows = job->rows,
            .ids = count_ids(shard, job->units),
            .sums = sums,
            .found = job->found,
        };
        sums += shard->tensor_count;
    }
}

static void leave_all(Job *job, const char *why) {
    for (uint32_t i = 0; i < job->member_count; i++) leave(job, job->members + i, TRITON_ERROR_UNAVAILABLE, why);
    job->member_count = 0;
}

/* Whether the job is the engine's now; else nothing of it is left to be done. */
static bool execute(Job *job, TRITONBACKEND_Request **requests, uint32_t request_count) {
    const size_t units = (size_t)job->model->router->unit_count;
    Problem problem = {"out of memory"};
    accept_requests(job, requests, request_count);
    Unit *outputs = calloc(units, sizeof *outputs);
    int64_t *room = calloc(units, sizeof *room);
    if (outputs != NULL && room != NULL && make_room(job, room, &problem)) route_all(job, outputs);
    else leave_all(job, problem.text);
    free(outputs);
    free(room);
    if (job->member_count == 0) return false;
    make_calls(job);
    engine_submit(job->model->engine, &job->query); /* and it may be gone by now */
    return true;
}

void model_execute(void *state, TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request **requests,
                   uint32_t request_count) {
    Model *model = state;
    Job none = {.model = model, .instance = instance};
    Job *job = calloc(1, sizeof *job);
    Member *members = calloc(request_count, sizeof *members);
    int64_t *rows = calloc((1 + (size_t)request_count) * (size_t)model->router->group_count, sizeof *rows);
    if (job == NULL || members == NULL || rows == NULL) {
        for (uint32_t i = 0; i < request_count; i++) {
            const Member member = {.request = requests[i], .begin_ns = now_ns()};
            refuse(&none, &member, TRITON_ERROR_UNAVAILABLE, "out of memory");
        }
        free(members);
        free(rows);
        return free(job);
    }
    *job = (Job){.model = model, .instance = instance, .members = members, .rows = rows, .query.begin_ns = now_ns()};
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
    model->watcher = watcher_open(model->addresses, &model->settings, model->engine, problem);
    return model->watcher != NULL;
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
    if (model->watcher != NULL) watcher_close(model->watcher);
    if (model->engine != NULL) engine_close(model->engine);
    if (model->counters != NULL) counters_close(model->counters);
    if (model->tls != NULL) tls_close(model->tls);
    if (model->router != NULL) router_close(model->router);
    settings_close(&model->settings);
    free(model->addresses);
    free(model);
}
