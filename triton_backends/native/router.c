#include "router.h"

#include "../kernels/id_map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* far above what a plan can hold; they keep sums and products of these numbers within 64 bits */
enum { MAX_ITEMS = 1 << 16, MAX_BAGS = 1 << 20 };
static const int64_t MAX_ROWS = INT32_MAX, MAX_FILE_BYTES = (int64_t)1 << 40;

/* ---- its lists ---- */

/* Make room for one more item, and count it: NULL where there is none. */
static void *added(Reader *reader, void *list, int64_t *count, size_t size) {
    if (*count == MAX_ITEMS) {
        fail(reader->problem, "%s: expected at most %d of a kind", reader->file, MAX_ITEMS);
        return NULL;
    }
    char *items = realloc(*(void **)list, ((size_t)*count + 1) * size);
    if (items == NULL) {
        fail(reader->problem, "%s: out of memory", reader->file);
        return NULL;
    }
    memcpy(list, &items, sizeof items);
    return memset(items + (size_t)(*count)++ * size, 0, size);
}

static bool read_list(Reader *reader, Router *router, const char *key, bool (*read_item)(Reader *, Router *)) {
    bool more;
    if (!read_key(reader, key) || !read_mark(reader, '[') || !read_open(reader, ']', &more)) return false;
    while (more)
        if (!read_item(reader, router) || !read_next(reader, ']', &more)) return false;
    return true;
}

/* A number behind others. */
static bool field(Reader *reader, const char *key, int64_t least, int64_t most, int64_t *value) {
    return read_mark(reader, ',') && read_key(reader, key) && read_number(reader, least, most, value);
}

/* An item's first field. */
static bool begin(Reader *reader, Name *name) {
    return read_mark(reader, '{') && read_key(reader, "name") && read_text(reader, name->text);
}

static bool read_finite(Reader *reader, Router *router) {
    Name *name = added(reader, &router->finite, &router->finite_count, sizeof *name);
    return name != NULL && read_text(reader, name->text);
}

static bool read_input(Reader *reader, Router *router) {
    RoutedInput *input = added(reader, &router->inputs, &router->input_count, sizeof *input);
    return input != NULL && read_text(reader, input->text);
}

static bool read_table(Reader *reader, Router *router) {
    int64_t offset;
    int bits = 0;
    RoutedTable *table = added(reader, &router->tables, &router->table_count, sizeof *table);
    if (table == NULL || !begin(reader, &table->name) || !field(reader, "rows", 1, MAX_ROWS, &table->rows) ||
        !field(reader, "map_offset", 0, MAX_FILE_BYTES, &offset) ||
        !field(reader, "shards", 1, MAX_SHARDS, &table->shards) || !read_mark(reader, '}'))
        return false;
    while ((int64_t)1 << bits < table->shards) bits++;
    const int64_t end = offset + (int64_t)id_map_bytes((uint64_t)table->rows, bits);
    if (offset % 8 != 0 || end > (int64_t)router->id_maps.size)
        return fail(reader->problem, "idmap.bin: expected %lld bytes for table %s, got %zu", (long long)end,
                    table->name.text, router->id_maps.size);
    table->map = bits == 0 ? NULL : (const uint64_t *)router->id_maps.bytes + offset / 8;
    return true;
}

static bool read_shards(Reader *reader, const RoutedTable *table, Lookup *routed) {
    int64_t shards = 0;
    if (!read_mark(reader, ',') || !read_key(reader, "shards") || !read_mark(reader, '[')) return false;
    for (bool more = true; more; shards++)
        if (shards == MAX_SHARDS || !read_mark(reader, '{') || !read_key(reader, "unit") ||
            !read_number(reader, 0, MAX_ITEMS - 1, &routed->unit[shards]) ||
            !field(reader, "base", 0, MAX_ROWS, &routed->base[shards]) ||
            !field(reader, "place", 0, MAX_BAGS - 1, &routed->first_bag[shards]) || !read_mark(reader, '}') ||
            !read_next(reader, ']', &more))
            return shards < MAX_SHARDS || fail(reader->problem, "%s: expected at most %d shards per table", reader->file,
                                               MAX_SHARDS);
    if (shards != table->shards)
        return fail(reader->problem, "%s: table %s: expected %lld shards in each look-up, got %lld", reader->file,
                    table->name.text, (long long)table->shards, (long long)shards);
    while ((int64_t)1 << routed->bits < shards) routed->bits++;
    for (int64_t i = shards; i < MAX_SHARDS; i++) { /* a broken map may name a shard that is not there */
        routed->unit[i] = routed->unit[0];
        routed->base[i] = routed->base[0];
        routed->first_bag[i] = routed->first_bag[0];
    }
    return true;
}

