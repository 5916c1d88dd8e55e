/* A query's tensors: how many rows they hold, where each bag's ids are, and where these go. Trusts no number. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "router.h"

static int64_t at(const Tensor *tensor, int64_t index) {
    return tensor->bytes == 8 ? ((const int64_t *)tensor->data)[index] : ((const int32_t *)tensor->data)[index];
}

static const char *input(const Router *router, int64_t index) {
    return router->inputs[index].text;
}

/* How a look-up is called in errors. */
static const char *label(const Router *router, const RoutedLookup *lookup, char text[2 * NAME_BYTES + 32]) {
    const char *table = router->tables[lookup->table].name.text, *name = lookup->name.text;
    const bool same = strcmp(table, name) == 0;
    snprintf(text, 2 * NAME_BYTES + 32, "table %s%s%s", table, same ? "" : ": look-up ", same ? "" : name);
    return text;
}

/* An id that is none of the table's `rows`; index: in the tensor; width: of its rows, 0 where it has none. */
static bool out_of_range(const char *label, const Tensor *tensor, const char *ids, int64_t width, int64_t index,
                         int64_t least, int64_t rows, const int64_t *padding, Problem *problem) {
    char where[80], empty[48] = "";
    if (width > 0)
        snprintf(where, sizeof where, "in row %lld, column %lld", (long long)(index / width), (long long)(index % width));
    else snprintf(where, sizeof where, "at index %lld", (long long)index);
    if (padding != NULL) snprintf(empty, sizeof empty, ", or %lld for an empty slot", (long long)*padding);
    return fail(problem, "%s: id %lld %s of %s is out of range; expected %lld to %lld%s", label,
                (long long)at(tensor, index), where, ids, (long long)least, (long long)rows - 1, empty);
}

static bool bad_id(const Router *router, const RoutedLookup *lookup, const Tensor *ids, int64_t width, int64_t index,
                   Problem *problem) {
    char text[2 * NAME_BYTES + 32];
    const int64_t rows = lookup->routed.rows;
    return out_of_range(label(router, lookup, text), ids, input(router, lookup->ids), width, index,
                        lookup->from_end ? -rows : 0, rows, lookup->has_padding ? &lookup->padding : NULL, problem);
}

/* ---- rows ---- */

/* The ids' tensor is a matrix, whose width is the last dimension, or so many of them. */
static bool measure_columns(const Router *router, const RoutedLookup *lookup, const Tensor *ids, int64_t *rows,
                            Problem *problem) {
    int64_t width = 1, left = ids->dims;
    if (lookup->width < 0 && left > 0) left--;
    while (lookup->width >= 0 && left > 0 && width < lookup->width && width > 0)
        if (__builtin_mul_overflow(width, ids->shape[--left], &width)) width = 0;
    *rows = 1;
    for (int64_t i = 0; i < left; i++)
        if (__builtin_mul_overflow(*rows, ids->shape[i], rows)) *rows = INT64_MAX / 2; /* too many, or of no ids */
    return lookup->width < 0 || width == lookup->width ||
           fail(problem, "%s: expected %lld columns, got %lld", input(router, lookup->ids), (long long)lookup->width,
                (long long)(ids->dims > 0 ? ids->shape[ids->dims - 1] : 1));
}

static bool measure_bounds(const Router *router, const RoutedLookup *lookup, const Tensor *bounds, int64_t *rows,
                           Problem *problem) {
    const int64_t bags = bounds->count - (lookup->kind == ENDS);
    *rows = bags / lookup->blocks;
    if (bags < 0)
        return fail(problem, "%s: expected the end of the last bag, got nothing", input(router, lookup->bounds));
    return bags % lookup->blocks == 0 ||
           fail(problem, "%s: expected %lld blocks of bags, all alike, got %lld bags", input(router, lookup->bounds),
                (long long)lookup->blocks, (long long)bags);
}

static int64_t counted_by(const RoutedLookup *lookup) {
    return lookup->kind == NO_BOUNDS ? lookup->ids : lookup->bounds;
}

static bool measure(const Router *router, const Tensor *tensors, int64_t *rows, Problem *problem) {
    for (int64_t i = 0; i < router->lookup_count; i++) {
        const RoutedLookup *lookup = router->lookups + i;
        const RoutedLookup *first = router->lookups + router->groups[lookup->group].counted;
        const Tensor *tensor = tensors + counted_by(lookup);
        int64_t found;
        if (!(lookup->kind == NO_BOUNDS ? measure_columns : measure_bounds)(router, lookup, tensor, &found, problem))
            return false;
        if (lookup == first) rows[lookup->group] = found;
        if (rows[lookup->group] != found)
            return fail(problem, "%s, %s: expected the same number of rows in each, got %lld and %lld",
                        input(router, counted_by(first)), input(router, counted_by(lookup)),
                        (long long)rows[lookup->group], (long long)found);
    }
    return true;
}

