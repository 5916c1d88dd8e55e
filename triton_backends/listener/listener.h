/* Calls of an embedding service's model, taken at a port of their own.
 *
 * Triton's gRPC server wakes four threads for a call, which costs more than most calls are worth. Here one thread reads
 * the calls of all connections and hands each to Triton in this process; the thread that has the answer sends it.
 * What is spoken is Triton's own: gRPC's ModelInfer, with raw contents, in plain text or by TLS (`wire/tls.h`). */
#ifndef ELASTICREC_LISTENER_H
#define ELASTICREC_LISTENER_H

#include "../native/triton.h"
#include "../native/files.h"

typedef struct Listener Listener;

/* Listen where ELASTICREC_LISTEN says, HOST:PORT; *listener is NULL where it says nothing. By TLS where
 * ELASTICREC_LISTEN_CERT and _KEY are set, and to clients of _CA alone where that is too. False where that cannot be. */
bool listener_open(TRITONBACKEND_Model *model, Listener **listener, Problem *problem);

/* The model has so many instances more. */
void listener_instances(Listener *listener, int change);

/* Once Triton has no call of its model any more. */
void listener_close(Listener *listener);

#endif
