#include "keeper.h"

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

/* A service's endpoints, and the places that the engine has of it. */
typedef struct {
    Endpoints endpoints;
    Place *places;
    int64_t count;
    bool told, unresolved; /* unresolved: that was told */
} Kept;

struct Keeper {
    const char *path;
    const Settings *settings;
    Engine *engine;
    Kept *kept; /* one a service */
    struct stat seen;
    bool read;
    uint64_t resolved_ns;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t stop;
    bool stopping;
};

/* ---- places ---- */

static int by_text(const void *left, const void *right) {
    return strcmp(((const Place *)left)->text, ((const Place *)right)->text);
}

static void write_place(Place *place, const Endpoint *endpoint, const struct addrinfo *info) {
    char host[HOST_BYTES];
    memset(place, 0, sizeof *place);
    memcpy(&place->address, info->ai_addr, info->ai_addrlen);
    place->address_bytes = info->ai_addrlen;
    snprintf(host, sizeof host, "%s", endpoint->host);
    if (endpoint->resolve)
        getnameinfo(info->ai_addr, info->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST);
    const bool colons = strchr(host, ':') != NULL;
    snprintf(place->text, sizeof place->text, colons ? "[%s]:%d" : "%s:%d", host, endpoint->port);
    snprintf(place->host, sizeof place->host, "%s", endpoint->host);
}

/* Add what DNS says of an endpoint now; false where it says nothing. */
static bool resolve(const Endpoint *endpoint, Place **places, int64_t *count, const char **why) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *answers;
    char port[8];
    snprintf(port, sizeof port, "%d", endpoint->port);
    const int error = getaddrinfo(endpoint->host, port, &hints, &answers);
    if (error != 0) *why = gai_strerror(error);
    if (error != 0) return false;
    for (const struct addrinfo *info = answers; info != NULL; info = endpoint->resolve ? info->ai_next : NULL) {
        Place *more = realloc(*places, ((size_t)*count + 1) * sizeof *more);
        if (more == NULL || info->ai_addrlen > sizeof more->address) break;
        *places = more;
        write_place(more + (*count)++, endpoint, info);
    }
    freeaddrinfo(answers);
    return true;
}

static int64_t sort_out(Place *places, int64_t count) {
    int64_t kept = 0;
    if (count > 0) qsort(places, (size_t)count, sizeof *places, by_text);
    for (int64_t i = 0; i < count; i++)
        if (kept == 0 || strcmp(places[kept - 1].text, places[i].text) != 0) places[kept++] = places[i];
    return kept;
}

static bool same(const Kept *kept, const Place *places, int64_t count) {
    if (!kept->told || kept->count != count) return false;
    for (int64_t i = 0; i < count; i++)
        if (strcmp(kept->places[i].text, places[i].text) != 0) return false;
    return true;
}

static void tell(Keeper *keeper, int64_t k, Place *places, int64_t count) {
    Kept *kept = keeper->kept + k;
    Place *copy = malloc((size_t)count * sizeof *copy + 1);
    if (same(kept, places, count) || copy == NULL) {
        free(places);
        free(copy);
        return;
    }
    if (count > 0) memcpy(copy, places, (size_t)count * sizeof *copy);
    free(kept->places);
    *kept = (Kept){kept->endpoints, copy, count, true, kept->unresolved};
    engine_set_places(keeper->engine, k, places, count);
}

/* Where nothing is found of some endpoints, the former replicas stay. */
static void resolve_service(Keeper *keeper, int64_t k) {
    Kept *kept = keeper->kept + k;
    Place *places = NULL;
    int64_t count = 0;
    bool unresolved = false;
    for (int64_t i = 0; i < kept->endpoints.count; i++) {
        const Endpoint *endpoint = kept->endpoints.items + i;
        const char *why;
        if (resolve(endpoint, &places, &count, &why)) continue;
        unresolved = true;
        if (!kept->unresolved)
            log_warning("%s: cannot be resolved: %s; the former addresses stay in use", endpoint->host, why);
    }
    kept->unresolved = unresolved;
    if (count > 0 || kept->endpoints.count == 0) tell(keeper, k, places, sort_out(places, count));
    else free(places);
}

/* ---- the file ---- */

static bool read_all(Keeper *keeper, char **text, size_t *size, Problem *problem) {
    const int descriptor = open(keeper->path, O_RDONLY | O_CLOEXEC);
    *size = 0;
    *text = descriptor < 0 ? NULL : malloc(MOST_FILE_BYTES);
    ssize_t got = *text == NULL ? -1 : 1;
    while (got > 0 && *size < MOST_FILE_BYTES) {
        got = read(descriptor, *text + *size, MOST_FILE_BYTES - *size);
        if (got > 0) *size += (size_t)got;
    }
    if (got < 0) fail(problem, "%s: cannot be read: %s", keeper->path, strerror(errno));
    if (descriptor >= 0) close(descriptor);
    return got >= 0;
}