/* ---- bounds ---- */

static bool read_lengths(const Tensor *bounds, int64_t count, int64_t *starts, const char *told, const char *ids,
                         Problem *problem) {
    int64_t total = 0;
    for (int64_t i = 0; i < bounds->count; i++) {
        const int64_t length = at(bounds, i);
        if (length < 0 || length > count)
            return fail(problem, "%s: expected lengths from 0 to %lld, got %lld at index %lld", told, (long long)count,
                        (long long)length, (long long)i);
        starts[i] = total;
        total += length;
    }
    starts[bounds->count] = total;
    return total == count || fail(problem, "%s: expected lengths that add up to %lld, the ids in %s, got %lld", told,
                                  (long long)count, ids, (long long)total);
}

static bool read_offsets(const Tensor *bounds, int64_t count, int64_t *starts, const char *told, const char *ids,
                         Problem *problem) {
    if (at(bounds, 0) != 0)
        return fail(problem, "%s: expected offsets that begin at 0, got %lld", told, (long long)at(bounds, 0));
    for (int64_t i = 0; i < bounds->count; i++) {
        starts[i] = at(bounds, i);
        if (starts[i] < starts[i > 0 ? i - 1 : 0] || starts[i] > count)
            return fail(problem,
                        "%s: expected offsets that rise to at most %lld, the ids in %s, got %lld at index %lld", told,
                        (long long)count, ids, (long long)starts[i], (long long)i);
    }
    return true;
}

/* Where each bag of the tensor begins, and the last one ends. */
static bool read_starts(const Router *router, const Tensor *tensors, const RoutedLookup *lookup, int64_t **starts,
                        Problem *problem) {
    char told[3 * NAME_BYTES + 32], text[2 * NAME_BYTES + 32];
    const Tensor *bounds = tensors + lookup->bounds;
    const int64_t count = tensors[lookup->ids].count;
    const char *ids = input(router, lookup->ids);
    *starts = malloc((size_t)(bounds->count + 1) * sizeof **starts);
    if (*starts == NULL) return fail(problem, "%s: out of memory", input(router, lookup->bounds));
    (*starts)[bounds->count] = count; /* of ends: behind what is read */
    snprintf(told, sizeof told, "%s: %s", label(router, lookup, text), input(router, lookup->bounds));
    return (lookup->kind == LENGTHS ? read_lengths : read_offsets)(bounds, count, *starts, told, ids, problem);
}

/* ---- ids ---- */

static bool check_weights(const Router *router, const Tensor *tensors, const RoutedLookup *lookup, Problem *problem) {
    const Tensor *weights = tensors + lookup->weights;
    const int64_t count = tensors[lookup->ids].count;
    const float *numbers = weights->data;
    if (weights->count != count)
        return fail(problem, "%s: expected %lld numbers, one for each in %s, got %lld", input(router, lookup->weights),
                    (long long)count, input(router, lookup->ids), (long long)weights->count);
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(numbers[i]))
            return fail(problem, "%s: expected finite numbers, got %s at index %lld", input(router, lookup->weights),
                        isnan(numbers[i]) ? "nan" : numbers[i] > 0 ? "inf" : "-inf", (long long)i);
    return true;
}

/* How many ids a look-up has in a row, where that does not vary. */
static int64_t span(const Read *read) {
    return read->lookup->count * read->bag;
}

static bool take_columns(const RoutedLookup *lookup, const Tensor *tensors, Read *read) {
    const Tensor *ids = tensors + lookup->ids;
    const int64_t last = ids->dims > 0 ? ids->shape[ids->dims - 1] : 1;
    read->bag = lookup->width < 0 ? last : lookup->bag;
    read->stride = lookup->width < 0 ? last : lookup->width;
    /* an empty tensor has no first id to begin at */
    read->ids = (const char *)ids->data + (ids->count > 0 ? lookup->begin * ids->bytes : 0);
    if (lookup->weights >= 0)
        read->weights = (const float *)tensors[lookup->weights].data + (ids->count > 0 ? lookup->begin : 0);
    return true;
}

static bool take_bags(const Router *router, const Tensor *tensors, const RoutedLookup *lookup, int64_t rows,
                      Reading *reading, Read *read, Problem *problem) {
    int64_t **starts = reading->starts + lookup->twin;
    if (*starts == NULL && !read_starts(router, tensors, lookup, starts, problem)) return false;
    read->starts = *starts + lookup->block * rows;
    read->ids = tensors[lookup->ids].data;
    if (lookup->weights >= 0) read->weights = tensors[lookup->weights].data;
    return true;
}

