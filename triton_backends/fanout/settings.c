#include "settings.h"

#include <stdlib.h>
#include <string.h>

/* of numbers per row, and of columns that are apart: products with a query's rows stay within 64 bits */
enum { MOST_COLUMNS = 1 << 24, MOST_RUNS = 1 << 16 };

static bool number(Reader *reader, const char *key, int64_t least, int64_t most, int64_t *value) {
    return read_mark(reader, ',') && read_key(reader, key) && read_number(reader, least, most, value);
}

static bool name(Reader *reader, const char *key, char value[NAME_BYTES]) {
    return read_key(reader, key) && read_name(reader, value);
}

static bool read_widths(Reader *reader, Settings *settings, const Router *router) {
    settings->widths = calloc((size_t)router->group_count, sizeof *settings->widths);
    if (settings->widths == NULL) return fail(reader->problem, "%s: out of memory", reader->file);
    if (!read_mark(reader, ',') || !read_key(reader, "widths") || !read_mark(reader, '[')) return false;
    for (bool more = true; more;) {
        if (settings->width_count == router->group_count) break;
        if (!read_number(reader, 1, MOST_COLUMNS, settings->widths + settings->width_count++) ||
            !read_next(reader, ']', &more))
            return false;
        if (!more && settings->width_count == router->group_count) return true;
    }
    return fail(reader->problem, "%s: expected %lld widths, one per group of router.json", reader->file,
                (long long)router->group_count);
}

/* One run of columns, within the sums and the joined ones. */
static bool read_run(Reader *reader, RemoteGroup *group, int64_t width) {
    if (group->run_count == MOST_RUNS) return fail(reader->problem, "%s: too many pieces", reader->file);
    Run *runs = realloc(group->runs, ((size_t)group->run_count + 1) * sizeof *runs);
    if (runs == NULL) return fail(reader->problem, "%s: out of memory", reader->file);
    group->runs = runs;
    Run *run = runs + group->run_count++;
    return read_mark(reader, '{') && read_key(reader, "from") && read_number(reader, 0, group->width - 1, &run->from) &&
           number(reader, "to", 0, width - 1, &run->to) &&
           number(reader, "columns", 1, group->width - run->from, &run->columns) && read_mark(reader, '}') &&
           (run->columns <= width - run->to ||
            fail(reader->problem, "%s: expected at most %lld columns at %lld, got %lld", reader->file,
                 (long long)(width - run->to), (long long)run->to, (long long)run->columns));
}

/* The dim of each unit that has bags; they make up the width. */
static bool read_dims(Reader *reader, RemoteGroup *group, const Router *router) {
    const RoutedPart *part = group->part;
    bool more = true;
    int64_t left = group->width;
    group->dims = calloc((size_t)(part->end - part->first), sizeof *group->dims);
    if (group->dims == NULL) return fail(reader->problem, "%s: out of memory", reader->file);
    if (!read_mark(reader, ',') || !read_key(reader, "dims") || !read_mark(reader, '[')) return false;
    if (part->bags == 0 && !read_open(reader, ']', &more)) return false;
    for (int64_t u = part->first; more && u < part->end; u++) {
        const int64_t bags = router->units[u].bags;
        if (bags == 0) continue;
        if (!read_number(reader, 1, MOST_COLUMNS, group->dims + (u - part->first)) || !read_next(reader, ']', &more))
            return false;
        left -= bags * group->dims[u - part->first];
    }
    return (!more && left == 0) ||
           fail(reader->problem, "%s: dims: expected one of each unit of bags, which make up a width of %lld", reader->file,
                (long long)group->width);
}

