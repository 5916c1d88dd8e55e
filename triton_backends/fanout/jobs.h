/* Queries that Triton hands over together: they are routed, asked and answered as one. */
#ifndef ELASTICREC_JOBS_H
#define ELASTICREC_JOBS_H

#include "../native/queries.h"
#include "watcher.h"

typedef struct {
    Router *router;
    Settings settings;
    Tls *tls;
    Counters *counters;
    Engine *engine;
    Watcher *watcher;
    char *addresses;
    atomic_int_fast64_t in_flight;
} Model;

/* A client's query. */
typedef struct {
    TRITONBACKEND_Request *request;
    QueryInputs inputs; /* until it is routed */
    int64_t *rows;      /* of each group */
    int64_t position;   /* the first of its ids' positions */
    uint64_t begin_ns;
} Member;

/* The queries of one call of Triton's. */
typedef struct {
    Query query;
    Model *model;
    TRITONBACKEND_ModelInstance *instance;
    Member *members;
    uint32_t member_count;
    int64_t *rows;    /* of each group, of all; then those of the members */
    int64_t *asked;   /* of each group, of all, that a service is asked for; then those of the next one */
    Unit *units;      /* what they are routed to */
    int32_t *indexes; /* of units whose bags are packed */
    RowSet set;       /* the rows that are asked for as they are */
    AnsweredRows *found; /* what each unit answered */
    const void **sums;
} Job;

/* ---- packing.c ---- */

/* Make of what all members are routed to what services are asked for; false where memory is out. */
bool job_pack(Job *job);

/* ---- answering.c ---- */

/* Answer all members by what the services answered, and free the job. */
void job_answer(Query *query);
void job_free(Job *job);

/* Answer a query with an error. */
void refuse(Job *job, const Member *member, int code, const char *why);

#endif