/* An id as a row of the table, or PADDING; false where it is neither. */
static bool change_id(const RoutedLookup *lookup, int64_t id, int32_t *row) {
    const int64_t rows = lookup->routed.rows, end = id < 0 && lookup->from_end ? id + rows : id;
    const bool padding = lookup->has_padding && id == lookup->padding;
    *row = padding ? PADDING : (int32_t)end;
    return padding || (end >= 0 && end < rows);
}

/* A row's ids in what was read: the first one's index, and how many. */
static int64_t row_of(const Read *read, int64_t row, int64_t *size) {
    *size = read->starts == NULL ? span(read) : read->starts[row + 1] - read->starts[row];
    return read->starts == NULL ? row * read->stride : read->starts[row];
}

/* Whether a look-up's ids can be read where they came: where negative ones count from the end, if there are none. */
static bool is_plain(const RoutedLookup *lookup, const Read *read, int64_t rows) {
    if (lookup->has_padding && lookup->padding != PADDING) return false;
    int64_t signs = 0, size;
    for (int64_t row = 0; lookup->from_end && row < rows; row++) {
        const int64_t begin = row_of(read, row, &size);
        if (read->id_bytes == 8)
            for (int64_t i = 0; i < size; i++) signs |= ((const int64_t *)read->ids)[begin + i];
        else
            for (int64_t i = 0; i < size; i++) signs |= ((const int32_t *)read->ids)[begin + i];
    }
    return signs >= 0;
}

/* Copy a look-up's ids, as rows of the table or PADDING, and their weights. */
static bool change(const Router *router, const Tensor *ids, const RoutedLookup *lookup, int64_t rows, int64_t most,
                   void **memory, Read *read, Problem *problem) {
    int32_t *changed = *memory = malloc((size_t)(most + 1) * (read->weights == NULL ? 4 : 8));
    if (changed == NULL) return fail(problem, "%s: out of memory", input(router, lookup->ids));
    float *weights = (float *)(changed + most);
    int64_t done = 0, size;
    for (int64_t row = 0; row < rows; row++) {
        const int64_t begin = row_of(read, row, &size);
        for (int64_t i = 0; i < size; i++, done++) {
            const int64_t index = lookup->begin + begin + i;
            if (!change_id(lookup, at(ids, index), changed + done))
                return bad_id(router, lookup, ids, read->stride, index, problem);
            if (read->weights != NULL) weights[done] = read->weights[begin + i];
        }
    }
    read->ids = changed;
    if (read->weights != NULL) read->weights = weights;
    read->id_bytes = sizeof *changed;
    read->stride = span(read);
    read->first = read->starts == NULL ? 0 : read->starts[0];
    return true;
}

/* Find one look-up's ids. */
static bool read_one(const Router *router, const Tensor *tensors, int64_t number, Reading *reading, Read *read,
                     Problem *problem) {
    const RoutedLookup *lookup = router->lookups + number;
    const int64_t rows = reading->rows[lookup->group];
    *read = (Read){.lookup = &lookup->routed, .id_bytes = tensors[lookup->ids].bytes};
    if (lookup->weights >= 0 && !check_weights(router, tensors, lookup, problem)) return false;
    if (lookup->kind == NO_BOUNDS) take_columns(lookup, tensors, read);
    else if (!take_bags(router, tensors, lookup, rows, reading, read, problem)) return false;
    const int64_t most = read->starts == NULL ? rows * span(read) : read->starts[rows] - read->starts[0];
    if (most > INT32_MAX) return fail(problem, "%s: too many ids", input(router, lookup->ids));
    for (int64_t i = 0; i < lookup->unit_count; i++) reading->room[lookup->units[i]] += most;
    if (lookup->space >= 0) reading->unpooled += most;
    if (is_plain(lookup, read, rows)) return true;
    return change(router, tensors + lookup->ids, lookup, rows, most, reading->changed + number, read, problem);
}

bool router_measure(const Router *router, const Tensor *tensors, Reading *reading, Problem *problem) {
    const size_t lookups = (size_t)router->lookup_count, groups = (size_t)router->group_count;
    const size_t each = sizeof *reading->reads + sizeof *reading->starts + sizeof *reading->changed;
    char *memory = calloc(1, lookups * each + (groups + (size_t)router->unit_count) * sizeof(int64_t));
    *reading = (Reading){.memory = memory};
    if (memory == NULL) return fail(problem, "out of memory");
    reading->reads = (Read *)memory;
    reading->starts = (int64_t **)(reading->reads + lookups);
    reading->changed = (void **)(reading->starts + lookups);
    reading->rows = (int64_t *)(reading->changed + lookups);
    reading->room = reading->rows + groups;
    return measure(router, tensors, reading->rows, problem);
}

