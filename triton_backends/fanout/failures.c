#include "failures.h"

#include <string.h>

/* Triton, with INTERNAL: "Stub process 'rm1_tier0_0_0' is not healthy" */
static const char *const DEAD_STUB = "is not healthy";

/* Likewise: "Failed to increase the shared memory pool size for key ...: No space left on device" */
static const char *const FULL_SHM = "shared memory pool";

Reason failure_reason(int status, const char *details) {
    switch (status) {
        case GRPC_UNAVAILABLE:
        case GRPC_NOT_FOUND:
        case GRPC_UNIMPLEMENTED: return GONE;
        case GRPC_INVALID_ARGUMENT:
        case GRPC_OUT_OF_RANGE: return REFUSED;
        default: break; /* DEADLINE_EXCEEDED too: a server is told of no deadline */
    }
    if (strstr(details, DEAD_STUB) != NULL) return GONE;
    return strstr(details, FULL_SHM) != NULL ? FULL : WRONG;
}

const char *reason_label(Reason reason) {
    static const char *const labels[REASONS] = {"gone", "timeout", "full", "wrong", "refused"};
    return labels[reason];
}

const char *status_name(int status) {
    static const char *const names[GRPC_STATUSES] = {
        "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
        "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
        "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"};
    return status >= 0 && status < GRPC_STATUSES ? names[status] : "UNKNOWN";
}
