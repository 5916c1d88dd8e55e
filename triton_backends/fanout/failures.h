/* What a failed call says of the replica: whether another may answer, and whether this one should be left alone. */
#ifndef ELASTICREC_FAILURES_H
#define ELASTICREC_FAILURES_H

#include "../wire/status.h"

typedef enum {
    GONE,    /* no connection, shutting down, a dead Python stub, or another build's model: another may answer */
    TIMEOUT, /* no answer before the deadline */
    FULL,    /* this call is too large for the room that it has: another may answer, and it goes on serving others */
    WRONG,   /* any other answer that is none: another may know better, and one that often answers so is left alone */
    REFUSED, /* it understood and said that the query is at fault: another replica would too */
    REASONS
} Reason;

Reason failure_reason(int status, const char *details);
const char *reason_label(Reason reason); /* the metric's */
const char *status_name(int status);     /* as gRPC calls it */

#endif
