#include "shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/bags.h"

/* far above what is built; products stay within 64 bits */
enum { MAX_UNITS = 1 << 12, MAX_BAGS = 1 << 20, MAX_DIM = 1 << 20, ALIGNMENT = 64, MOST_VARYING_IDS = 1 << 24 };
static const int64_t MAX_ROWS = INT32_MAX, MAX_COLUMNS = 1 << 24, MAX_GROUPS = 1 << 16, MAX_QUERY_ROWS = 1 << 24;

static bool field(Reader *reader, const char *key, int64_t least, int64_t most, int64_t *value) {
    return read_mark(reader, ',') && read_key(reader, key) && read_number(reader, least, most, value);
}

/* Make room for one more item. */
static bool grow(Reader *reader, void **list, int64_t count, size_t size) {
    void *items = count < MAX_UNITS ? realloc(*list, ((size_t)count + 1) * size) : NULL;
    if (items == NULL) return fail(reader->problem, "%s: out of memory, or more than %d items", reader->file, MAX_UNITS);
    *list = items;
    return true;
}

/* How a matrix's rows are stored, by the name that row_formats.py has for it. */
static bool read_dtype(Reader *reader, RowDtype *dtype) {
    static const char *const names[ROW_DTYPES] = {"fp32", "fp16", "bf16", "int8", "int8_half", "int4"};
    char name[NAME_BYTES];
    if (!read_mark(reader, ',') || !read_key(reader, "dtype") || !read_name(reader, name)) return false;
    for (*dtype = FP32; *dtype < ROW_DTYPES; ++*dtype)
        if (strcmp(name, names[*dtype]) == 0) return true;
    return fail(reader->problem, "%s: dtype of rows: expected one of fp32, fp16, bf16, int8, int8_half, int4, got '%s'",
                reader->file, name);
}

static bool read_matrices(Shard *shard, Reader *reader) {
    if (!read_key(reader, "matrices") || !read_mark(reader, '[')) return false;
    for (bool more = true; more;) {
        if (!grow(reader, (void **)&shard->matrices, shard->matrix_count, sizeof *shard->matrices)) return false;
        Matrix *matrix = shard->matrices + shard->matrix_count++;
        *matrix = (Matrix){0};
        if (!read_mark(reader, '{') || !read_key(reader, "rows") || !read_number(reader, 1, MAX_ROWS, &matrix->rows) ||
            !field(reader, "dim", 1, MAX_DIM, &matrix->dim) || !read_dtype(reader, &matrix->dtype) ||
            !read_mark(reader, '}') || !read_next(reader, ']', &more))
            return false;
    }
    return true;
}

static bool read_units(Shard *shard, ShardGroup *group, Reader *reader) {
    if (!read_mark(reader, ',') || !read_key(reader, "units") || !read_mark(reader, '[')) return false;
    group->first = shard->unit_count;
    for (bool more = true; more;) {
        if (!grow(reader, (void **)&shard->units, shard->unit_count, sizeof *shard->units)) return false;
        ShardUnit *unit = shard->units + shard->unit_count++;
        if (!read_mark(reader, '{') || !read_key(reader, "matrix") ||
            !read_number(reader, 0, shard->matrix_count - 1, &unit->matrix) ||
            !field(reader, "bags", 0, MAX_BAGS, &unit->bags) ||
            !field(reader, "columns", -1, MAX_COLUMNS, &unit->columns) ||
            !field(reader, "weighted", 0, 1, &unit->weighted) || !read_mark(reader, '}') ||
            !read_next(reader, ']', &more))
            return false;
        group->bags += unit->bags;
        group->width += unit->bags * shard->matrices[unit->matrix].dim;
        group->weighted += unit->weighted;
        group->unpooled += unit->bags == 0;
        if (unit->bags == 0 && unit->weighted)
            return fail(reader->problem, "%s: expected rows as they are without weights", reader->file);
        group->most_ids += unit->columns < 0 ? MOST_VARYING_IDS : group->max_rows * unit->columns;
    }
    group->end = shard->unit_count;
    return group->width <= MAX_COLUMNS || fail(reader->problem, "%s: expected at most %lld numbers a row, got %lld",
                                               reader->file, (long long)MAX_COLUMNS, (long long)group->width);
}