static bool read_lookup_fields(Reader *reader, const Router *router, RoutedLookup *lookup) {
    const int64_t inputs = router->input_count;
    return begin(reader, &lookup->name) && field(reader, "table", 0, router->table_count - 1, &lookup->table) &&
           field(reader, "group", 0, MAX_ITEMS - 1, &lookup->group) &&
           field(reader, "count", 1, MAX_BAGS, &lookup->routed.count) && field(reader, "mean", 0, 1, &lookup->mean) &&
           field(reader, "ids", 0, inputs - 1, &lookup->ids) && field(reader, "width", -1, MAX_ROWS, &lookup->width) &&
           field(reader, "begin", 0, MAX_ROWS, &lookup->begin) && field(reader, "bag", -1, MAX_ROWS, &lookup->bag) &&
           field(reader, "bounds", -1, inputs - 1, &lookup->bounds) &&
           field(reader, "kind", NO_BOUNDS, LENGTHS, &lookup->kind) &&
           field(reader, "block", 0, MAX_ITEMS - 1, &lookup->block) &&
           field(reader, "blocks", lookup->block + 1, MAX_ITEMS, &lookup->blocks) &&
           field(reader, "weights", -1, inputs - 1, &lookup->weights) &&
           field(reader, "has_padding", 0, 1, &lookup->has_padding) &&
           field(reader, "padding", INT64_MIN, INT64_MAX, &lookup->padding) &&
           field(reader, "from_end", 0, 1, &lookup->from_end);
}

/* Whether bags lie within what they are taken of. */
static bool check_layout(const Reader *reader, const RoutedLookup *lookup) {
    const bool varies = lookup->width < 0, bounded = lookup->kind != NO_BOUNDS;
    const int64_t bag = lookup->bag, count = lookup->routed.count;
    bool good = bounded == (lookup->bounds >= 0) && !(lookup->weights >= 0 && lookup->mean) && (!bounded || varies);
    if (varies) good = good && bag == -1 && count == 1 && lookup->begin == 0;
    else good = good && lookup->width > 0 && bag > 0 && lookup->begin + count * bag <= lookup->width;
    return good || fail(reader->problem, "%s: look-up %s: its bags are none", reader->file, lookup->name.text);
}

/* The units that hold a look-up's shards: two may lie in one. */
static void list_units(RoutedLookup *lookup) {
    for (int64_t i = 0; i < MAX_SHARDS; i++) {
        bool known = false;
        for (int64_t j = 0; j < lookup->unit_count; j++) known |= lookup->units[j] == lookup->routed.unit[i];
        if (known) continue;
        lookup->first_bags[lookup->unit_count] = lookup->routed.first_bag[i];
        lookup->units[lookup->unit_count++] = lookup->routed.unit[i];
    }
}

static int64_t find_twin(const Router *router, const RoutedLookup *lookup) {
    int64_t twin = 0;
    for (const RoutedLookup *other = router->lookups;; other++, twin++)
        if (other->ids == lookup->ids && other->bounds == lookup->bounds && other->kind == lookup->kind) return twin;
}

static bool read_lookup(Reader *reader, Router *router) {
    RoutedLookup *lookup = added(reader, &router->lookups, &router->lookup_count, sizeof *lookup);
    if (lookup == NULL || !read_lookup_fields(reader, router, lookup)) return false;
    const RoutedTable *table = router->tables + lookup->table;
    lookup->routed.map = table->map;
    lookup->routed.rows = table->rows;
    lookup->routed.padded = lookup->has_padding;
    lookup->twin = find_twin(router, lookup);
    if (lookup->weights >= 0) router->inputs[lookup->weights].weights = true;
    if (!read_shards(reader, table, &lookup->routed)) return false;
    list_units(lookup);
    return read_mark(reader, '}') && check_layout(reader, lookup);
}

