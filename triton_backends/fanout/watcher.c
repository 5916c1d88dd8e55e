#include "watcher.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../native/shell.h"
#include "addresses.h"

static const uint64_t TICK_NS = 250000000, RESOLVE_NS = 2000000000; /* how long a new pod may stay unknown */
enum { MOST_FILE_BYTES = 1 << 24 };

/* A service's endpoints, and the addresses that the engine has of it. */
typedef struct {
    Endpoints endpoints;
    Address *addresses;
    int64_t count;
    bool told, unresolved; /* unresolved: that was told */
} Watched;

struct Watcher {
    const char *path;
    const Settings *settings;
    Engine *engine;
    Watched *watched; /* one per service */
    struct stat seen;
    bool read;
    uint64_t resolved_ns;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t stop;
    bool stopping;
};

/* ---- addresses ---- */

static int by_text(const void *left, const void *right) {
    return strcmp(((const Address *)left)->text, ((const Address *)right)->text);
}

static void write_address(Address *address, const Endpoint *endpoint, const struct addrinfo *info) {
    char host[HOST_BYTES];
    memset(address, 0, sizeof *address);
    memcpy(&address->socket_address, info->ai_addr, info->ai_addrlen);
    address->socket_address_bytes = info->ai_addrlen;
    snprintf(host, sizeof host, "%s", endpoint->host);
    if (endpoint->resolve)
        getnameinfo(info->ai_addr, info->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST);
    const bool colons = strchr(host, ':') != NULL;
    snprintf(address->text, sizeof address->text, colons ? "[%s]:%d" : "%s:%d", host, endpoint->port);
    snprintf(address->host, sizeof address->host, "%s", endpoint->host);
}

/* Add what DNS says of an endpoint now; false where it says nothing. */
static bool resolve(const Endpoint *endpoint, Address **addresses, int64_t *count, const char **why) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *answers;
    char port[8];
    snprintf(port, sizeof port, "%d", endpoint->port);
    const int error = getaddrinfo(endpoint->host, port, &hints, &answers);
    if (error != 0) *why = gai_strerror(error);
    if (error != 0) return false;
    for (const struct addrinfo *info = answers; info != NULL; info = endpoint->resolve ? info->ai_next : NULL) {
        Address *more = realloc(*addresses, ((size_t)*count + 1) * sizeof *more);
        if (more == NULL || info->ai_addrlen > sizeof more->socket_address) break;
        *addresses = more;
        write_address(more + (*count)++, endpoint, info);
    }
    freeaddrinfo(answers);
    return true;
}

static int64_t sort_out(Address *addresses, int64_t count) {
    int64_t kept = 0;
    if (count > 0) qsort(addresses, (size_t)count, sizeof *addresses, by_text);
    for (int64_t i = 0; i < count; i++)
        if (kept == 0 || strcmp(addresses[kept - 1].text, addresses[i].text) != 0) addresses[kept++] = addresses[i];
    return kept;
}

static bool same(const Watched *watched, const Address *addresses, int64_t count) {
    if (!watched->told || watched->count != count) return false;
    for (int64_t i = 0; i < count; i++)
        if (strcmp(watched->addresses[i].text, addresses[i].text) != 0) return false;
    return true;
}

static void tell(Watcher *watcher, int64_t k, Address *addresses, int64_t count) {
    Watched *watched = watcher->watched + k;
    Address *copy = malloc((size_t)count * sizeof *copy + 1);
    if (same(watched, addresses, count) || copy == NULL) {
        free(addresses);
        free(copy);
        return;
    }
    if (count > 0) memcpy(copy, addresses, (size_t)count * sizeof *copy);
    free(watched->addresses);
    *watched = (Watched){watched->endpoints, copy, count, true, watched->unresolved};
    engine_set_addresses(watcher->engine, k, addresses, count);
}

/* Where nothing is found of some endpoints, the former replicas stay. */
static void resolve_service(Watcher *watcher, int64_t k) {
    Watched *watched = watcher->watched + k;
    Address *addresses = NULL;
    int64_t count = 0;
    bool unresolved = false;
    for (int64_t i = 0; i < watched->endpoints.count; i++) {
        const Endpoint *endpoint = watched->endpoints.items + i;
        const char *why;
        if (resolve(endpoint, &addresses, &count, &why)) continue;
        unresolved = true;
        if (!watched->unresolved)
            log_warning("%s: cannot be resolved: %s; the former addresses stay in use", endpoint->host, why);
    }
    watched->unresolved = unresolved;
    if (count > 0 || watched->endpoints.count == 0) tell(watcher, k, addresses, sort_out(addresses, count));
    else free(addresses);
}

/* ---- the file ---- */

static bool read_all(Watcher *watcher, char **text, size_t *size, Problem *problem) {
    const int descriptor = open(watcher->path, O_RDONLY | O_CLOEXEC);
    *size = 0;
    *text = descriptor < 0 ? NULL : malloc(MOST_FILE_BYTES);
    ssize_t got = *text == NULL ? -1 : 1;
    while (got > 0 && *size < MOST_FILE_BYTES) {
        got = read(descriptor, *text + *size, MOST_FILE_BYTES - *size);
        if (got > 0) *size += (size_t)got;
    }
    if (got < 0) fail(problem, "%s: cannot be read: %s", watcher->path, strerror(errno));
    if (descriptor >= 0) close(descriptor);
    return got >= 0;
}

