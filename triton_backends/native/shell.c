/* Triton's entry points. */
#include "shell.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "spare_memory.h"

TRITONSERVER_Error *TRITONBACKEND_Initialize(TRITONBACKEND_Backend *backend) {
    (void)backend;
    uint32_t major, minor;
    TRITONSERVER_Error *error = TRITONBACKEND_ApiVersion(&major, &minor);
    if (error != NULL || major == TRITON_API_MAJOR) return error;
    Problem problem;
    fail(&problem, "elasticrec: expected version %d of Triton's backend API, this server has %u.%u", TRITON_API_MAJOR,
         major, minor);
    return TRITONSERVER_ErrorNew(TRITON_ERROR_UNSUPPORTED, problem.text);
}

TRITONSERVER_Error *TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model *model) {
    int artifact;
    const char *location;
    uint64_t version;
    Problem problem;
    TRITONSERVER_Error *error = TRITONBACKEND_ModelRepository(model, &artifact, &location);
    if (error == NULL) error = TRITONBACKEND_ModelVersion(model, &version);
    if (error != NULL) return error;
    const size_t room = strlen(location) + 32;
    char *folder = malloc(room);
    if (folder == NULL) return TRITONSERVER_ErrorNew(TRITON_ERROR_INTERNAL, "out of memory");
    snprintf(folder, room, "%s/%llu", location, (unsigned long long)version);
    void *state = model_open(model, folder, &problem);
    free(folder);
    if (state == NULL) return TRITONSERVER_ErrorNew(TRITON_ERROR_INVALID_ARG, problem.text);
    error = TRITONBACKEND_ModelSetState(model, state);
    if (error != NULL) model_close(state);
    else spare_memory_watch();
    return error;
}

TRITONSERVER_Error *TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model *model) {
    void *state = NULL;
    TRITONSERVER_Error *error = TRITONBACKEND_ModelState(model, &state);
    if (error != NULL || state == NULL) return error;
    model_close(state);
    spare_memory_leave();
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance *instance,
                                                       TRITONBACKEND_Request **requests, uint32_t request_count) {
    TRITONBACKEND_Model *model;
    void *state = NULL;
    TRITONSERVER_Error *error = TRITONBACKEND_ModelInstanceState(instance, &state);
    if (error == NULL && state == NULL) {
        error = TRITONBACKEND_ModelInstanceModel(instance, &model);
        if (error == NULL) error = TRITONBACKEND_ModelState(model, &state);
    }
    if (error != NULL) return error; /* the requests are Triton's then */
    model_execute(state, instance, requests, request_count);
    return NULL;
}