static void use(Keeper *keeper, Endpoints *found) {
    for (int64_t k = 0; k < keeper->settings->service_count; k++) {
        endpoints_free(&keeper->kept[k].endpoints);
        keeper->kept[k].endpoints = found[k];
        keeper->kept[k].unresolved = false;
        found[k] = (Endpoints){0};
    }
    keeper->resolved_ns = 0;
}

static bool read_file(Keeper *keeper, Problem *problem) {
    char *text = NULL;
    size_t size;
    Problem why;
    Endpoints *found = calloc((size_t)keeper->settings->service_count, sizeof *found);
    bool good = found != NULL ? read_all(keeper, &text, &size, problem) : fail(problem, "out of memory");
    if (good && !addresses_read(text, size, keeper->settings, found, &why))
        good = fail(problem, "%s: %s", keeper->path, why.text);
    if (good) use(keeper, found);
    for (int64_t k = 0; found != NULL && k < keeper->settings->service_count; k++) endpoints_free(found + k);
    free(found);
    free(text);
    return good;
}

static bool is_seen(const Keeper *keeper, const struct stat *now) {
    const struct stat *seen = &keeper->seen;
    return keeper->read && now->st_ino == seen->st_ino && now->st_size == seen->st_size &&
           now->st_mtim.tv_sec == seen->st_mtim.tv_sec && now->st_mtim.tv_nsec == seen->st_mtim.tv_nsec;
}

/* Read the file where it has changed: ConfigMaps are swapped by a link, other files renamed. A mistake is told once;
 * a file that is gone for a moment is none, once it has been read. */
static bool follow_file(Keeper *keeper, Problem *problem) {
    struct stat now;
    if (stat(keeper->path, &now) != 0)
        return keeper->read || fail(problem, "%s: cannot be read: %s", keeper->path, strerror(errno));
    if (is_seen(keeper, &now)) return true;
    keeper->seen = now;
    keeper->read = true;
    return read_file(keeper, problem);
}

/* ---- the thread ---- */

static void resolve_all(Keeper *keeper) {
    keeper->resolved_ns = now_ns();
    for (int64_t k = 0; k < keeper->settings->service_count; k++) resolve_service(keeper, k);
}

static bool wait_for_stop(Keeper *keeper) {
    const uint64_t until_ns = now_ns() + TICK_NS;
    const struct timespec until = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
    pthread_mutex_lock(&keeper->lock);
    if (!keeper->stopping) pthread_cond_timedwait(&keeper->stop, &keeper->lock, &until);
    const bool stopping = keeper->stopping;
    pthread_mutex_unlock(&keeper->lock);
    return stopping;
}

static void *keep(void *argument) {
    Keeper *keeper = argument;
    while (!wait_for_stop(keeper)) {
        Problem problem;
        if (!follow_file(keeper, &problem)) log_warning("%s; the former addresses stay in use", problem.text);
        if (now_ns() - keeper->resolved_ns > RESOLVE_NS) resolve_all(keeper);
    }
    return NULL;
}

static void keeper_free(Keeper *keeper) {
    for (int64_t k = 0; keeper->kept != NULL && k < keeper->settings->service_count; k++) {
        endpoints_free(&keeper->kept[k].endpoints);
        free(keeper->kept[k].places);
    }
    free(keeper->kept);
    pthread_cond_destroy(&keeper->stop);
    pthread_mutex_destroy(&keeper->lock);
    free(keeper);
}

static Keeper *keeper_new(const char *path, const Settings *settings, Engine *engine) {
    Keeper *keeper = calloc(1, sizeof *keeper);
    if (keeper == NULL) return NULL;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&keeper->stop, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&keeper->lock, NULL);
    keeper->path = path;
    keeper->settings = settings;
    keeper->engine = engine;
    keeper->kept = calloc((size_t)settings->service_count, sizeof *keeper->kept);
    return keeper;
}

Keeper *keeper_open(const char *path, const Settings *settings, Engine *engine, Problem *problem) {
    Keeper *keeper = keeper_new(path, settings, engine);
    if (keeper == NULL) fail(problem, "out of memory");
    if (keeper == NULL) return NULL;
    bool good = keeper->kept != NULL ? follow_file(keeper, problem) : fail(problem, "out of memory");
    if (good) resolve_all(keeper);
    if (good && pthread_create(&keeper->thread, NULL, keep, keeper) != 0) good = fail(problem, "no thread");
    if (good) return keeper;
    keeper_free(keeper);
    return NULL;
}

void keeper_close(Keeper *keeper) {
    pthread_mutex_lock(&keeper->lock);
    keeper->stopping = true;
    pthread_cond_signal(&keeper->stop);
    pthread_mutex_unlock(&keeper->lock);
    pthread_join(keeper->thread, NULL);
    keeper_free(keeper);
}
