/* What a job's members are answered: of each group `sums` (rows, widths of all its look-ups), added up of what the
 * embedding services answer, or put together of rows that they answer as they are, and `divisors` (rows, bags of all
 * look-ups) where some are averaged; with `missing_shard: degrade` also `degraded` (rows of the first group, 1). */
#include <stdlib.h>
#include <string.h>

#include "jobs.h"


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

void refuse(Job *job, const Member *member, int code, const char *why) {
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

/* Whether a service was asked for a part's bags as `packing.c` puts them. */
static bool is_packed(const RoutedPart *part, const Unit *units) {
    for (int64_t u = part->first; u < part->end; u++)
        if (units[u].bags > 0) return units[u].index != NULL;
    return false;
}

/* How many bags, at most `most`, stand side by side both where they are answered and where they go: at least one. */
static int64_t count_neighbours(const int32_t *index, const int64_t *to, int64_t most, int64_t dim) {
    int64_t count = 1;
    while (count < most && index[count] == *index + count && to[count] == *to + count * dim) count++;
    return count;
}

/* Add a row of a unit's packed bags, each wherever it comes. sums: of the unit's first column. */
static void add_bags(const int32_t *index, const int64_t *to, int64_t bags, const AnswerShape *shape, int64_t dim,
                     const char *sums, char *total) {
    for (int64_t bag = 0, count = 1; bag < bags; bag += count) {
        const uint32_t place = (uint32_t)index[bag], side = (uint32_t)bags;
        const int64_t column = place % side;
        count = 1;
        if (index[bag] < 0) continue;
        count = count_neighbours(index + bag, to + bag, bags - (bag > column ? bag : column), dim);
        numbers_add(sums + (shape->half ? 2 : 4) * (place / side * shape->width + column * dim), shape->half, count * dim,
                    total + 4 * to[bag]);
    }
}

/* Add a group's packed bags of the rows from `begin` on. */
static void add_packed(const Job *job, const RemoteGroup *group, const char *sums, int64_t begin, int64_t rows, char *total) {
    const int64_t width = job->model->settings.widths[group->part->group];
    const AnswerShape shape = {.width = group->width, .half = job->model->settings.half != 0};
    const int64_t *to = group->to;
    for (int64_t u = group->part->first; u < group->part->end; u++) {
        const Unit *unit = job->units + u;
        const int64_t dim = group->dims[u - group->part->first];
        for (int64_t row = 0; unit->bags > 0 && row < rows; row++)
            add_bags(unit->index + (begin + row) * unit->bags, to, unit->bags, &shape, dim, sums, total + 4 * row * width);
        sums += (shape.half ? 2 : 4) * unit->bags * dim;
        to += unit->bags;
    }
}

/* Add what a call answered of a group's rows from `begin` on. */
static void add_sums(const Job *job, const Call *call, const RemoteGroup *group, int64_t begin, int64_t rows, char *total) {
    const Settings *settings = &job->model->settings;
    const char *sums = call->sums[group->tensor];
    const AnswerShape before = {.rows = begin, .width = group->width, .half = settings->half != 0};
    const AnswerShape here = {.rows = rows, .width = group->width, .half = settings->half != 0};
    if (is_packed(group->part, job->units)) return add_packed(job, group, sums, begin, rows, total);
    sums_add(sums + sums_bytes(&before), &here, group->runs, group->run_count, settings->widths[group->part->group], total);
}

/* A group's sums of the rows from `begin` on, added up in the plan's order. */
static bool put_sums(const Job *job, int64_t group, int64_t begin, int64_t rows, const int32_t **position,
                     TRITONBACKEND_Response *response, Problem *problem) {
    const Settings *settings = &job->model->settings;
    const int64_t width = settings->widths[group];
    char name[TENSOR_NAME_BYTES];
    void *total;
    tensor_name(name, "sums", group);
    if (!add_output(response, name, TRITON_TYPE_FP32, rows, width, &total, problem)) return false;
    if (job->model->router->groups[group].unpooled > job->model->router->groups[group].first)
        memset(total, 0, sizeof(float) * (size_t)(rows * width));
    for (int64_t k = 0; k < job->query.call_count; k++) {
        const Call *call = job->query.calls + k;
        const RemoteShard *shard = settings->services + k;
        for (int64_t g = 0; call->answered && g < shard->group_count; g++)
            if (shard->groups[g].part->group == group && shard->groups[g].part->bags > 0)
                add_sums(job, call, shard->groups + g, begin, rows, total);
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
        const int64_t before = begin[router->units[u].group] * units[u].bags;
        if (units[u].index != NULL) units[u].index += before;
        else units[u].lengths += before;
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

void job_free(Job *job) {
    for (int64_t k = 0; k < job->query.call_count; k++) call_close(job->query.calls + k);
    free(job->units);
    free(job->indexes);
    free(job->asked);
    free(job->found);
    rows_close(&job->set);
    free(job->query.calls);
    free(job->sums);
    free(job->members);
    free(job->rows);
    free(job);
}

void job_answer(Query *query) {
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
