#include "settings.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_PLACES = 1 << 16 }; /* of tables and of numbers a row: products with a query's rows stay within 64 bits */

static bool number(Reader *reader, const char *key, int64_t least, int64_t most, int64_t *value) {
    return read_mark(reader, ',') && read_key(reader, key) && read_count(reader, least, most, value);
}

static bool name(Reader *reader, const char *key, char value[NAME_BYTES]) {
    return read_key(reader, key) && read_name(reader, value);
}

/* The places of a service's tables, ascending. */
static bool read_tables(Reader *reader, RemoteShard *service, int64_t tables) {
    if (!read_key(reader, "tables") || !read_mark(reader, '[')) return false;
    for (bool more = true; more;) {
        const int64_t count = service->table_count, least = count > 0 ? service->tables[count - 1] + 1 : 0;
        int64_t *places = realloc(service->tables, ((size_t)count + 1) * sizeof *places);
        if (places == NULL) return fail(reader->problem, "%s: out of memory", reader->file);
        service->tables = places;
        if (!read_count(reader, least, tables - 1, places + count) || !read_next(reader, ']', &more)) return false;
        service->table_count++;
    }
    return true;
}

static bool read_service(Reader *reader, Settings *settings, const Router *router) {
    const int64_t k = settings->service_count;
    if (k == router->service_count)
        return fail(reader->problem, "%s: expected %lld services, as in router.json, got more", reader->file,
                    (long long)k);
    RemoteShard *service = settings->services + settings->service_count++;
    return read_mark(reader, '{') && name(reader, "name", service->name) && read_mark(reader, ',') &&
           name(reader, "model", service->model) && read_mark(reader, ',') &&
           read_tables(reader, service, settings->tables) && read_mark(reader, '}') &&
           (service->table_count == router->services[k].tables ||
            fail(reader->problem, "%s: service %s: expected %lld tables, as in router.json, got %lld", reader->file,
                 service->name, (long long)router->services[k].tables, (long long)service->table_count));
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

static bool read_settings(Reader *reader, Settings *settings, const Router *router) {
    return read_mark(reader, '{') && name(reader, "name", settings->name) && read_mark(reader, ',') &&
           name(reader, "version", settings->version) && number(reader, "tables", 1, MOST_PLACES, &settings->tables) &&
           number(reader, "dim", 1, MOST_PLACES, &settings->dim) &&
           number(reader, "deadline_us", 1, INT32_MAX, &settings->deadline_us) &&
           number(reader, "hedge_quantile_ppm", 0, 1000000, &settings->hedge_ppm) &&
           number(reader, "max_in_flight", 1, INT32_MAX, &settings->max_in_flight) &&
           number(reader, "degrade", 0, 1, &settings->degrade) && number(reader, "half_sums", 0, 1, &settings->half) &&
           read_services(reader, settings, router) && read_mark(reader, '}') && read_end(reader);
}

bool settings_open(const char *folder, const Router *router, Settings *settings, Problem *problem) {
    Mapping text;
    *settings = (Settings){0};
    if (!map_file(folder, "fanout.json", &text, problem)) return false;
    Reader reader = {text.bytes, text.bytes, (const char *)text.bytes + text.size, "fanout.json", problem};
    const bool good = read_settings(&reader, settings, router);
    unmap_file(&text);
    return good;
}

void settings_close(Settings *settings) {
    for (int64_t k = 0; k < settings->service_count; k++) free(settings->services[k].tables);
    free(settings->services);
}
