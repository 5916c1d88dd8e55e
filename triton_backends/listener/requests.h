/* A ModelInferRequest with raw contents, as a request of Triton's. */
#ifndef ELASTICREC_LISTENER_REQUESTS_H
#define ELASTICREC_LISTENER_REQUESTS_H

#include "call.h"

/* Make the request, whose inputs point into the call's message; NULL, and the call has failed, where it is none. */
TRITONSERVER_InferenceRequest *request_of(Call *call, const Core *core);

/* Whether a function of Triton's went well; else the call has failed as a call to Triton's own gRPC would have. */
bool call_passed(Call *call, TRITONSERVER_Error *error);

#endif
