/* The tensors that look-ups name -> for each embedding service NAME, and group of which it holds a look-up, `NAME_ids`
 * (1, nnz), `NAME_lengths` (1, rows * bags) and, where some are weighted, `NAME_weights` (1, nnz of those); and `divisors`
 * (rows, bags of all look-ups) of each group where some are averaged. Of a later group the names have its suffix. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answers.h"
#include "queries.h"

void *model_open(TRITONBACKEND_Model *triton_model, const char *folder, Problem *problem) {
    (void)triton_model;
    return router_open(folder, problem);
}

void model_close(void *model) {
    router_close(model);
}

/* Numbers of 4 bytes, a unit's after the other's: of each, its ids, weights or lengths. */
typedef enum { IDS, WEIGHTS, BAG_LENGTHS } Kind;

static size_t piece(const Unit *unit, Kind kind, int64_t rows, const void **numbers) {
    *numbers = kind == IDS ? (const void *)unit->ids : kind == WEIGHTS ? (const void *)unit->weights : unit->lengths;
    if (*numbers == NULL) return 0;
    return (size_t)(kind != BAG_LENGTHS ? unit->count : unit->bags == 0 ? 1 : rows * unit->bags);
}

static bool put_output(TRITONBACKEND_Response *response, const char *name, const RoutedPart *part, const Unit *units,
                       Kind kind, int64_t rows, Problem *problem) {
    const void *numbers;
    void *data;
    size_t total = 0;
    for (int64_t u = part->first; u < part->end; u++) total += piece(units + u, kind, rows, &numbers);
    const int type = kind == WEIGHTS ? TRITON_TYPE_FP32 : TRITON_TYPE_INT32;
    if (!add_output(response, name, type, 1, (int64_t)total, &data, problem)) return false;
    char *to = data;
    for (int64_t u = part->first; u < part->end; u++) {
        const size_t size = 4 * piece(units + u, kind, rows, &numbers);
        if (size > 0) memcpy(to, numbers, size);
        to += size;
    }
    return true;
}

static bool put_parts(const Router *router, const Unit *units, const int64_t *rows, TRITONBACKEND_Response *response,
                      Problem *problem) {
    for (const RoutedPart *part = router->parts; part < router->parts + router->part_count; part++) {
        const int64_t count = rows[part->group];
        if (!put_output(response, part->ids_name, part, units, IDS, count, problem) ||
            !put_output(response, part->lengths_name, part, units, BAG_LENGTHS, count, problem) ||
            (part->weighted && !put_output(response, part->weights_name, part, units, WEIGHTS, count, problem)))
            return false;
    }
    return true;
}

static bool route(const Router *router, const QueryInputs *inputs, TRITONBACKEND_Response *response, Problem *problem) {
    const Reading *reading = &inputs->reading;
    Unit *units = NULL; /* scratch memory, since outputs must be asked for in their exact size */
    RowSet set;
    bool good = rows_open(router, reading->unpooled, &set, problem) &&
                units_open(router, reading->room, reading->rows, &units, problem) &&
                router_route(router, inputs->tensors, reading, false, units, &set, problem) &&
                put_parts(router, units, reading->rows, response, problem);
    for (int64_t g = 0; good && g < router->group_count; g++)
        good = put_divisors(router, g, units, NULL, reading->rows[g], response, problem);
    free(units);
    rows_close(&set);
    return good;
}

bool model_answer(const void *model, TRITONBACKEND_Request *request, TRITONBACKEND_Response *response,
                  Problem *problem) {
    const Router *router = model;
    QueryInputs inputs;
    const bool good = query_open(router, request, &inputs, problem) && route(router, &inputs, response, problem);
    query_close(router, &inputs);
    return good;
}
