/* What a failed call says of the replica: whether another may answer, and whether this one should be left alone. */
#ifndef ELASTICREC_FAILURES_H
#define ELASTICREC_FAILURES_H

#include <stdbool.h>

enum {
    GRPC_OK = 0,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_NOT_FOUND = 5,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_UNAUTHENTICATED = 16,
    GRPC_STATUSES
};

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
