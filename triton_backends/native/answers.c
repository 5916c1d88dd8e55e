/* Queries answered one after another, in Triton's own thread. */
#include "answers.h"

/* Answer one request, whatever comes of it; it is no longer ours afterwards. Returns whether it was a good one. */
static bool serve(TRITONBACKEND_ModelInstance *instance, const void *model, TRITONBACKEND_Request *request) {
    const uint64_t begin_ns = now_ns();
    Problem problem;
    TRITONBACKEND_Response *response = NULL;
    const bool answered = passed(TRITONBACKEND_ResponseNew(&response, request), &problem) &&
                          model_answer(model, request, response, &problem);
    const uint64_t end_ns = now_ns();
    TRITONSERVER_Error *error = answered ? NULL : TRITONSERVER_ErrorNew(TRITON_ERROR_INVALID_ARG, problem.text);
    if (response != NULL) log_error(TRITONBACKEND_ResponseSend(response, TRITON_RESPONSE_FINAL, error));
    if (error != NULL) TRITONSERVER_ErrorDelete(error);
    log_error(TRITONBACKEND_ModelInstanceReportStatistics(instance, request, answered, begin_ns, begin_ns, end_ns,
                                                          end_ns));
    log_error(TRITONBACKEND_RequestRelease(request, TRITON_RELEASE_ALL));
    return answered;
}

void model_execute(void *model, TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request **requests,
                   uint32_t request_count) {
    const uint64_t begin_ns = now_ns();
    uint32_t answered = 0;
    for (uint32_t i = 0; i < request_count; i++) answered += serve(instance, model, requests[i]);
    const uint64_t end_ns = now_ns();
    if (answered > 0)
        log_error(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, answered, begin_ns, begin_ns, end_ns,
                                                                   end_ns));
}
