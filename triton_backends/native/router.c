#include "router.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* far above what a plan can hold; they keep sums and products of these numbers within 64 bits */
enum { MAX_TABLES = 1 << 16, MAX_SERVICES = 1 << 16 };
static const int64_t MAX_ROWS = INT32_MAX, MAX_FILE_BYTES = (int64_t)1 << 40;

static int64_t id_map_bytes(int64_t rows, int64_t bits) {
    static const int64_t plane_words[] = {0, 7, 3, 4, 6}; /* see id_map.h */
    if (bits == 0) return 0;
    const int64_t block_ids = 64 * plane_words[bits];
    return (rows + block_ids - 1) / block_ids * (4 * (1 << bits) + 8 * bits * plane_words[bits]);
}

/* Make room for one more item; NULL where there is none. */
static void *grown(void *items, int64_t count, size_t size, Reader *reader) {
    void *more = realloc(items, ((size_t)count + 1) * size);
    if (more == NULL) fail(reader->problem, "%s: out of memory", reader->file);
    return more;
}

static bool read_shards(Reader *reader, Table *table) {
    int64_t shards = 0;
    if (!read_mark(reader, '[')) return false;
    for (bool more = true; more; shards++) {
        if (shards == MAX_SHARDS)
            return fail(reader->problem, "%s: expected at most %d shards a table", reader->file, MAX_SHARDS);
        if (!read_mark(reader, '{') || !read_key(reader, "service") ||
            !read_count(reader, 0, MAX_SERVICES - 1, &table->service[shards]) || !read_mark(reader, ',') ||
            !read_key(reader, "base") || !read_count(reader, 0, MAX_ROWS, &table->base[shards]) ||
            !read_mark(reader, ',') || !read_key(reader, "place") ||
            !read_count(reader, 0, MAX_TABLES - 1, &table->place[shards]) || !read_mark(reader, '}') ||
            !read_next(reader, ']', &more))
            return false;
    }
    for (table->bits = 0; (int64_t)1 << table->bits < shards; table->bits++) continue;
    for (int64_t i = shards; i < MAX_SHARDS; i++) { /* a broken map may name a shard that is not there */
        table->service[i] = table->service[0];
        table->base[i] = table->base[0];
        table->place[i] = table->place[0];
    }
    return true;
}

static bool read_table(Reader *reader, Router *router) {
    const int64_t t = router->table_count;
    int64_t offset;
    if (t == MAX_TABLES) return fail(reader->problem, "%s: expected at most %d tables", reader->file, MAX_TABLES);
    Table *tables = grown(router->tables, t, sizeof *tables, reader);
    if (tables == NULL) return false;
    router->tables = tables;
    void *names = grown(router->table_names, t, sizeof *router->table_names, reader);
    if (names == NULL) return false;
    router->table_names = names;
    int64_t *means = grown(router->means, t, sizeof *means, reader);
    if (means == NULL) return false;
    router->means = means;
    Table *table = tables + t;
    if (!read_mark(reader, '{') || !read_key(reader, "name") || !read_name(reader, router->table_names[t]) ||
        !read_mark(reader, ',') || !read_key(reader, "rows") || !read_count(reader, 1, MAX_ROWS, &table->rows) ||
        !read_mark(reader, ',') || !read_key(reader, "pooling") ||
        !read_count(reader, 1, MAX_ROWS, &table->pooling) || !read_mark(reader, ',') ||
        !read_key(reader, "map_offset") || !read_count(reader, 0, MAX_FILE_BYTES, &offset) ||
        !read_mark(reader, ',') || !read_key(reader, "shards") || !read_shards(reader, table) ||
        !read_mark(reader, ',') || !read_key(reader, "mean") || !read_count(reader, 0, 1, means + t) ||
        !read_mark(reader, '}'))
        return false;
    const int64_t end = offset + id_map_bytes(table->rows, table->bits);
    if (offset % 8 != 0 || end > (int64_t)router->id_maps.size)
        return fail(reader->problem, "idmap.bin: expected %lld bytes for table %s, got %zu", (long long)end,
                    router->table_names[t], router->id_maps.size);
    table->map = table->bits == 0 ? NULL : (const uint64_t *)router->id_maps.bytes + offset / 8;
    router->columns += table->pooling;
    router->mean_count += means[t];
    router->table_count++;
    return true;
}

static bool read_service(Reader *reader, Router *router) {
    char name[NAME_BYTES];
    if (router->service_count == MAX_SERVICES)
        return fail(reader->problem, "%s: expected at most %d services", reader->file, MAX_SERVICES);
    RoutedService *services = grown(router->services, router->service_count, sizeof *services, reader);
    if (services == NULL) return false;
    router->services = services;
    RoutedService *service = services + router->service_count;
    service->capacity = 0;
    if (!read_mark(reader, '{') || !read_key(reader, "name") || !read_name(reader, name) ||
        !read_mark(reader, ',') || !read_key(reader, "tables") ||
        !read_count(reader, 1, MAX_TABLES, &service->tables) || !read_mark(reader, '}'))
        return false;
    snprintf(service->ids_name, sizeof service->ids_name, "%s_ids", name);
    snprintf(service->lengths_name, sizeof service->lengths_name, "%s_lengths", name);
    router->service_count++;
    return true;
}

