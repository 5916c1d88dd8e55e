#include "queries.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool check_type(const RoutedInput *input, const Tensor *tensor, Problem *problem) {
    const bool whole = tensor->type == TRITON_TYPE_INT64 || tensor->type == TRITON_TYPE_INT32;
    return (input->weights ? tensor->type == TRITON_TYPE_FP32 : whole) ||
           fail(problem, "%s: expected %s, got %s", input->text, input->weights ? "FP32" : "INT64 or INT32",
                type_name(tensor->type));
}

static bool open_tensors(const Router *router, TRITONBACKEND_Request *request, Tensor *tensors, Problem *problem) {
    for (int64_t i = 0; i < router->input_count; i++)
        if (!tensor_open(request, router->inputs[i].text, tensors + i, problem) ||
            !tensor_align(tensors + i, router->inputs[i].text, problem) ||
            !check_type(router->inputs + i, tensors + i, problem))
            return false;
    return true;
}

static bool are_finite(const char *name, const Tensor *tensor, Problem *problem) {
    const float *numbers = tensor->data;
    const int64_t columns = tensor->shape[1];
    bool finite = true;
    for (int64_t i = 0; i < tensor->count; i++) finite &= isfinite(numbers[i]) != 0;
    if (finite) return true;
    int64_t bad = 0;
    while (isfinite(numbers[bad])) bad++;
    return fail(problem, "%s: expected finite numbers, got %s in row %lld, column %lld", name,
                isnan(numbers[bad]) ? "nan" : numbers[bad] > 0 ? "inf" : "-inf", (long long)(bad / columns),
                (long long)(bad % columns));
}

/* A tensor (rows, features) whose numbers must be finite; rows: of the first group, in `counted`. */
static bool check_finite(TRITONBACKEND_Request *request, const char *name, int64_t rows, const char *counted,
                         Problem *problem) {
    Tensor tensor = {0};
    bool good = tensor_open(request, name, &tensor, problem) && tensor_align(&tensor, name, problem);
    if (good && tensor.type != TRITON_TYPE_FP32)
        good = fail(problem, "%s: expected FP32, got %s", name, type_name(tensor.type));
    if (good && tensor.dims != 2)
        good = fail(problem, "%s: expected 2 dimensions, got %lld", name, (long long)tensor.dims);
    if (good && tensor.shape[0] != rows)
        good = fail(problem, "%s, %s: expected the same number of rows in each, got %lld and %lld", name, counted,
                    (long long)tensor.shape[0], (long long)rows);
    good = good && are_finite(name, &tensor, problem);
    tensor_close(&tensor);
    return good;
}

/* The tensor that says how many rows a group has. */
static const char *counted_by(const Router *router, int64_t group) {
    const RoutedLookup *lookup = router->lookups + router->groups[group].counted;
    return router->inputs[lookup->kind == NO_BOUNDS ? lookup->ids : lookup->bounds].text;
}

static bool check_rows(const Router *router, TRITONBACKEND_Request *request, const int64_t *rows, Problem *problem) {
    for (int64_t i = 0; i < router->finite_count; i++)
        if (!check_finite(request, router->finite[i].text, rows[0], counted_by(router, 0), problem)) return false;
    for (int64_t g = 0; g < router->group_count; g++) {
        const int most = g == 0 ? MAX_BATCH_ROWS : MAX_GROUP_ROWS;
        const bool both = g == 0 && router->finite_count > 0;
        if (rows[g] < 1 || rows[g] > most)
            return fail(problem, "%s%s%s: expected 1 to %d rows, got %lld", both ? router->finite[0].text : "",
                        both ? ", " : "", counted_by(router, g), most, (long long)rows[g]);
    }
    return true;
}

