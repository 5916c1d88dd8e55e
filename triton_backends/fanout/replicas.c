#include "replicas.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../native/shell.h"
#include "requests.h"

static const uint64_t RETRY_NS = 1000000000, FIRST_RETRY_NS = 100000000; /* between two attempts to connect */
static const uint64_t FIRST_REST_NS = 1000000000, MOST_REST_NS = 60000000000;
enum {
    MOST_WRONG = 3,  /* answers in a row, then it is set aside */
    STEADY_GOOD = 64 /* answers in a row, then its next rest is short again */
};

static bool contains(const int64_t *numbers, int count, int64_t number) {
    for (int i = 0; i < count; i++)
        if (numbers[i] == number) return true;
    return false;
}

/* ---- a replica and its connection ---- */

void replica_tell(Replica *replica, const char *why) {
    if (replica->ready || !replica->listed || strcmp(why, replica->told.text) == 0) return;
    fail(&replica->told, "%s", why);
    log_warning("service %s: replica %s does not serve: %s", replica->service->shard->name, replica->address.text, why);
}

/* The next one is opened at once, so that no call waits for it; a server that has answered since the one before may end
 * them as it likes. */
static void leaving(ConnectionOwner *owner, const char *why) {
    Replica *replica = OWNER(owner, Replica, owner);
    const bool again = replica->goodbyes++ > 0;
    replica->connection = NULL;
    fail(&replica->problem, "%s%s", why, again ? ", as it does with each" : "");
    replica_tell(replica, replica->problem.text);
    if (replica->ready && !again) replica->connect_at_ns = 0;
    if (replica->listed) replica_connection(replica);
}

static void lost(ConnectionOwner *owner, const char *why) {
    Replica *replica = OWNER(owner, Replica, owner);
    replica->connection = NULL;
    fail(&replica->problem, "%s", why);
    replica_tell(replica, why);
}

Connection *replica_connection(Replica *replica) {
    Loop *loop = replica->service->loop;
    if (replica->connection != NULL || loop->now_ns < replica->connect_at_ns) return replica->connection;
    const bool lately = loop->now_ns < replica->connect_at_ns + RETRY_NS;
    replica->connect_at_ns = loop->now_ns + (lately ? RETRY_NS : FIRST_RETRY_NS);
    replica->connection = connection_open(loop, &replica->address, &replica->owner);
    if (replica->connection == NULL) fail(&replica->problem, "out of memory");
    return replica->connection;
}

void replica_release(Replica *replica) {
    if (--replica->references == 0) free(replica);
}

/* ---- whether it serves ---- */

static uint64_t longer(uint64_t rest_ns) {
    if (rest_ns == 0) return FIRST_REST_NS;
    return 2 * rest_ns < MOST_REST_NS ? 2 * rest_ns : MOST_REST_NS;
}

/* How many do not serve. */
static int64_t update_ready(RemoteService *service) {
    int64_t aside = 0;
    for (int64_t i = 0; i < service->replica_count; i++) aside += !service->replicas[i]->ready;
    atomic_store(&service->ready, aside < service->replica_count);
    gauge(service->counters, REPLICAS, service->index, (double)service->replica_count);
    gauge(service->counters, REPLICAS_ASIDE, service->index, (double)aside);
    service_wake(service);
    return aside;
}

void replica_set_ready(Replica *replica) {
    replica->goodbyes = 0;
    if (replica->ready) return;
    replica->ready = true;
    replica->told.text[0] = '\0';
    update_ready(replica->service);
    log_warning("service %s: replica %s serves", replica->service->shard->name, replica->address.text);
}

void replica_set_aside(Replica *replica, const char *why) {
    RemoteService *service = replica->service;
    if (!replica->ready) return;
    replica->ready = false;
    replica->good = 0;
    replica->rest_until_ns = service->loop->now_ns + replica->rest_ns;
    if (replica->rest_ns == 0) log_warning("%s; set aside until it answers", why);
    else log_warning("%s; set aside for %.0f s, and until it answers", why, (double)replica->rest_ns / 1e9);
    replica->rest_ns = longer(replica->rest_ns);
    count(service->counters, SET_ASIDE, service->index, 1);
    if (update_ready(service) == service->replica_count && replica->listed)
        log_warning("service %s: all its replicas are set aside; %s", service->shard->name,
                    service->settings->degrade ? "queries go without it until one answers" : "they are asked all the same");
}

bool replica_rests(const Replica *replica) {
    const RemoteService *service = replica->service;
    return atomic_load(&service->ready) && service->loop->now_ns < replica->rest_until_ns;
}

void replica_answered(Replica *replica) {
    replica->wrong = 0;
    if (++replica->good >= STEADY_GOOD) replica->rest_ns = 0;
    replica_set_ready(replica);
}

void replica_answered_wrongly(Replica *replica, const char *why) {
    replica->wrong++;
    replica->good = 0;
    fail(&replica->fault, "%s", why);
}

void service_judge(RemoteService *service, const int64_t *tried, int tried_count) {
    for (int64_t i = 0; i < service->replica_count; i++) {
        Replica *replica = service->replicas[i];
        if (replica->wrong < MOST_WRONG || !replica->ready || !contains(tried, tried_count, replica->number)) continue;
        Problem problem;
        fail(&problem, "%.400s; its answers were wrong %lld times in a row, and another's right", replica->fault.text,
             (long long)replica->wrong);
        if (replica->rest_ns == 0) replica->rest_ns = FIRST_REST_NS;
        replica_set_aside(replica, problem.text);
    }
}