static bool read_list(Reader *reader, Router *router, const char *key, bool (*read_item)(Reader *, Router *)) {
    bool more = true;
    if (!read_key(reader, key) || !read_mark(reader, '[')) return false;
    while (more)
        if (!read_item(reader, router) || !read_next(reader, ']', &more)) return false;
    return true;
}

/* Check where the shards go, and count how much can go there. */
static bool place_tables(Router *router, Reader *reader) {
    for (int64_t t = 0; t < router->table_count; t++) {
        const Table *table = router->tables + t;
        for (int64_t i = 0; i < (int64_t)1 << table->bits; i++) {
            const int64_t k = table->service[i];
            if (k >= router->service_count || table->place[i] >= router->services[k].tables)
                return fail(reader->problem, "%s: table %s: a shard lies in a service or place that is not there",
                            reader->file, router->table_names[t]);
            bool counted = false;
            for (int64_t j = 0; j < i; j++) counted |= table->service[j] == k;
            if (!counted) router->services[k].capacity += table->pooling;
        }
    }
    return true;
}

static bool read_router(Router *router, const char *folder, const Mapping *text, Problem *problem) {
    Reader reader = {text->bytes, text->bytes, (const char *)text->bytes + text->size, "router.json", problem};
    return map_file(folder, "idmap.bin", &router->id_maps, problem) && read_mark(&reader, '{') &&
           read_list(&reader, router, "tables", read_table) && read_mark(&reader, ',') &&
           read_list(&reader, router, "services", read_service) && read_mark(&reader, '}') && read_end(&reader) &&
           place_tables(router, &reader);
}

Router *router_open(const char *folder, Problem *problem) {
    Mapping text;
    if (!map_file(folder, "router.json", &text, problem)) return NULL;
    Router *router = calloc(1, sizeof *router);
    if (router == NULL) fail(problem, "router.json: out of memory");
    if (router != NULL && !read_router(router, folder, &text, problem)) {
        router_close(router);
        router = NULL;
    }
    unmap_file(&text);
    return router;
}

void router_close(Router *router) {
    unmap_file(&router->id_maps);
    free(router->tables);
    free(router->table_names);
    free(router->means);
    free(router->services);
    free(router);
}

bool router_check_dense(const float *dense, int64_t rows, int64_t features, Problem *problem) {
    const int64_t count = rows * features;
    bool finite = true;
    for (int64_t i = 0; i < count; i++) finite &= isfinite(dense[i]) != 0;
    if (finite) return true;
    int64_t bad = 0;
    while (isfinite(dense[bad])) bad++;
    return fail(problem, "dense: expected finite numbers, got %s in row %lld, column %lld",
                isnan(dense[bad]) ? "nan" : dense[bad] > 0 ? "inf" : "-inf", (long long)(bad / features),
                (long long)(bad % features));
}

bool router_route(const Router *router, const void *indices, int64_t index_bytes, int64_t batch, Service *outputs,
                  Problem *problem) {
    const int64_t bad = elasticrec_route(router->tables, router->table_count, indices, index_bytes, batch, outputs);
    if (bad < 0) return true;
    const int64_t row = bad / router->columns, column = bad % router->columns;
    const int64_t id = index_bytes == 8 ? ((const int64_t *)indices)[bad] : ((const int32_t *)indices)[bad];
    int64_t t = 0;
    for (int64_t end = router->tables[0].pooling; end <= column; end += router->tables[t].pooling) t++;
    return fail(problem,
                "table %s: id %lld in row %lld, column %lld of indices is out of range; expected 0 to %lld, or -1 for "
                "an empty slot",
                router->table_names[t], (long long)id, (long long)row, (long long)column,
                (long long)router->tables[t].rows - 1);
}

void router_divide(const Router *router, const Service *parts, const bool *asked, int64_t batch, float *divisors) {
    const int64_t tables = router->table_count;
    for (int64_t t = 0; t < tables; t++) {
        const Table *table = router->tables + t;
        for (int64_t row = 0; row < batch; row++) divisors[row * tables + t] = router->means[t] ? 0 : 1;
        for (int64_t i = 0; router->means[t] && i < (int64_t)1 << table->bits; i++) {
            const int64_t k = table->service[i];
            bool counted = asked != NULL && !asked[k];
            for (int64_t j = 0; j < i; j++) counted |= table->service[j] == k;
            const int32_t *lengths = parts[k].lengths + table->place[i];
            for (int64_t row = 0; !counted && row < batch; row++)
                divisors[row * tables + t] += (float)lengths[row * parts[k].tables];
        }
        for (int64_t row = 0; row < batch; row++)
            if (divisors[row * tables + t] < 1) divisors[row * tables + t] = 1;
    }
}
