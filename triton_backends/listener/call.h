/* A call from its first header to the last byte of its answer. */
#ifndef ELASTICREC_CALL_H
#define ELASTICREC_CALL_H

#include <stdatomic.h>

#include "../native/triton.h"
#include "../wire/incoming.h"
#include "../wire/status.h"

enum { DETAILS_BYTES = 512, STATUS_BYTES = 4 };

typedef struct Session Session;

/* Held by its stream until that is closed, and by Triton until it has answered and let go of the request. */
typedef struct Call Call;
struct Call {
    Session *session; /* held as long as the call is there */
    atomic_int holders;
    Call *previous, *next; /* of the session's open streams, or of those that are closed */
    Call *after;           /* that is to be made */
    int32_t stream;        /* 0: it is closed */

    bool known;     /* it is a ModelInfer */
    int status;     /* gRPC's, of the answer */
    char details[DETAILS_BYTES], status_text[STATUS_BYTES];
    Incoming request;

    TRITONSERVER_InferenceResponse *response; /* whose buffers the answer's pieces are */
    Message answer;
    size_t sent;
    bool answered; /* the session counts it */
};

/* Who asks Triton. */
typedef struct {
    TRITONSERVER_Server *server;
    TRITONSERVER_ResponseAllocator *allocator;
} Core;

bool core_open(TRITONBACKEND_Model *model, Core *core, Problem *problem);
void core_close(Core *core);

/* Note an error that is the call's answer; what was noted first stays. */
void call_fail(Call *call, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Have Triton answer a call whose request is there; `session_answer` is called then, in whatever thread. */
void call_make(Call *call, const Core *core);

/* One of its holders lets go of it. */
void call_release(Call *call);

#endif
