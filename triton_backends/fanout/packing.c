/* What services are asked for of a job's bags. A bag that is the row before's, as all of a user's are beside candidates, is
 * asked for once: its sum is every such row's. What is left stands bag by bag in as few rows as hold it: to a service, whose
 * unit has bags of rows of one matrix, it does not matter which look-up a bag is of. */
#include <stdlib.h>
#include <string.h>

#include "jobs.h"

enum { NONE = -1, WORTH_ROWS = 8 }; /* where nothing repeats, in so many rows half of the bags must be empty */

/* How many of a unit's bags have ids; added to `repeated`, those that are the row before's. */
static int64_t count_filled(const Unit *unit, int64_t rows, int64_t *repeated) {
    int32_t filled = 0, again = 0;
    for (int64_t i = 0; i < rows * unit->bags; i++) {
        filled += unit->lengths[i] > 0;
        again += unit->lengths[i] == REPEATED;
    }
    *repeated += again;
    return filled;
}

/* The rows that a service is asked for of a part. */
static int64_t rows_asked(const RoutedPart *part, const Unit *units, int64_t rows, int64_t *repeated) {
    int64_t needed = 1;
    for (int64_t u = part->first; u < part->end; u++) {
        if (units[u].bags == 0) continue;
        const int64_t filled = count_filled(units + u, rows, repeated);
        if (filled > needed * units[u].bags) needed = (filled + units[u].bags - 1) / units[u].bags;
    }
    return part->bags > 0 && (*repeated > 0 || (rows >= WORTH_ROWS && 2 * needed <= rows)) ? needed : rows;
}

/* Put a unit's bags that have ids one after another, and say of all which of these they are. */
static void pack_unit(Unit *unit, int64_t rows, int64_t asked, int32_t *index) {
    int32_t next = 0;
    unit->index = index;
    for (int64_t i = 0; i < rows * unit->bags; i++) {
        const int32_t length = unit->lengths[i];
        index[i] = length > 0 ? next : length == REPEATED ? index[i - unit->bags] : NONE;
        if (length > 0) unit->lengths[next++] = length;
    }
    memset(unit->lengths + next, 0, sizeof *unit->lengths * (size_t)(asked * unit->bags - next));
}

bool job_pack(Job *job) {
    const Router *router = job->model->router;
    int64_t bags = 0;
    bool *packed = calloc((size_t)router->part_count, sizeof *packed);
    if (packed == NULL) return false;
    for (int64_t p = 0; p < router->part_count; p++) {
        const RoutedPart *part = router->parts + p;
        const int64_t rows = job->rows[part->group];
        int64_t *asked = job->asked + part->service * router->group_count + part->group, repeated = 0;
        *asked = rows_asked(part, job->units, rows, &repeated);
        packed[p] = repeated > 0 || *asked < rows;
        if (packed[p]) bags += rows * part->bags;
        if (repeated > 0) count(job->model->counters, REPEATED_BAGS, part->service, (double)repeated);
    }
    int32_t *next = job->indexes = bags > 0 ? malloc((size_t)bags * sizeof *next) : NULL;
    for (int64_t p = 0; next != NULL && p < router->part_count; p++) {
        const RoutedPart *part = router->parts + p;
        const int64_t rows = job->rows[part->group];
        for (int64_t u = part->first; packed[p] && u < part->end; u++) {
            if (job->units[u].bags == 0) continue;
            pack_unit(job->units + u, rows, job->asked[part->service * router->group_count + part->group], next);
            next += rows * job->units[u].bags;
        }
    }
    free(packed);
    return bags == 0 || job->indexes != NULL;
}
