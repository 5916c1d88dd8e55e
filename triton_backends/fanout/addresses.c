#include "addresses.h"

#include <stdlib.h>
#include <string.h>

#include "../native/json.h"

static const char DNS[] = "dns:///";
enum { SHOWN = 60 }; /* letters of what came, in a message */

/* HOST:PORT or [ADDRESS]:PORT. */
static bool read_endpoint(const char *text, bool resolve, Endpoint *endpoint, Problem *problem) {
    const char *colon = strrchr(text, ':');
    const char *host = text, *host_end = colon;
    const bool bracketed = colon != NULL && colon - text >= 2 && text[0] == '[' && colon[-1] == ']';
    if (bracketed) host++, host_end--;
    const size_t size = colon == NULL ? 0 : (size_t)(host_end - host);
    int port = 0;
    const char *figure = colon == NULL ? "" : colon + 1;
    for (int i = 0; i < 5 && *figure >= '0' && *figure <= '9'; i++) port = 10 * port + (*figure++ - '0');
    bool plain = size > 0 && size < HOST_BYTES && *figure == '\0' && port >= 1 && port <= 65535;
    for (size_t i = 0; plain && i < size; i++) plain = strchr(bracketed ? "/ []" : "/ []:", host[i]) == NULL;
    if (!plain)
        return fail(problem, "expected HOST:PORT with a port from 1 to 65535, got '%.*s'", SHOWN, text);
    *endpoint = (Endpoint){.port = port, .resolve = resolve};
    memcpy(endpoint->host, host, size);
    return true;
}

static bool add_endpoint(Endpoints *endpoints, const char *text, bool resolve, Problem *problem) {
    Endpoint *items = endpoints->items;
    if (endpoints->count == MOST_ENDPOINTS)
        return fail(problem, "expected at most %d addresses", MOST_ENDPOINTS);
    items = realloc(items, ((size_t)endpoints->count + 1) * sizeof *items);
    if (items == NULL) return fail(problem, "out of memory");
    endpoints->items = items;
    if (!read_endpoint(text, resolve, items + endpoints->count, problem)) return false;
    endpoints->count++;
    return true;
}

/* A service's entry, which is JSON; false without a problem where it is none of what it may be. */
static bool read_entry(Json json, Endpoints *endpoints, Problem *problem) {
    char text[HOST_BYTES + 32];
    if (json_peek(&json) == '"') {
        const size_t size = sizeof DNS - 1;
        json_string(&json, text, sizeof text);
        return strncmp(text, DNS, size) == 0 && add_endpoint(endpoints, text + size, true, problem);
    }
    if (!json_mark(&json, '[')) return false;
    if (json_mark(&json, ']')) return true;
    do {
        if (!json_string(&json, text, sizeof text) || !add_endpoint(endpoints, text, false, problem)) return false;
    } while (json_mark(&json, ','));
    return true;
}

static bool read_service(const char *name, const char *text, size_t size, Endpoints *endpoints, Problem *problem) {
    Problem why = {{0}};
    if (read_entry((Json){text, text + size}, endpoints, &why)) return true;
    if (why.text[0] != '\0') return fail(problem, "%s: %s", name, why.text);
    return fail(problem, "%s: expected \"dns:///HOST:PORT\" or [\"HOST:PORT\", ...], got %.*s", name,
                (int)(size < SHOWN ? size : SHOWN), text);
}

static int64_t index_of(const char *name, const Settings *settings) {
    for (int64_t k = 0; k < settings->service_count; k++)
        if (strcmp(settings->services[k].name, name) == 0) return k;
    return -1;
}

/* named: by service, whether its entry was there. */
static bool read_document(Json *json, const Settings *settings, Endpoints *found, bool *named, Problem *problem) {
    if (!json_mark(json, '{')) return fail(problem, "expected an object with an entry per service");
    bool more = !json_mark(json, '}');
    while (more) {
        char name[NAME_BYTES];
        const char *value;
        size_t size;
        if (!json_string(json, name, sizeof name) || !json_mark(json, ':') || !json_value(json, &value, &size))
            return fail(problem, "expected JSON");
        const int64_t k = index_of(name, settings);
        if (k >= 0) {
            named[k] = true;
            endpoints_free(found + k);
            if (!read_service(name, value, size, found + k, problem)) return false;
        }
        more = json_mark(json, ',');
        if (!more && !json_mark(json, '}')) return fail(problem, "expected JSON");
    }
    return json_peek(json) == '\0' || fail(problem, "expected JSON");
}

bool addresses_read(const char *text, size_t size, const Settings *settings, Endpoints *found, Problem *problem) {
    Json json = {text, text + size};
    if (json_peek(&json) == '\0') return fail(problem, "expected JSON");
    bool *named = calloc((size_t)settings->service_count, sizeof *named);
    if (named == NULL) return fail(problem, "out of memory");
    bool good = read_document(&json, settings, found, named, problem);
    for (int64_t k = 0; good && k < settings->service_count; k++)
        if (!named[k]) good = read_service(settings->services[k].name, "null", 4, found + k, problem);
    free(named);
    return good;
}

void endpoints_free(Endpoints *endpoints) {
    free(endpoints->items);
    *endpoints = (Endpoints){0};
}