static bool read_unit(Reader *reader, Router *router) {
    RoutedUnit *unit = added(reader, &router->units, &router->unit_count, sizeof *unit);
    return unit != NULL && read_mark(reader, '{') && read_key(reader, "service") &&
           read_number(reader, 0, MAX_ITEMS - 1, &unit->service) &&
           field(reader, "group", 0, MAX_ITEMS - 1, &unit->group) && field(reader, "bags", 0, MAX_BAGS, &unit->bags) &&
           field(reader, "weighted", 0, 1, &unit->weighted) && read_mark(reader, '}');
}

static bool read_service(Reader *reader, Router *router) {
    Name *name = added(reader, &router->services, &router->service_count, sizeof *name);
    return name != NULL && begin(reader, name) && read_mark(reader, '}');
}

static bool read_group(Reader *reader, Router *router) {
    RoutedGroup *group = added(reader, &router->groups, &router->group_count, sizeof *group);
    return group != NULL && begin(reader, &group->name) && read_mark(reader, '}');
}

static bool read_checked(Reader *reader, Router *router) {
    CheckedIds *ids = added(reader, &router->checked, &router->checked_count, sizeof *ids);
    if (ids == NULL || !begin(reader, &ids->name) || !field(reader, "rows", 1, MAX_ROWS, &ids->rows) ||
        !field(reader, "ids", 0, router->input_count - 1, &ids->ids) ||
        !field(reader, "width", 1, MAX_ROWS, &ids->width) || !field(reader, "begin", 0, MAX_ROWS, &ids->begin) ||
        !field(reader, "columns", 1, MAX_ROWS, &ids->columns) ||
        !field(reader, "padding", INT64_MIN, INT64_MAX, &ids->padding) || !read_mark(reader, '}'))
        return false;
    return ids->begin + ids->columns <= ids->width ||
           fail(reader->problem, "%s: table %s: its columns are not in the matrix", reader->file, ids->name.text);
}

/* ---- what follows from them ---- */

/* Whether a look-up's rows can be answered as they are: each id is a bag of its own, whose sum and mean are its row. */
static bool can_be_unpooled(const RoutedLookup *lookup) {
    return lookup->bag == 1 && lookup->weights < 0;
}

/* Check where the shards go: all of a look-up's to units with bags, or none. */
static bool check_units(const Router *router, const Reader *reader) {
    for (const RoutedLookup *lookup = router->lookups; lookup < router->lookups + router->lookup_count; lookup++)
        for (int64_t i = 0; i < MAX_SHARDS; i++) {
            const RoutedUnit *unit = router->units + lookup->routed.unit[i], *first = router->units + lookup->units[0];
            if (lookup->routed.unit[i] >= router->unit_count || lookup->units[0] >= router->unit_count ||
                unit->group != lookup->group || unit->weighted != (lookup->weights >= 0) ||
                (unit->bags == 0) != (first->bags == 0) ||
                (unit->bags == 0 ? !can_be_unpooled(lookup)
                                 : lookup->routed.first_bag[i] + lookup->routed.count > unit->bags))
                return fail(reader->problem, "%s: look-up %s: a shard lies in a unit or place that is not there",
                            reader->file, lookup->name.text);
        }
    return true;
}

/* Un-pooled look-ups share what they ask for where they read one table for one group. */
static void find_spaces(Router *router) {
    for (RoutedLookup *lookup = router->lookups; lookup < router->lookups + router->lookup_count; lookup++) {
        const RoutedLookup *other = router->lookups;
        lookup->space = -1;
        if (router->units[lookup->units[0]].bags > 0) continue;
        while (other < lookup && (other->space < 0 || other->table != lookup->table || other->group != lookup->group))
            other++;
        lookup->space = other - router->lookups;
    }
}

static void part_name(char text[PART_NAME_BYTES], const char *service, const char *tensor, int64_t group) {
    char name[TENSOR_NAME_BYTES];
    tensor_name(name, tensor, group);
    snprintf(text, PART_NAME_BYTES, "%s_%s", service, name);
}

