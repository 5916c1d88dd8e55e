/* The tensors that look-ups name -> `sums`, `divisors` and `degraded` (`answering.c`). Queries that Triton hands over
 * together are asked as one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "jobs.h"

static const char ADDRESSES[] = "ELASTICREC_ADDRESSES"; /* names the address file; else it is the build's own */
static const uint64_t CONNECT_WAIT_NS = 10000000000; /* then it serves all the same, and says which do not answer */

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
    for (int64_t u = 0; u < router->unit_count; u++)
        if (job->rows[router->units[u].group] * router->units[u].bags > INT32_MAX) return fail(problem, "too many bags");
    for (int64_t k = 0; k < settings->service_count; k++) tensors += (size_t)settings->services[k].tensor_count;
    job->query.calls = calloc((size_t)router->service_count, sizeof *job->query.calls);
    job->asked = calloc((size_t)(router->service_count * router->group_count), sizeof *job->asked);
    job->sums = calloc(tensors, sizeof *job->sums);
    job->found = calloc((size_t)router->unit_count, sizeof *job->found);
    return ((job->query.calls != NULL && job->asked != NULL && job->sums != NULL && job->found != NULL) ||
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
    const bool good = router_route(router, member->inputs.tensors, &member->inputs.reading, true, outputs, &job->set,
                                   problem);
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
    query->answered = job_answer;
    query->rows = job->rows;
    query->degrade = settings->degrade != 0;
    query->client_queries = job->member_count;
    query->call_count = settings->service_count;
    for (int64_t k = 0; k < settings->service_count; k++) {
        const RemoteShard *shard = settings->services + k;
        query->calls[k] = (Call){
            .service = engine_service(job->model->engine, k),
            .units = job->units,
            .rows = job->asked + k * job->model->router->group_count,
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
    if (job->member_count > 0 && !job_pack(job)) leave_all(job, "out of memory");
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
        !tls_client_open(&model->tls, problem))
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

void *model_open(TRITONBACKEND_Model *triton_model, const char *folder, Problem *problem) {
    (void)triton_model;
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