bool router_read(const Router *router, const Tensor *tensors, Reading *reading, Problem *problem) {
    for (int64_t i = 0; i < router->lookup_count; i++)
        if (!read_one(router, tensors, router->order[i], reading, reading->reads + i, problem)) return false;
    return true;
}

void router_forget(const Router *router, Reading *reading) {
    for (int64_t i = 0; reading->memory != NULL && i < router->lookup_count; i++) {
        free(reading->starts[i]);
        free(reading->changed[i]);
    }
    free(reading->memory);
    *reading = (Reading){0};
}

/* ---- routing ---- */

static bool bad_id_of(const Router *router, const Tensor *tensors, const Reading *reading, int64_t nth, int64_t index,
                      Problem *problem) {
    const RoutedLookup *lookup = router->lookups + router->order[nth];
    const Read *read = reading->reads + nth; /* none that was changed: those are good */
    return bad_id(router, lookup, tensors + lookup->ids, read->stride, lookup->begin + index, problem);
}

/* Whether the ids of un-pooled look-ups are good. */
static bool check_rows(const Router *router, const Tensor *tensors, const Reading *reading, Problem *problem) {
    for (int64_t g = 0; g < router->group_count; g++)
        for (int64_t i = router->groups[g].unpooled; i < router->groups[g].end; i++) {
            const int64_t bad = elasticrec_check_rows(reading->reads + i, reading->rows[g]);
            if (bad >= 0) return bad_id_of(router, tensors, reading, i, bad, problem);
        }
    return true;
}

/* Whether ids that others read are rows of their tables. */
static bool check_others(const Router *router, const Tensor *tensors, Problem *problem) {
    for (const CheckedIds *about = router->checked; about < router->checked + router->checked_count; about++) {
        const Tensor *ids = tensors + about->ids;
        for (int64_t begin = about->begin; begin + about->columns <= ids->count; begin += about->width)
            for (int64_t index = begin; index < begin + about->columns; index++) {
                const int64_t id = at(ids, index);
                if ((id >= 0 && id < about->rows) || id == about->padding) continue;
                char text[NAME_BYTES + 32];
                snprintf(text, sizeof text, "table %s", about->name.text);
                return out_of_range(text, ids, input(router, about->ids), about->width, index, 0, about->rows,
                                    &about->padding, problem);
            }
    }
    return true;
}

bool router_route(const Router *router, const Tensor *tensors, const Reading *reading, bool once, Unit *units,
                  RowSet *set, Problem *problem) {
    if (!check_others(router, tensors, problem) || !check_rows(router, tensors, reading, problem)) return false;
    for (int64_t g = 0; g < router->group_count; g++) {
        const RoutedGroup *group = router->groups + g;
        int64_t index;
        const int64_t bad = elasticrec_route(reading->reads + group->first, group->unpooled - group->first,
                                             reading->rows[g], once, units, &index);
        if (bad >= 0) return bad_id_of(router, tensors, reading, group->first + bad, index, problem);
    }
    for (int64_t g = 0; g < router->group_count; g++)
        for (int64_t i = router->groups[g].unpooled; i < router->groups[g].end; i++)
            elasticrec_find_rows(reading->reads + i, reading->rows[g], router->lookups[router->order[i]].space, units,
                                 set);
    return true;
}

/* Add the ids of a look-up's bags in each of its units to what their sums are divided by. */
static void count_ids(const RoutedLookup *lookup, const RoutedUnit *about, const Unit *units, const bool *asked,
                      int64_t rows, int64_t width, float *divisors) {
    for (int64_t i = 0; i < lookup->unit_count; i++) {
        const Unit *unit = units + lookup->units[i];
        if (asked != NULL && !asked[about[lookup->units[i]].service]) continue;
        for (int64_t row = 0; row < rows; row++)
            for (int64_t bag = 0; bag < lookup->routed.count; bag++) {
                const int64_t place = row * unit->bags + lookup->first_bags[i] + bag;
                const int64_t length = unit->index == NULL ? place : unit->index[place];
                if (length >= 0) divisors[row * width + bag] += (float)unit->lengths[length];
            }
    }
}

void router_divide(const Router *router, int64_t group, const Unit *units, const bool *asked, int64_t rows,
                   float *divisors) {
    const int64_t width = router->groups[group].bags;
    int64_t column = 0;
    memset(divisors, 0, (size_t)(rows * width) * sizeof *divisors);
    for (const RoutedLookup *lookup = router->lookups; lookup < router->lookups + router->lookup_count; lookup++) {
        if (lookup->group != group) continue;
        if (lookup->mean && lookup->space < 0) count_ids(lookup, router->units, units, asked, rows, width, divisors + column);
        column += lookup->routed.count;
    }
    for (int64_t i = 0; i < rows * width; i++)
        if (divisors[i] < 1) divisors[i] = 1;
}
