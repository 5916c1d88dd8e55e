/* A query's calls, one to each embedding service that holds an id of it, all at the same time. Where all replicas of a
 * service are busy with calls of ours, calls wait for the first that is free, and then go together (`bundles.h`). */
#ifndef ELASTICREC_CALLS_H
#define ELASTICREC_CALLS_H

#include "replicas.h"

typedef struct Bundle Bundle; /* calls that go together to a replica */
typedef struct Query Query;

/* The rows that a unit answered as they are. */
typedef struct {
    const char *numbers; /* NULL: it is missing */
    const int32_t *index; /* which of them is the n-th that the call asks for; NULL: the n-th */
} AnsweredRows;

struct Call {
    Query *query;
    RemoteService *service;
    const Unit *units;   /* what the query is routed to, at all services */
    const int64_t *rows; /* of each group, that it asks for */
    int64_t ids;         /* that it asks for */
    Call *next, **link; /* among those that wait; link: what points to it, NULL where it does not wait */
    uint64_t wait_ns;   /* since when */
    Bundle *bundle;     /* that it went with; it holds the answer */
    int64_t position;   /* there */
    const int64_t *begin; /* rows of each group before its own there */
    bool under_way, missing, answered;
    const void **sums;  /* where it is answered: of each of the service's tensors of sums */
    AnsweredRows *found; /* likewise, of each un-pooled unit of it; by units as `units` */
};

/* A query under way, at the longest until its deadline: no answer of later is waited for. */
struct Query {
    Query *next;
    /* `failed`, `problem`, `degraded` and the calls' sums are known; in any order. Frees the query. */
    void (*answered)(Query *query);
    int64_t left; /* calls under way */
    int64_t call_count;
    int64_t client_queries; /* that it was joined of */
    const int64_t *rows;    /* of each group, that these have */
    bool degrade, beginning, failed, degraded;
    Problem problem;
    Timer deadline;
    uint64_t begin_ns;
    Call *calls; /* one per service; service, units, rows, ids and room for sums and found are the caller's to fill in */
};

/* Make the calls; where none is needed it is answered at once. */
void query_begin(Query *query, uint64_t deadline_ns);

/* A call's sums and rows are not needed any more. */
void call_close(Call *call);

/* Ask a replica that is not ready whether it serves again. */
void probe(Replica *replica);

#endif