static bool read_groups(Shard *shard, Reader *reader) {
    if (!read_mark(reader, ',') || !read_key(reader, "groups") || !read_mark(reader, '[')) return false;
    for (bool more = true; more;) {
        if (!grow(reader, (void **)&shard->groups, shard->group_count, sizeof *shard->groups)) return false;
        const int64_t least = shard->group_count > 0 ? shard->groups[shard->group_count - 1].group + 1 : 0;
        ShardGroup *group = shard->groups + shard->group_count++;
        *group = (ShardGroup){0};
        if (!read_mark(reader, '{') || !read_key(reader, "group") ||
            !read_number(reader, least, MAX_GROUPS, &group->group) ||
            !field(reader, "max_rows", 1, MAX_QUERY_ROWS, &group->max_rows) || !read_units(shard, group, reader) ||
            !read_mark(reader, '}') || !read_next(reader, ']', &more))
            return false;
    }
    return true;
}

/* The matrices one after another, each begun at a multiple of ALIGNMENT bytes. */
static bool find_matrices(Shard *shard, Problem *problem) {
    int64_t end = 0, rows = 0;
    for (Matrix *matrix = shard->matrices; matrix < shard->matrices + shard->matrix_count; matrix++) {
        const int64_t begin = (end + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        const int64_t bytes = matrix->rows * elasticrec_row_bytes(matrix->dim, matrix->dtype);
        if (__builtin_add_overflow(begin, bytes, &end)) end = INT64_MAX - ALIGNMENT;
        rows += matrix->rows;
        if (end <= (int64_t)shard->weights.size)
            matrix->stored = (const char *)shard->weights.bytes + begin;
    }
    if (end == (int64_t)shard->weights.size) return true;
    if (shard->matrix_count == 1)
        return fail(problem, "weights.bin: expected %lld bytes (%lld rows of %lld), got %zu", (long long)end,
                    (long long)rows, (long long)shard->matrices[0].dim, shard->weights.size);
    return fail(problem, "weights.bin: expected %lld bytes (%lld rows in %lld matrices), got %zu", (long long)end,
                (long long)rows, (long long)shard->matrix_count, shard->weights.size);
}

static bool read_shard(Shard *shard, const char *folder, const Mapping *text, Problem *problem) {
    Reader reader = reader_of(text, "shard.json", problem);
    return read_mark(&reader, '{') && read_matrices(shard, &reader) && read_groups(shard, &reader) &&
           read_mark(&reader, '}') && read_end(&reader) && map_file(folder, "weights.bin", &shard->weights, problem) &&
           find_matrices(shard, problem);
}

Shard *shard_open(const char *folder, Problem *problem) {
    Mapping text;
    if (!map_file(folder, "shard.json", &text, problem)) return NULL;
    Shard *shard = calloc(1, sizeof *shard);
    if (shard == NULL) fail(problem, "shard.json: out of memory");
    if (shard != NULL && !read_shard(shard, folder, &text, problem)) {
        shard_close(shard);
        shard = NULL;
    }
    unmap_file(&text);
    return shard;
}

void shard_close(Shard *shard) {
    unmap_file(&shard->weights);
    free(shard->matrices);
    free(shard->units);
    free(shard->groups);
    free(shard);
}

/* Whether there can be so many lengths and ids. */
static bool check_size(const ShardGroup *group, const Bags *bags, Problem *problem) {
    const int64_t rows = group->max_rows, side = group->bags, count = bags->length_count - group->unpooled;
    if (count < 0 || (side == 0 ? count != 0 : count % side != 0)) {
        char more[64] = "";
        if (group->unpooled > 0) snprintf(more, sizeof more, ", and %lld more", (long long)group->unpooled);
        return fail(problem, "lengths: expected a multiple of %lld, the bags of a row%s, got %lld", (long long)side,
                    more, (long long)bags->length_count);
    }
    if (count > rows * side)
        return fail(problem, "lengths: expected at most %lld (%lld rows of %lld bags), got %lld",
                    (long long)(rows * side + group->unpooled), (long long)rows, (long long)side,
                    (long long)bags->length_count);
    return bags->id_count <= group->most_ids ||
           fail(problem, "ids: expected at most %lld in %lld rows, got %lld", (long long)group->most_ids,
                (long long)rows, (long long)bags->id_count);
}

/* How many ids so many bags have. */
static int64_t count_ids(const UnalignedInt32 *lengths, int64_t bags) {
    int64_t total = 0;
    for (int64_t bag = 0; bag < bags; bag++) total += lengths[bag];
    return total;
}

/* What is wrong with a group's lengths. */
static bool bad_lengths(const Bags *bags, Problem *problem) {
    return fail(problem, "lengths: expected %lld counts that add up to %lld ids, got a sum of %lld",
                (long long)bags->length_count, (long long)bags->id_count,
                (long long)count_ids(bags->lengths, bags->length_count));
}

/* How many lengths a unit has. */
static int64_t lengths_of(const ShardUnit *unit, int64_t rows) {
    return unit->bags == 0 ? 1 : rows * unit->bags;
}

/* Whether lengths and weights make up what is there, where the kernel would not see it: it sees one unit of bags. */
static bool check_counts(const Shard *shard, const ShardGroup *group, const Bags *bags, int64_t rows, int64_t *numbers,
                         Problem *problem) {
    const UnalignedInt32 *lengths = bags->lengths;
    int64_t wanted = 0, negative = 0;
    for (int64_t bag = 0; bag < bags->length_count; bag++) negative |= lengths[bag] < 0;
    if (negative || count_ids(lengths, bags->length_count) != bags->id_count) return bad_lengths(bags, problem);
    for (const ShardUnit *unit = shard->units + group->first; unit < shard->units + group->end; unit++) {
        if (unit->weighted) wanted += count_ids(lengths, rows * unit->bags);
        if (unit->bags == 0) *numbers += lengths[0] * shard->matrices[unit->matrix].dim;
        lengths += lengths_of(unit, rows);
    }
    return wanted == bags->weight_count ||
           fail(problem, "weights: expected %lld, one for each id of weighted units, got %lld", (long long)wanted,
                (long long)bags->weight_count);
}

/* Whether a group's only unit has bags without weights. */
static bool is_plain(const ShardGroup *group) {
    return group->end - group->first == 1 && group->weighted == 0 && group->unpooled == 0;
}

bool shard_check(const Shard *shard, const ShardGroup *group, const Bags *bags, int64_t *rows, int64_t *numbers,
                 Problem *problem) {
    *numbers = 0;
    if (!check_size(group, bags, problem)) return false;
    *rows = group->bags == 0 ? 0 : (bags->length_count - group->unpooled) / group->bags;
    return is_plain(group) || check_counts(shard, group, bags, *rows, numbers, problem);
}

bool shard_answer(const Shard *shard, const ShardGroup *group, const Bags *bags, float *sums, float *rows,
                  Problem *problem) {
    const int64_t count = group->bags == 0 ? 0 : (bags->length_count - group->unpooled) / group->bags;
    int64_t id = 0, bag = 0, weight = 0, column = 0;
    for (const ShardUnit *unit = shard->units + group->first; unit < shard->units + group->end; unit++) {
        const Matrix *matrix = shard->matrices + unit->matrix;
        const int64_t lengths = lengths_of(unit, count);
        const int64_t ids = is_plain(group) ? bags->id_count : count_ids(bags->lengths + bag, lengths);
        const Sums asked = {
            .matrix = matrix->stored,
            .rows = matrix->rows,
            .dim = matrix->dim,
            .dtype = matrix->dtype,
            .ids = bags->ids + id,
            .count = ids,
            .weights = unit->weighted ? bags->weights + weight : NULL,
            .lengths = bags->lengths + bag,
            .bags = lengths,
            .out = unit->bags == 0 ? rows : sums + column,
            .side = unit->bags,
            .stride = group->width,
        };
        const int64_t bad = unit->bags == 0 ? elasticrec_take_rows(&asked) : elasticrec_sum_bags(&asked);
        if (bad == -2) return bad_lengths(bags, problem);
        if (bad >= 0)
            return fail(problem, "ids: expected rows in [0, %lld), got %d at index %lld", (long long)matrix->rows,
                        asked.ids[bad], (long long)(id + bad));
        id += ids;
        weight += unit->weighted ? ids : 0;
        bag += lengths;
        column += unit->bags * matrix->dim;
        if (unit->bags == 0 && ids > 0) rows += ids * matrix->dim;
    }
    return true;
}