/* Where each bag's columns go: the runs must hold them all, in their order. */
static bool place_bags(Reader *reader, RemoteGroup *group, const Router *router) {
    const Run *run = group->runs, *end = group->runs + group->run_count;
    int64_t *to = group->to = calloc((size_t)group->part->bags + 1, sizeof *to), from = 0;
    if (to == NULL) return fail(reader->problem, "%s: out of memory", reader->file);
    for (int64_t u = group->part->first; u < group->part->end; u++) {
        const int64_t dim = group->dims[u - group->part->first];
        for (int64_t bag = 0; bag < router->units[u].bags; bag++, from += dim) {
            while (run < end && run->from + run->columns <= from) run++;
            if (run == end || from < run->from || from + dim > run->from + run->columns)
                return fail(reader->problem, "%s: pieces: expected each bag's columns in one, and them by `from`",
                            reader->file);
            *to++ = run->to + from - run->from;
        }
    }
    return true;
}

static bool read_group(Reader *reader, RemoteGroup *group, const Settings *settings, const Router *router) {
    int64_t index;
    const bool bags = group->part->bags > 0;
    bool more = true;
    if (!read_mark(reader, '{') || !read_key(reader, "group") ||
        !read_number(reader, group->part->group, group->part->group, &index) ||
        !number(reader, "width", bags ? 1 : 0, bags ? MOST_COLUMNS : 0, &group->width) ||
        !read_dims(reader, group, router) || !read_mark(reader, ',') || !read_key(reader, "pieces") ||
        !read_mark(reader, '[') || (!bags && !read_open(reader, ']', &more)))
        return false;
    while (more)
        if (!read_run(reader, group, settings->widths[index]) || !read_next(reader, ']', &more)) return false;
    return read_mark(reader, '}') && place_bags(reader, group, router);
}

/* A service's groups: those of which the router knows parts, in its order. */
static bool read_groups(Reader *reader, RemoteShard *service, const Settings *settings, const Router *router) {
    const RoutedPart *part = router->parts, *end = router->parts + router->part_count;
    const int64_t index = service - settings->services;
    while (part < end && part->service < index) part++;
    service->groups = calloc((size_t)router->group_count, sizeof *service->groups);
    if (service->groups == NULL) return fail(reader->problem, "%s: out of memory", reader->file);
    if (!read_mark(reader, ',') || !read_key(reader, "groups") || !read_mark(reader, '[')) return false;
    for (bool more = true; more; part++) {
        if (part == end || part->service != index) break;
        RemoteGroup *group = service->groups + service->group_count++;
        group->part = part;
        group->tensor = service->tensor_count;
        service->tensor_count += (part->bags > 0) + (part->unpooled > 0);
        if (!read_group(reader, group, settings, router) || !read_next(reader, ']', &more)) return false;
        if (!more && (part + 1 == end || part[1].service != index)) return true;
    }
    return fail(reader->problem, "%s: service %s: expected the groups that it has in router.json", reader->file,
                service->name);
}

static bool read_service(Reader *reader, Settings *settings, const Router *router) {
    const int64_t k = settings->service_count;
    if (k == router->service_count)
        return fail(reader->problem, "%s: expected %lld services, as in router.json, got more", reader->file,
                    (long long)k);
    RemoteShard *service = settings->services + settings->service_count++;
    return read_mark(reader, '{') && name(reader, "name", service->name) && read_mark(reader, ',') &&
           name(reader, "model", service->model) && number(reader, "instances", 1, INT32_MAX, &service->instances) &&
           read_groups(reader, service, settings, router) &&
           read_mark(reader, '}');
}

static bool read_services(Reader *reader, Settings *settings, const Router *router) {
    settings->services = calloc((size_t)router->service_count, sizeof *settings->services);
    if (settings->services == NULL) return fail(reader->problem, "%s: out of memory", reader->file);
    if (!read_mark(reader, ',') || !read_key(reader, "services") || !read_mark(reader, '[')) return false;
    for (bool more = true; more;)
        if (!read_service(reader, settings, router) || !read_next(reader, ']', &more)) return false;
    return settings->service_count == router->service_count ||
           fail(reader->problem, "%s: expected %lld services, as in router.json, got %lld", reader->file,
                (long long)router->service_count, (long long)settings->service_count);
}