/* Join the units of a service and group. */
static bool make_parts(Router *router, Reader *reader) {
    for (int64_t u = 0; u < router->unit_count; u++) {
        const RoutedUnit *unit = router->units + u;
        RoutedPart *part = router->part_count > 0 ? router->parts + router->part_count - 1 : NULL;
        if (unit->service >= router->service_count || unit->group >= router->group_count ||
            (part != NULL && (unit->service < part->service ||
                              (unit->service == part->service && unit->group < part->group))))
            return fail(reader->problem, "%s: units: expected them by service and group", reader->file);
        if (part == NULL || part->service != unit->service || part->group != unit->group) {
            part = added(reader, &router->parts, &router->part_count, sizeof *part);
            if (part == NULL) return false;
            const char *name = router->services[unit->service].text;
            *part = (RoutedPart){.service = unit->service, .group = unit->group, .first = u};
            part_name(part->ids_name, name, "ids", unit->group);
            part_name(part->lengths_name, name, "lengths", unit->group);
            part_name(part->weights_name, name, "weights", unit->group);
        }
        part->end = u + 1;
        part->bags += unit->bags;
        part->weighted += unit->weighted;
        part->unpooled += unit->bags == 0;
    }
    return true;
}

/* Put a group's look-ups, those with bags or the others, into the order. */
static int64_t order_lookups(Router *router, int64_t group, bool unpooled, int64_t next) {
    for (int64_t i = 0; i < router->lookup_count; i++)
        if (router->lookups[i].group == group && (router->lookups[i].space >= 0) == unpooled) router->order[next++] = i;
    return next;
}

/* Put the look-ups in the groups' order. */
static bool make_groups(Router *router, Reader *reader) {
    int64_t next = 0;
    router->order = calloc((size_t)router->lookup_count + 1, sizeof *router->order);
    if (router->order == NULL) return fail(reader->problem, "%s: out of memory", reader->file);
    for (int64_t g = 0; g < router->group_count; g++) {
        RoutedGroup *group = router->groups + g;
        group->first = next;
        group->unpooled = order_lookups(router, g, false, next);
        group->end = next = order_lookups(router, g, true, group->unpooled);
        group->counted = router->lookup_count;
        for (int64_t i = group->first; i < group->end; i++) {
            const RoutedLookup *lookup = router->lookups + router->order[i];
            if (router->order[i] < group->counted) group->counted = router->order[i];
            group->bags += lookup->routed.count;
            group->means += lookup->mean;
        }
        if (group->first == next)
            return fail(reader->problem, "%s: group %s: expected look-ups, got none", reader->file, group->name.text);
    }
    return next > 0 && next == router->lookup_count
               ? true
               : fail(reader->problem, "%s: look-ups: expected each in a group, and one at least", reader->file);
}

static bool read_router(Router *router, const char *folder, const Mapping *text, Problem *problem) {
    Reader reader = reader_of(text, "router.json", problem);
    return map_file(folder, "idmap.bin", &router->id_maps, problem) && read_mark(&reader, '{') &&
           read_list(&reader, router, "finite", read_finite) && read_mark(&reader, ',') &&
           read_list(&reader, router, "inputs", read_input) && read_mark(&reader, ',') &&
           read_list(&reader, router, "tables", read_table) && read_mark(&reader, ',') &&
           read_list(&reader, router, "lookups", read_lookup) && read_mark(&reader, ',') &&
           read_list(&reader, router, "units", read_unit) && read_mark(&reader, ',') &&
           read_list(&reader, router, "services", read_service) && read_mark(&reader, ',') &&
           read_list(&reader, router, "groups", read_group) && read_mark(&reader, ',') &&
           read_list(&reader, router, "checked", read_checked) && read_mark(&reader, '}') && read_end(&reader) &&
           check_units(router, &reader) && make_parts(router, &reader) && (find_spaces(router), true) &&
           make_groups(router, &reader);
}

/* A number that a client cannot know. */
static uint64_t drawn(const Router *router) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15 ^ (uint64_t)now.tv_sec << 32 ^ (uint64_t)(uintptr_t)router;
}

Router *router_open(const char *folder, Problem *problem) {
    Mapping text;
    if (!map_file(folder, "router.json", &text, problem)) return NULL;
    Router *router = calloc(1, sizeof *router);
    if (router == NULL) fail(problem, "router.json: out of memory");
    else router->seed = drawn(router);
    if (router != NULL && !read_router(router, folder, &text, problem)) {
        router_close(router);
        router = NULL;
    }
    unmap_file(&text);
    return router;
}

void router_close(Router *router) {
    void *const lists[] = {router->finite, router->inputs, router->services, router->tables, router->lookups,
                           router->order,  router->units,  router->parts,    router->groups, router->checked};
    unmap_file(&router->id_maps);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) free(lists[i]);
    free(router);
}