bool query_open(const Router *router, TRITONBACKEND_Request *request, QueryInputs *inputs, Problem *problem) {
    *inputs = (QueryInputs){.tensors = calloc((size_t)router->input_count, sizeof *inputs->tensors)};
    return (inputs->tensors != NULL || fail(problem, "out of memory")) &&
           open_tensors(router, request, inputs->tensors, problem) &&
           router_measure(router, inputs->tensors, &inputs->reading, problem) &&
           check_rows(router, request, inputs->reading.rows, problem) &&
           router_read(router, inputs->tensors, &inputs->reading, problem);
}

void query_close(const Router *router, QueryInputs *inputs) {
    router_forget(router, &inputs->reading);
    for (int64_t i = 0; inputs->tensors != NULL && i < router->input_count; i++) tensor_close(inputs->tensors + i);
    free(inputs->tensors);
    *inputs = (QueryInputs){0};
}

static int64_t lengths_of(const RoutedUnit *unit, const int64_t *rows) {
    return unit->bags == 0 ? 1 : rows[unit->group] * unit->bags;
}

/* All in one piece: the units, all lengths, then each one's ids and weights. */
bool units_open(const Router *router, const int64_t *room, const int64_t *rows, Unit **units, Problem *problem) {
    const RoutedUnit *about = router->units;
    int64_t lengths = 0, numbers = 0;
    for (int64_t u = 0; u < router->unit_count; u++) {
        lengths += lengths_of(about + u, rows);
        numbers += room[u] * (about[u].weighted ? 2 : 1) + ROOM_BEHIND;
    }
    Unit *made = *units = malloc((size_t)router->unit_count * sizeof *made + 4 * (size_t)(lengths + numbers));
    if (made == NULL) return fail(problem, "out of memory for %lld rows", (long long)rows[0]);
    int32_t *next_lengths = (int32_t *)(made + router->unit_count), *next = next_lengths + lengths;
    memset(next_lengths, 0, 4 * (size_t)lengths);
    for (int64_t u = 0; u < router->unit_count; u++) {
        made[u] = (Unit){.ids = next, .lengths = next_lengths, .bags = about[u].bags};
        next += room[u] + ROOM_BEHIND;
        next_lengths += lengths_of(about + u, rows);
        if (!about[u].weighted) continue;
        made[u].weights = (float *)next;
        next += room[u];
    }
    return true;
}

bool rows_open(const Router *router, int64_t ids, RowSet *set, Problem *problem) {
    int64_t slots = 1;
    *set = (RowSet){.seed = router->seed};
    if (ids == 0) return true;
    while (slots < 2 * ids) slots *= 2;
    set->slots = slots;
    set->keys = calloc((size_t)slots, sizeof *set->keys);
    set->numbers = malloc((size_t)slots * sizeof *set->numbers);
    set->rows = malloc((size_t)ids * sizeof *set->rows);
    set->positions = malloc((size_t)ids * sizeof *set->positions);
    return (ids <= INT32_MAX && set->keys != NULL && set->numbers != NULL && set->rows != NULL &&
            set->positions != NULL) ||
           fail(problem, "out of memory for %lld ids", (long long)ids);
}

void rows_close(RowSet *set) {
    free(set->keys);
    free(set->numbers);
    free(set->rows);
    free(set->positions);
    *set = (RowSet){0};
}

bool put_divisors(const Router *router, int64_t group, const Unit *units, const bool *asked, int64_t rows,
                  TRITONBACKEND_Response *response, Problem *problem) {
    char name[TENSOR_NAME_BYTES];
    void *data;
    const int64_t width = router->groups[group].bags;
    if (router->groups[group].means == 0) return true;
    tensor_name(name, "divisors", group);
    const size_t size = sizeof(float) * (size_t)(rows * width);
    float *divisors = malloc(size); /* an output's buffer need not be aligned */
    if (divisors == NULL) return fail(problem, "%s: out of memory for %lld rows", name, (long long)rows);
    router_divide(router, group, units, asked, rows, divisors);
    const bool good = add_output(response, name, TRITON_TYPE_FP32, rows, width, &data, problem);
    if (good) memcpy(data, divisors, size);
    free(divisors);
    return good;
}
