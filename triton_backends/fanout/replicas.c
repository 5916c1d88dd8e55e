#include "replicas.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../native/shell.h"

static const uint64_t RETRY_NS = 1000000000, FIRST_RETRY_NS = 100000000; /* between two attempts to connect */

/* ---- a replica and its connection ---- */

/* The next one is opened at once, so that no call waits for it; a server that has answered may end them as it likes. */
static void leaving(ConnectionOwner *owner) {
    Replica *replica = OWNER(owner, Replica, owner);
    replica->connection = NULL;
    fail(&replica->problem, "the server closed the connection");
    if (replica->ready) replica->connect_at_ns = 0;
    if (replica->listed) replica_connection(replica);
}

static void lost(ConnectionOwner *owner, const char *why) {
    Replica *replica = OWNER(owner, Replica, owner);
    replica->connection = NULL;
    fail(&replica->problem, "%s", why);
}

Connection *replica_connection(Replica *replica) {
    Wire *wire = replica->service->wire;
    if (replica->connection != NULL || wire->now_ns < replica->connect_at_ns) return replica->connection;
    const bool lately = wire->now_ns < replica->connect_at_ns + RETRY_NS;
    replica->connect_at_ns = wire->now_ns + (lately ? RETRY_NS : FIRST_RETRY_NS);
    replica->connection = connection_open(wire, &replica->place, &replica->owner);
    if (replica->connection == NULL) fail(&replica->problem, "out of memory");
    return replica->connection;
}

void replica_release(Replica *replica) {
    if (--replica->references == 0) free(replica);
}

static void update_ready(RemoteService *service) {
    bool ready = false;
    for (int64_t i = 0; i < service->replica_count; i++) ready |= service->replicas[i]->ready;
    atomic_store(&service->ready, ready);
}

void replica_set_ready(Replica *replica) {
    if (replica->ready) return;
    replica->ready = true;
    update_ready(replica->service);
    log_warning("service %s: replica %s serves", replica->service->shard->name, replica->place.text);
}

void replica_set_aside(Replica *replica, const char *why) {
    if (!replica->ready) return;
    replica->ready = false;
    update_ready(replica->service);
    log_warning("%s; set aside until it answers", why);
}

/* ---- a service's replicas ---- */

static Replica *replica_new(RemoteService *service, const Place *place) {
    Replica *replica = calloc(1, sizeof *replica);
    if (replica == NULL) return NULL;
    replica->owner = (ConnectionOwner){leaving, lost};
    replica->service = service;
    replica->place = *place;
    replica->number = ++service->next_number;
    replica->references = 1;
    replica->listed = true;
    return replica;
}

/* Its connection goes once the calls that are under way have ended. */
static void unlist(Replica *replica) {
    replica->listed = false;
    if (replica->connection != NULL) connection_leave(replica->connection);
    replica->connection = NULL;
    replica_release(replica);
}

static Replica *take(RemoteService *service, const Place *place) {
    for (int64_t i = 0; i < service->replica_count; i++) {
        Replica *replica = service->replicas[i];
        if (replica == NULL || strcmp(replica->place.text, place->text) != 0) continue;
        service->replicas[i] = NULL;
        return replica;
    }
    return replica_new(service, place);
}

static void log_replicas(const RemoteService *service) {
    char text[400];
    size_t length = 0;
    for (int64_t i = 0; i < service->replica_count && length < sizeof text; i++)
        length += (size_t)snprintf(text + length, sizeof text - length, "%s%s", i > 0 ? ", " : "",
                                   service->replicas[i]->place.text);
    log_warning("service %s: replicas %s", service->shard->name, service->replica_count > 0 ? text : "none");
}

void service_set_places(RemoteService *service, const Place *places, int64_t count) {
    Replica **replicas = calloc((size_t)count + 1, sizeof *replicas);
    if (replicas == NULL) return log_warning("service %s: out of memory", service->shard->name);
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++)
        if ((replicas[kept] = take(service, places + i)) != NULL) kept++;
    for (int64_t i = 0; i < service->replica_count; i++)
        if (service->replicas[i] != NULL) unlist(service->replicas[i]);
    free(service->replicas);
    service->replicas = replicas;
    service->replica_count = kept;
    update_ready(service);
    log_replicas(service);
}

static bool busier(const Replica *one, const Replica *other) {
    return one->ready != other->ready ? other->ready : one->in_flight > other->in_flight;
}

static bool contains(const int64_t *numbers, int count, int64_t number) {
    for (int i = 0; i < count; i++)
        if (numbers[i] == number) return true;
    return false;
}

Replica *service_pick(RemoteService *service, const int64_t *tried, int tried_count) {
    Replica *best = NULL;
    service->turn++;
    for (int64_t i = 0; i < service->replica_count; i++) {
        Replica *replica = service->replicas[(service->turn + (uint64_t)i) % (uint64_t)service->replica_count];
        if (contains(tried, tried_count, replica->number)) continue;
        if (best == NULL || busier(best, replica)) best = replica;
    }
    return best;
}

bool service_open(RemoteService *service, Wire *wire, const Settings *settings, int64_t place, Counters *counters,
                  Problem *problem) {
    const RemoteShard *shard = settings->services + place;
    *service = (RemoteService){.wire = wire, .shard = shard, .place = place, .counters = counters};
    service->hedge_ppm = settings->hedge_ppm;
    service->probe_shape = (SumsShape){1, shard->table_count * settings->dim, settings->half != 0};
    service->probe_lengths = calloc((size_t)shard->table_count, sizeof *service->probe_lengths);
    if (service->probe_lengths == NULL) return fail(problem, "out of memory");
    atomic_init(&service->ready, false);
    message_write(&service->probe, shard->model, settings->version, NULL, 0, service->probe_lengths,
                  shard->table_count);
    return true;
}

void service_close(RemoteService *service) {
    const int64_t count = service->replica_count;
    service->replica_count = 0; /* nothing is sent any more */
    for (int64_t i = 0; i < count; i++) unlist(service->replicas[i]);
    free(service->replicas);
    service->replicas = NULL;
}

void service_free(RemoteService *service) {
    free(service->probe_lengths);
}