/* ---- a service's replicas ---- */

static Replica *replica_new(RemoteService *service, const Address *address) {
    Replica *replica = calloc(1, sizeof *replica);
    if (replica == NULL) return NULL;
    replica->owner = (ConnectionOwner){leaving, lost};
    replica->service = service;
    replica->address = *address;
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

static Replica *take(RemoteService *service, const Address *address) {
    for (int64_t i = 0; i < service->replica_count; i++) {
        Replica *replica = service->replicas[i];
        if (replica == NULL || strcmp(replica->address.text, address->text) != 0) continue;
        service->replicas[i] = NULL;
        return replica;
    }
    return replica_new(service, address);
}

static void log_replicas(const RemoteService *service) {
    char text[400];
    size_t length = 0;
    for (int64_t i = 0; i < service->replica_count && length < sizeof text; i++)
        length += (size_t)snprintf(text + length, sizeof text - length, "%s%s", i > 0 ? ", " : "",
                                   service->replicas[i]->address.text);
    log_warning("service %s: replicas %s", service->shard->name, service->replica_count > 0 ? text : "none");
}

void service_set_addresses(RemoteService *service, const Address *addresses, int64_t count) {
    Replica **replicas = calloc((size_t)count + 1, sizeof *replicas);
    if (replicas == NULL) return log_warning("service %s: out of memory", service->shard->name);
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++)
        if ((replicas[kept] = take(service, addresses + i)) != NULL) kept++;
    for (int64_t i = 0; i < service->replica_count; i++)
        if (service->replicas[i] != NULL) unlist(service->replicas[i]);
    free(service->replicas);
    service->replicas = replicas;
    service->replica_count = kept;
    update_ready(service);
    log_replicas(service);
}

/* Not worth a second call at the same time, nor the last try of one that has failed already. */
static bool doubtful(const Replica *replica, bool again) {
    return replica->wrong > 0 && (again || replica->in_flight > 0);
}

static bool worse(const Replica *one, const Replica *other, bool again) {
    if (one->ready != other->ready) return other->ready;
    if (doubtful(one, again) != doubtful(other, again)) return doubtful(one, again);
    return one->in_flight > other->in_flight;
}

Replica *service_pick(RemoteService *service, const int64_t *tried, int tried_count) {
    Replica *best = NULL;
    service->turn++;
    for (int64_t i = 0; i < service->replica_count; i++) {
        Replica *replica = service->replicas[(service->turn + (uint64_t)i) % (uint64_t)service->replica_count];
        if (contains(tried, tried_count, replica->number)) continue;
        if (best == NULL || worse(best, replica, tried_count > 0)) best = replica;
    }
    return best;
}

int64_t service_places(const RemoteService *service) {
    const bool any_ready = atomic_load(&service->ready);
    int64_t places = 0;
    for (int64_t i = 0; i < service->replica_count; i++) {
        const Replica *replica = service->replicas[i];
        const int64_t left = service->shard->instances - replica->in_flight;
        if (left > 0 && (replica->ready || !any_ready)) places += left;
    }
    return places;
}

/* One row of each group, whose bags are empty. */
static bool make_probe(RemoteService *service, const Settings *settings) {
    const RemoteShard *shard = service->shard;
    const RoutedPart *last = shard->groups[shard->group_count - 1].part;
    int64_t most = 1, ids;
    for (int64_t g = 0; g < shard->group_count; g++)
        if (shard->groups[g].part->bags > most) most = shard->groups[g].part->bags;
    service->probe_lengths = calloc((size_t)most, sizeof *service->probe_lengths);
    service->probe_shapes = calloc((size_t)shard->tensor_count, sizeof *service->probe_shapes);
    int64_t *rows = calloc((size_t)last->group + 1, sizeof *rows);
    Unit *units = calloc((size_t)last->end, sizeof *units);
    bool good = service->probe_lengths != NULL && service->probe_shapes != NULL && rows != NULL && units != NULL;
    for (int64_t u = 0; good && u < last->end; u++)
        units[u] = (Unit){.lengths = service->probe_lengths, .bags = settings->router->units[u].bags};
    for (int64_t g = 0; good && g <= last->group; g++) rows[g] = 1;
    good = good && request_write(settings, shard, units, rows, &service->probe, &ids);
    if (good) request_shapes(settings, shard, units, rows, service->probe_shapes);
    free(units);
    free(rows);
    return good;
}

bool service_open(RemoteService *service, Loop *loop, const Settings *settings, int64_t index, Counters *counters,
                  Problem *problem) {
    const RemoteShard *shard = settings->services + index;
    *service = (RemoteService){.loop = loop, .shard = shard, .settings = settings, .index = index, .counters = counters};
    service->last_waiting = &service->waiting;
    atomic_init(&service->ready, false);
    return make_probe(service, settings) || fail(problem, "out of memory");
}

void service_close(RemoteService *service) {
    const int64_t count = service->replica_count;
    service->replica_count = 0; /* nothing is sent any more */
    service->closed = true;
    for (int64_t i = 0; i < count; i++) unlist(service->replicas[i]);
    free(service->replicas);
    service->replicas = NULL;
}

void service_free(RemoteService *service) {
    message_close(&service->probe);
    free(service->probe_lengths);
    free(service->probe_shapes);
}
