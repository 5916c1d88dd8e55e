/* What the fan-out router must know of its fleet, as the build wrote it (`fanout.json`). */
#ifndef ELASTICREC_SETTINGS_H
#define ELASTICREC_SETTINGS_H

#include "../native/files.h"
#include "../native/router.h"
#include "messages.h"

/* A group of which a service holds look-ups. */
typedef struct {
    const RoutedPart *part; /* what it gets */
    int64_t width;          /* of its sums; 0 where it has none */
    int64_t tensor;         /* the first of the answer's tensors that are its: sums, then rows as they are */
    Run *runs;
    int64_t run_count;
    int64_t *dims; /* of the part's units; 0 where they have no bags */
    int64_t *to;   /* of each bag of a row, unit by unit, its first column in the joined sums */
} RemoteGroup;

typedef struct {
    char name[NAME_BYTES], model[NAME_BYTES]; /* in the plan, and on its own server */
    int64_t instances; /* calls that a replica works on at the same time */
    RemoteGroup *groups;
    int64_t group_count;
    int64_t tensor_count; /* of an answer */
} RemoteShard;

/* A look-up whose rows are answered as they are: its columns of the joined sums. */
typedef struct {
    int64_t lookup, to, dim;
} UnpooledColumns;

typedef struct {
    char name[NAME_BYTES];    /* the router's model */
    char version[NAME_BYTES]; /* that every embedding service of this build has, and none of another */
    int64_t *widths;          /* of each group's joined sums */
    int64_t width_count;
    RemoteShard *services; /* as the router has them */
    const Router *router;
    int64_t *dims;           /* of their rows; 0 where these are summed */
    UnpooledColumns *unpooled;  /* in the router's order */
    int64_t unpooled_count;
    int64_t service_count;
    int64_t deadline_us;   /* how long a query may wait for its embedding services, retries included */
    int64_t hedge_ppm;     /* a call slower than this quantile of the latest, in millionths, is sent twice; 0: never */
    int64_t max_in_flight; /* queries that may be under way; one more gets an error at once */
    int64_t degrade;       /* 1: a query is scored without a service that gives no answer; 0: it fails */
    int64_t half;          /* 1: sums travel as FP16 */
} Settings;

/* Open `fanout.json`, whose services and groups must be the router's; false and the problem where it is wrong. */
bool settings_open(const char *folder, const Router *router, Settings *settings, Problem *problem);
void settings_close(Settings *settings);

#endif
