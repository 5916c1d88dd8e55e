/* The replicas of one embedding service, each behind one connection that is kept open, and which of them takes a call.
 *
 * A replica that fails is set aside (Envoy and gRPC's proposal A50 call it outlier ejection): at once where it is gone or
 * does not answer, after a few wrong answers in a row where another replica answered the same call rightly, so that a bad
 * query is never its fault. It rests longer each time, up to a minute, as theirs do. Unlike theirs it then has to answer
 * a probe, and after wrong answers it gets one query at a time until one is answered rightly. All may be gone: then none
 * rests, and all are asked all the same (Envoy's panic); wrong answers never set the last one aside. */
#ifndef ELASTICREC_REPLICAS_H
#define ELASTICREC_REPLICAS_H

#include <stdatomic.h>

#include "counters.h"
#include "http2.h"
#include "latency.h"

typedef struct RemoteService RemoteService;
typedef struct Call Call; /* of a query */

/* A server. Not ready until it has answered a first call. */
typedef struct {
    ConnectionOwner owner; /* of `connection`, which is NULL where there is none */
    Connection *connection;
    RemoteService *service;
    Address address;
    int64_t number;    /* no other replica ever has it */
    int64_t in_flight; /* calls whose answers are waited for */
    int64_t references; /* the service's list, and calls */
    bool listed, ready, probing;
    uint64_t connect_at_ns; /* not sooner again */
    int64_t goodbyes;       /* connections in a row that the server ended before an answer */
    Problem problem;        /* why there is no connection */
    int64_t wrong, good;    /* answers in a row */
    Problem fault;          /* of the last wrong one */
    uint64_t rest_until_ns, rest_ns; /* rest_ns: how long, the next time */
    Problem told;                    /* why it does not serve, as the log has it */
} Replica;

struct RemoteService {
    Loop *loop;
    const RemoteShard *shard;
    const Settings *settings;
    int64_t index; /* among the services */
    Counters *counters;
    Replica **replicas;
    int64_t replica_count, next_number;
    bool closed;
    uint64_t turn;
    Call *waiting, **last_waiting; /* calls that no replica is free for, the first one first */
    int64_t waiting_count;
    Timer wake; /* to send them */
    LatencyWindow window;
    Message probe; /* the cheapest call that goes all the way: one row whose bags are empty */
    int32_t *probe_lengths;
    AnswerShape *probe_shapes;
    atomic_bool ready; /* some replica answers; read by other threads too */
};

bool service_open(RemoteService *service, Loop *loop, const Settings *settings, int64_t index, Counters *counters,
                  Problem *problem);
void service_close(RemoteService *service); /* it has no replicas any more; its memory stays until its calls have ended */
void service_free(RemoteService *service);

/* These are its replicas from now on: those that stay keep their connections, those that leave finish their calls. */
void service_set_addresses(RemoteService *service, const Address *addresses, int64_t count);

/* The ready replica with the fewest calls under way; where none is ready, one that was set aside; equals take turns.
 * A slow or frozen replica gathers calls and is so avoided before anything has timed out. One whose last answer was wrong
 * has few under way, since it answers fast, and comes last all the same. NULL where all are `tried`, by their numbers. */
Replica *service_pick(RemoteService *service, const int64_t *tried, int tried_count);

/* How many more calls the replicas that may be asked can work on now. */
int64_t service_places(const RemoteService *service);

/* A replica may be free: send calls that wait, but not within this function. In calls.c. */
void service_wake(RemoteService *service);

/* Whether a replica answers; told to the log with the reason. */
void replica_set_ready(Replica *replica);
void replica_set_aside(Replica *replica, const char *why);
bool replica_rests(const Replica *replica); /* not to be probed yet */
void replica_tell(Replica *replica, const char *why); /* to the log: why one that is not ready does not become so */

/* What it made of a call. */
void replica_answered(Replica *replica);
void replica_answered_wrongly(Replica *replica, const char *why);

/* A call that was tried on these has been answered rightly: those that answered wrongly too often are set aside. */
void service_judge(RemoteService *service, const int64_t *tried, int tried_count);

/* The connection to make a call on; NULL where there is none, and the replica's problem says why. */
Connection *replica_connection(Replica *replica);
void replica_release(Replica *replica);

#endif
