/* Several calls' requests as one, unit by unit, and its answer shared out again. */
#include <stdlib.h>
#include <string.h>

#include "bundles.h"
#include "../native/queries.h"
#include "requests.h"

enum { MOST_BYTES = 4 << 20 }; /* of what is asked and answered together: a longer message keeps the first call waiting */

static int64_t group_count(const RemoteService *service) {
    return service->settings->router->group_count;
}

/* ---- how many go together ---- */

/* What a call asks for and is answered, without what stands around the numbers. */
static int64_t call_bytes(const Call *call) {
    const Settings *settings = call->service->settings;
    const RemoteShard *shard = call->service->shard;
    int64_t numbers = 0;
    for (int64_t g = 0; g < shard->group_count; g++) {
        const RoutedPart *part = shard->groups[g].part;
        const int64_t rows = call->rows[part->group];
        numbers += rows * (part->bags + shard->groups[g].width);
        for (int64_t u = part->first; u < part->end; u++) {
            const Unit *unit = call->units + u;
            numbers += unit->count * (1 + (unit->weights != NULL) + settings->dims[u]);
        }
    }
    return 4 * numbers;
}

/* Whether no group has more rows than a service takes: as their queries have them, which bounds the ids too. */
static bool add_rows(const Call *call, int64_t *rows) {
    bool fits = true;
    for (int64_t g = 0; g < group_count(call->service); g++) {
        rows[g] += call->query->rows[g];
        fits &= rows[g] <= (g == 0 ? MAX_BATCH_ROWS : MAX_GROUP_ROWS);
    }
    return fits;
}

int64_t bundle_room(const RemoteService *service, int64_t most) {
    int64_t taken = 0, bytes = 0;
    if (most == 1 || service->waiting->next == NULL) return 1;
    int64_t *rows = calloc((size_t)group_count(service), sizeof *rows);
    for (const Call *call = service->waiting; rows != NULL && call != NULL && taken < most; call = call->next, taken++) {
        bytes += call_bytes(call);
        if (!add_rows(call, rows) || bytes > MOST_BYTES) break;
    }
    free(rows);
    return taken > 0 ? taken : 1;
}

/* ---- joining ---- */

/* Room for the units' ids, weights and lengths, all in one piece; un-pooled: ids of such. */
static bool units_new(Bundle *bundle, int64_t *unpooled) {
    const RemoteShard *shard = bundle->service->shard;
    const int64_t end = shard->groups[shard->group_count - 1].part->end;
    int64_t numbers = 0;
    for (int64_t g = 0; g < shard->group_count; g++) {
        const RoutedPart *part = shard->groups[g].part;
        numbers += bundle->rows[part->group] * part->bags + part->unpooled;
        for (int64_t u = part->first; u < part->end; u++)
            for (int64_t i = 0; i < bundle->call_count; i++) {
                const Unit *unit = bundle->calls[i]->units + u;
                numbers += unit->count * (unit->weights != NULL ? 2 : 1);
                if (unit->bags == 0) *unpooled += unit->count;
            }
    }
    bundle->units = malloc((size_t)end * sizeof *bundle->units + 4 * (size_t)numbers);
    return bundle->units != NULL;
}

/* One unit of all calls, whose numbers are put at `at`; behind them. */
static int32_t *join_bags(Bundle *bundle, int64_t u, int64_t group, int32_t *at) {
    Unit *joined = bundle->units + u;
    for (int64_t i = 0; i < bundle->call_count; i++) {
        const Call *call = bundle->calls[i];
        const int64_t lengths = call->rows[group] * joined->bags;
        memcpy(at, call->units[u].lengths, 4 * (size_t)lengths);
        at += lengths;
    }
    joined->ids = at;
    for (int64_t i = 0; i < bundle->call_count; i++) {
        const Unit *unit = bundle->calls[i]->units + u;
        memcpy(joined->ids + joined->count, unit->ids, 4 * (size_t)unit->count);
        joined->count += unit->count;
    }
    at += joined->count;
    if (bundle->calls[0]->units[u].weights == NULL) return at;
    joined->weights = (float *)at;
    for (int64_t i = 0; i < bundle->call_count; i++) {
        const Unit *unit = bundle->calls[i]->units + u;
        memcpy(at, unit->weights, 4 * (size_t)unit->count);
        at += unit->count;
    }
    return at;
}

/* Likewise of a unit whose rows are answered as they are: each is asked for once. */
static int32_t *join_rows(Bundle *bundle, int64_t u, int32_t *at) {
    Unit *joined = bundle->units + u;
    const int64_t first = bundle->set.row_count;
    joined->ids = at + 1;
    for (int64_t i = 0; i < bundle->call_count; i++) {
        Call *call = bundle->calls[i];
        call->found[u].index = bundle->set.positions + bundle->set.position_count;
        elasticrec_join_rows(call->units[u].ids, call->units[u].count, u, first, joined, &bundle->set);
    }
    *at = (int32_t)joined->count;
    return joined->ids + joined->count;
}