static void use(Watcher *watcher, Endpoints *found) {
    for (int64_t k = 0; k < watcher->settings->service_count; k++) {
        endpoints_free(&watcher->watched[k].endpoints);
        watcher->watched[k].endpoints = found[k];
        watcher->watched[k].unresolved = false;
        found[k] = (Endpoints){0};
    }
    watcher->resolved_ns = 0;
}

static bool read_file(Watcher *watcher, Problem *problem) {
    char *text = NULL;
    size_t size;
    Problem why;
    Endpoints *found = calloc((size_t)watcher->settings->service_count, sizeof *found);
    bool good = found != NULL ? read_all(watcher, &text, &size, problem) : fail(problem, "out of memory");
    if (good && !addresses_read(text, size, watcher->settings, found, &why))
        good = fail(problem, "%s: %s", watcher->path, why.text);
    if (good) use(watcher, found);
    for (int64_t k = 0; found != NULL && k < watcher->settings->service_count; k++) endpoints_free(found + k);
    free(found);
    free(text);
    return good;
}

static bool is_seen(const Watcher *watcher, const struct stat *now) {
    const struct stat *seen = &watcher->seen;
    return watcher->read && now->st_ino == seen->st_ino && now->st_size == seen->st_size &&
           now->st_mtim.tv_sec == seen->st_mtim.tv_sec && now->st_mtim.tv_nsec == seen->st_mtim.tv_nsec;
}

/* Read the file where it has changed: ConfigMaps are swapped by a link, other files renamed. A mistake is told once;
 * a file that is gone for a moment is none, once it has been read. */
static bool follow_file(Watcher *watcher, Problem *problem) {
    struct stat now;
    if (stat(watcher->path, &now) != 0)
        return watcher->read || fail(problem, "%s: cannot be read: %s", watcher->path, strerror(errno));
    if (is_seen(watcher, &now)) return true;
    watcher->seen = now;
    watcher->read = true;
    return read_file(watcher, problem);
}

/* ---- the thread ---- */

static void resolve_all(Watcher *watcher) {
    watcher->resolved_ns = now_ns();
    for (int64_t k = 0; k < watcher->settings->service_count; k++) resolve_service(watcher, k);
}

static bool wait_for_stop(Watcher *watcher) {
    const uint64_t until_ns = now_ns() + TICK_NS;
    const struct timespec until = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
    pthread_mutex_lock(&watcher->lock);
    if (!watcher->stopping) pthread_cond_timedwait(&watcher->stop, &watcher->lock, &until);
    const bool stopping = watcher->stopping;
    pthread_mutex_unlock(&watcher->lock);
    return stopping;
}

static void *watch(void *argument) {
    Watcher *watcher = argument;
    while (!wait_for_stop(watcher)) {
        Problem problem;
        if (!follow_file(watcher, &problem)) log_warning("%s; the former addresses stay in use", problem.text);
        if (now_ns() - watcher->resolved_ns > RESOLVE_NS) resolve_all(watcher);
    }
    return NULL;
}

static void watcher_free(Watcher *watcher) {
    for (int64_t k = 0; watcher->watched != NULL && k < watcher->settings->service_count; k++) {
        endpoints_free(&watcher->watched[k].endpoints);
        free(watcher->watched[k].addresses);
    }
    free(watcher->watched);
    pthread_cond_destroy(&watcher->stop);
    pthread_mutex_destroy(&watcher->lock);
    free(watcher);
}

static Watcher *watcher_new(const char *path, const Settings *settings, Engine *engine) {
    Watcher *watcher = calloc(1, sizeof *watcher);
    if (watcher == NULL) return NULL;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&watcher->stop, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&watcher->lock, NULL);
    watcher->path = path;
    watcher->settings = settings;
    watcher->engine = engine;
    watcher->watched = calloc((size_t)settings->service_count, sizeof *watcher->watched);
    return watcher;
}

Watcher *watcher_open(const char *path, const Settings *settings, Engine *engine, Problem *problem) {
    Watcher *watcher = watcher_new(path, settings, engine);
    if (watcher == NULL) fail(problem, "out of memory");
    if (watcher == NULL) return NULL;
    bool good = watcher->watched != NULL ? follow_file(watcher, problem) : fail(problem, "out of memory");
    if (good) resolve_all(watcher);
    if (good && pthread_create(&watcher->thread, NULL, watch, watcher) != 0) good = fail(problem, "no thread");
    if (good) return watcher;
    watcher_free(watcher);
    return NULL;
}

void watcher_close(Watcher *watcher) {
    pthread_mutex_lock(&watcher->lock);
    watcher->stopping = true;
    pthread_cond_signal(&watcher->stop);
    pthread_mutex_unlock(&watcher->lock);
    pthread_join(watcher->thread, NULL);
    watcher_free(watcher);
}
