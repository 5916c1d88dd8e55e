/* A query's calls, one to each embedding service that holds an id of it, all at the same time. A call survives the loss
 * of a replica: where one is gone or answers wrongly another is asked, once; where one is slow a second is asked too, if
 * that is wanted. */
#ifndef ELASTICREC_CALLS_H
#define ELASTICREC_CALLS_H

#include "replicas.h"

enum { MOST_ATTEMPTS = 3 }; /* the first, its hedge, and the retry */

typedef struct Attempt Attempt; /* a call as one replica gets it */
typedef struct Query Query;

typedef struct {
    Query *query;
    RemoteService *service;
    Message message;
    int64_t ids;       /* that it asks for */
    AnswerShape *shapes; /* of the answer's tensors, in the order of the service's groups */
    const void **sums; /* likewise, where there is an answer */
    Timer hedge;
    Attempt *attempts[MOST_ATTEMPTS]; /* whose answers are waited for */
    int attempt_count;
    int64_t tried[MOST_ATTEMPTS];
    int tried_count;
    bool under_way, retried, missing;
    uint8_t *answer; /* holds the sums; NULL: not asked, or missing */
} Call;

/* A query under way, at the longest until its deadline: no answer of later is waited for. */
struct Query {
    Query *next;
    /* `failed`, `problem`, `degraded` and the calls' sums are known; in any order. Frees the query. */
    void (*answered)(Query *query);
    int64_t left; /* calls under way */
    int64_t call_count;
    bool degrade, beginning, failed, degraded;
    Problem problem;
    Timer deadline;
    uint64_t begin_ns;
    Call *calls; /* one per service; message, ids, shapes and room for sums are the caller's to fill in */
};

/* Make the calls; where none is needed it is answered at once. */
void query_begin(Query *query, uint64_t deadline_ns);

/* Ask a replica that is not ready whether it serves again. */
void probe(Replica *replica);

#endif