/* The next un-pooled look-up: its columns, and the dim of its units' rows. */
static bool read_unpooled(Reader *reader, Settings *settings, const Router *router, int64_t expected) {
    const RoutedLookup *lookup = router->lookups + expected;
    UnpooledColumns *unpooled = settings->unpooled + settings->unpooled_count++;
    if (!read_mark(reader, '{') || !read_key(reader, "lookup") ||
        !read_number(reader, expected, expected, &unpooled->lookup) ||
        !number(reader, "to", 0, MOST_COLUMNS, &unpooled->to) || !number(reader, "dim", 1, MOST_COLUMNS, &unpooled->dim) ||
        !read_mark(reader, '}'))
        return false;
    if (unpooled->to + lookup->routed.count * unpooled->dim > settings->widths[lookup->group])
        return fail(reader->problem, "%s: look-up %s: its columns are not there", reader->file, lookup->name.text);
    for (int64_t i = 0; i < lookup->unit_count; i++) {
        int64_t *dim = settings->dims + lookup->units[i];
        if (*dim != 0 && *dim != unpooled->dim)
            return fail(reader->problem, "%s: look-up %s: expected rows of one dim in a unit, got %lld and %lld",
                        reader->file, lookup->name.text, (long long)*dim, (long long)unpooled->dim);
        *dim = unpooled->dim;
    }
    return true;
}

/* Of each un-pooled look-up, in the router's order, where there are such. */
static bool read_all_unpooled(Reader *reader, Settings *settings, const Router *router) {
    bool more = true;
    int64_t count = 0;
    for (int64_t g = 0; g < router->group_count; g++) count += router->groups[g].end - router->groups[g].unpooled;
    settings->dims = calloc((size_t)router->unit_count, sizeof *settings->dims);
    settings->unpooled = calloc((size_t)router->lookup_count, sizeof *settings->unpooled);
    if (settings->dims == NULL || settings->unpooled == NULL) return fail(reader->problem, "%s: out of memory", reader->file);
    if (count == 0) return true;
    if (!read_mark(reader, ',') || !read_key(reader, "rows") || !read_mark(reader, '[')) return false;
    for (int64_t g = 0; g < router->group_count; g++)
        for (int64_t i = router->groups[g].unpooled; more && i < router->groups[g].end; i++)
            if (!read_unpooled(reader, settings, router, router->order[i]) || !read_next(reader, ']', &more)) return false;
    return (!more && settings->unpooled_count == count) || fail(reader->problem, "%s: rows: expected one of each un-pooled look-up", reader->file);
}

static bool read_settings(Reader *reader, Settings *settings, const Router *router) {
    return read_mark(reader, '{') && name(reader, "name", settings->name) && read_mark(reader, ',') &&
           name(reader, "version", settings->version) && read_widths(reader, settings, router) &&
           number(reader, "deadline_us", 1, INT32_MAX, &settings->deadline_us) &&
           number(reader, "hedge_quantile_ppm", 0, 1000000, &settings->hedge_ppm) &&
           number(reader, "max_in_flight", 1, INT32_MAX, &settings->max_in_flight) &&
           number(reader, "degrade", 0, 1, &settings->degrade) && number(reader, "half_sums", 0, 1, &settings->half) &&
           read_services(reader, settings, router) && read_all_unpooled(reader, settings, router) &&
           read_mark(reader, '}') && read_end(reader);
}

bool settings_open(const char *folder, const Router *router, Settings *settings, Problem *problem) {
    Mapping text;
    *settings = (Settings){.router = router};
    if (!map_file(folder, "fanout.json", &text, problem)) return false;
    Reader reader = reader_of(&text, "fanout.json", problem);
    const bool good = read_settings(&reader, settings, router);
    unmap_file(&text);
    return good;
}

void settings_close(Settings *settings) {
    for (int64_t k = 0; k < settings->service_count; k++) {
        RemoteShard *service = settings->services + k;
        for (int64_t g = 0; g < service->group_count; g++) {
            free(service->groups[g].runs);
            free(service->groups[g].dims);
            free(service->groups[g].to);
        }
        free(service->groups);
    }
    free(settings->services);
    free(settings->widths);
    free(settings->dims);
    free(settings->unpooled);
}
