/* A connection's HTTP/2: one thread reads, and all that have an answer write. */
#ifndef ELASTICREC_SESSION_H
#define ELASTICREC_SESSION_H

#include <pthread.h>

#include "../wire/nghttp2.h"
#include "call.h"
#include "gate.h"

/* Held by the listener until it has ended, and by each of its calls. */
struct Session {
    atomic_int holders;
    Session *next; /* in the listener's list */
    Gate *gate;
    Buffer *read;  /* what it is reading */
    Tls *tls;      /* NULL: plain text */
    bool met;      /* it is plain text, or the handshake is done; until then only the listener knows the session */
    uint64_t opened_ns; /* the listener's */
    pthread_mutex_t lock; /* of all that follows */
    Channel channel;
    nghttp2_session *http2;
    Call *calls; /* whose streams are open */
    Call *complete, **last_complete; /* that are to be made, in this order */
    Call *closed; /* whose streams are, though their last bytes may not be sent yet */
    int answered;   /* of the open streams' calls: their answers are not sent whole */
    bool unsent;    /* the gate counts it */
    bool ended;     /* the listener is to bury it */
};

bool session_load(Problem *problem); /* HTTP/2's library */

/* A new session on an accepted socket, which it takes; NULL where there is no memory for it. */
Session *session_open(Gate *gate, int socket, Tls *tls);

/* Its socket is ready: go on with the handshake, and no further; or read, and make what calls are complete. intake: the
 * listener's. False: it has ended. */
bool session_ready(Session *session, const Core *core, Intake *intake);

/* The listener lets go of it: the connection is closed. */
void session_bury(Session *session);
void session_release(Session *session);

/* A call has its answer, or its error. */
void session_answer(Call *call);

#endif