static bool join(Bundle *bundle) {
    const RemoteService *service = bundle->service;
    Problem problem;
    int64_t unpooled = 0;
    if (!units_new(bundle, &unpooled) || !rows_open(service->settings->router, unpooled, &bundle->set, &problem))
        return false;
    const RemoteShard *shard = service->shard;
    int32_t *at = (int32_t *)(bundle->units + shard->groups[shard->group_count - 1].part->end);
    for (int64_t g = 0; g < shard->group_count; g++) {
        const RoutedPart *part = shard->groups[g].part;
        for (int64_t u = part->first; u < part->end; u++) {
            bundle->units[u] = (Unit){.lengths = at, .bags = bundle->calls[0]->units[u].bags};
            at = bundle->units[u].bags > 0 ? join_bags(bundle, u, part->group, at) : join_rows(bundle, u, at);
        }
    }
    return true;
}

/* ---- a bundle ---- */

/* All its lists in one piece. */
static Bundle *allocate(RemoteService *service, int64_t call_count) {
    const size_t tensors = (size_t)service->shard->tensor_count, calls = (size_t)call_count;
    const size_t numbers = (1 + calls) * (size_t)group_count(service);
    Bundle *bundle = calloc(1, sizeof *bundle + calls * sizeof *bundle->calls + numbers * sizeof *bundle->rows +
                                   tensors * (sizeof *bundle->shapes + sizeof *bundle->sums));
    if (bundle == NULL) return NULL;
    bundle->service = service;
    bundle->rows = (int64_t *)(bundle->calls + calls);
    bundle->sums = (const void **)(bundle->rows + numbers);
    bundle->shapes = (AnswerShape *)(bundle->sums + tensors);
    return bundle;
}

/* The calls are the bundle's. */
static void take(Bundle *bundle, Call *const *calls, int64_t call_count) {
    const int64_t groups = group_count(bundle->service);
    bundle->call_count = bundle->waiting = bundle->references = call_count;
    for (int64_t i = 0; i < call_count; i++) {
        Call *call = bundle->calls[i] = calls[i];
        int64_t *begin = bundle->rows + (1 + i) * groups;
        memcpy(begin, bundle->rows, (size_t)groups * sizeof *begin);
        for (int64_t g = 0; g < groups; g++) bundle->rows[g] += call->rows[g];
        call->bundle = bundle;
        call->position = i;
        call->begin = begin;
    }
}

static void bundle_free(Bundle *bundle) {
    message_close(&bundle->message);
    rows_close(&bundle->set);
    free(bundle->units);
    buffer_release(bundle->answer);
    free(bundle);
}

void bundle_release(Bundle *bundle) {
    if (--bundle->references == 0) bundle_free(bundle);
}

static const Unit *sent_units(const Bundle *bundle) {
    return bundle->units != NULL ? bundle->units : bundle->calls[0]->units;
}

/* Where rows are, if they are not joined with others'. */
static void forget_indexes(const RemoteShard *shard, Call *call) {
    for (int64_t g = 0; g < shard->group_count; g++)
        for (int64_t u = shard->groups[g].part->first; u < shard->groups[g].part->end; u++) call->found[u].index = NULL;
}

Bundle *bundle_new(RemoteService *service, Call *const *calls, int64_t call_count) {
    int64_t ids;
    Bundle *bundle = allocate(service, call_count);
    if (bundle == NULL) return NULL;
    take(bundle, calls, call_count);
    if (call_count == 1) forget_indexes(service->shard, calls[0]);
    if ((call_count == 1 || join(bundle)) && request_write(service->settings, service->shard, sent_units(bundle),
                                                           bundle->rows, &bundle->message, &ids)) {
        request_shapes(service->settings, service->shard, sent_units(bundle), bundle->rows, bundle->shapes);
        return bundle;
    }
    for (int64_t i = 0; i < call_count; i++) calls[i]->bundle = NULL;
    bundle_free(bundle);
    return NULL;
}

/* ---- the answer ---- */

static void share_sums(Bundle *bundle, const RemoteGroup *group) {
    for (int64_t i = 0; i < bundle->call_count; i++) {
        Call *call = bundle->calls[i];
        if (call == NULL) continue;
        AnswerShape before = bundle->shapes[group->tensor];
        before.rows = call->begin[group->part->group];
        call->sums[group->tensor] = (const char *)bundle->sums[group->tensor] + sums_bytes(&before);
    }
}

static void share_rows(Bundle *bundle, const RemoteGroup *group) {
    const Settings *settings = bundle->service->settings;
    const Unit *units = sent_units(bundle);
    const char *at = bundle->sums[group->tensor + (group->part->bags > 0)];
    for (int64_t u = group->part->first; u < group->part->end; u++) {
        if (settings->dims[u] == 0) continue;
        for (int64_t i = 0; i < bundle->call_count; i++)
            if (bundle->calls[i] != NULL) bundle->calls[i]->found[u].numbers = at;
        at += (settings->half ? 2 : 4) * units[u].count * settings->dims[u];
    }
}

void bundle_share(Bundle *bundle) {
    const RemoteShard *shard = bundle->service->shard;
    for (const RemoteGroup *group = shard->groups; group < shard->groups + shard->group_count; group++) {
        if (group->part->bags > 0) share_sums(bundle, group);
        if (group->part->unpooled > 0) share_rows(bundle, group);
    }
}
