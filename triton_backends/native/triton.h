/* The part of Triton's backend API (version 1) that our backends use.
 *
 * Triton promises that functions and values of one major version stay as they are, and resolves the functions when it
 * loads a backend: so no header and no library of Triton is needed to compile. The objects are opaque, owned by the
 * server unless said otherwise. A function that returns an `Error *` returns NULL where all went well; the error is
 * the caller's to delete. Source: include/triton/core/tritonbackend.h and tritonserver.h of triton-inference-server/core.
 */
#ifndef ELASTICREC_TRITON_H
#define ELASTICREC_TRITON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRITON_ENTRY_POINT __attribute__((visibility("default")))

typedef struct TRITONSERVER_Error TRITONSERVER_Error;
typedef struct TRITONSERVER_Message TRITONSERVER_Message;
typedef struct TRITONSERVER_Metric TRITONSERVER_Metric;
typedef struct TRITONSERVER_MetricFamily TRITONSERVER_MetricFamily;
typedef struct TRITONSERVER_Parameter TRITONSERVER_Parameter;
typedef struct TRITONSERVER_Server TRITONSERVER_Server;
typedef struct TRITONSERVER_InferenceRequest TRITONSERVER_InferenceRequest;
typedef struct TRITONSERVER_InferenceResponse TRITONSERVER_InferenceResponse;
typedef struct TRITONSERVER_ResponseAllocator TRITONSERVER_ResponseAllocator;
typedef struct TRITONSERVER_InferenceTrace TRITONSERVER_InferenceTrace;
typedef struct TRITONBACKEND_Backend TRITONBACKEND_Backend;
typedef struct TRITONBACKEND_Model TRITONBACKEND_Model;
typedef struct TRITONBACKEND_ModelInstance TRITONBACKEND_ModelInstance;
typedef struct TRITONBACKEND_Request TRITONBACKEND_Request;
typedef struct TRITONBACKEND_Response TRITONBACKEND_Response;
typedef struct TRITONBACKEND_Input TRITONBACKEND_Input;
typedef struct TRITONBACKEND_Output TRITONBACKEND_Output;

/* Values of TRITONBACKEND_API_VERSION_MAJOR, TRITONSERVER_Error_Code, _DataType, _MemoryType, _LogLevel,
 * _InstanceGroupKind, _RequestReleaseFlag, _ResponseCompleteFlag, TRITONSERVER_MetricKind and _ParameterType. */
enum { TRITON_API_MAJOR = 1, TRITON_CONFIG_VERSION = 1 };
enum {
    TRITON_ERROR_INTERNAL = 1,
    TRITON_ERROR_NOT_FOUND = 2,
    TRITON_ERROR_INVALID_ARG = 3,
    TRITON_ERROR_UNAVAILABLE = 4,
    TRITON_ERROR_UNSUPPORTED = 5,
    TRITON_ERROR_ALREADY_EXISTS = 6,
    TRITON_ERROR_CANCELLED = 7
};
enum { TRITON_TYPE_BOOL = 1, TRITON_TYPE_INT32 = 8, TRITON_TYPE_INT64 = 9, TRITON_TYPE_FP32 = 11, TRITON_TYPES = 15 };
enum { TRITON_MEMORY_CPU = 0, TRITON_MEMORY_CPU_PINNED = 1, TRITON_MEMORY_GPU = 2 };
enum { TRITON_LOG_WARN = 1, TRITON_LOG_ERROR = 2 };
enum { TRITON_KIND_GPU = 2 };
enum { TRITON_METRIC_COUNTER = 0, TRITON_METRIC_GAUGE = 1, TRITON_PARAMETER_STRING = 0 };
enum { TRITON_RELEASE_ALL = 1, TRITON_RESPONSE_FINAL = 1 };

TRITONSERVER_Error *TRITONSERVER_ErrorNew(int code, const char *message);
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error *error);
const char *TRITONSERVER_ErrorMessage(TRITONSERVER_Error *error);
int TRITONSERVER_ErrorCode(TRITONSERVER_Error *error);
TRITONSERVER_Error *TRITONSERVER_LogMessage(int level, const char *file, int line, const char *message);

/* metrics live until they are deleted, before their family; labels are copied */
TRITONSERVER_Error *TRITONSERVER_MetricFamilyNew(TRITONSERVER_MetricFamily **family, int kind, const char *name,
                                                 const char *description);
TRITONSERVER_Error *TRITONSERVER_MetricFamilyDelete(TRITONSERVER_MetricFamily *family);
TRITONSERVER_Error *TRITONSERVER_MetricNew(TRITONSERVER_Metric **metric, TRITONSERVER_MetricFamily *family,
                                           const TRITONSERVER_Parameter **labels, uint64_t label_count);
TRITONSERVER_Error *TRITONSERVER_MetricDelete(TRITONSERVER_Metric *metric);
TRITONSERVER_Error *TRITONSERVER_MetricIncrement(TRITONSERVER_Metric *metric, double amount);
TRITONSERVER_Error *TRITONSERVER_MetricSet(TRITONSERVER_Metric *metric, double value); /* a gauge's */
TRITONSERVER_Parameter *TRITONSERVER_ParameterNew(const char *name, int type, const void *value);
void TRITONSERVER_ParameterDelete(TRITONSERVER_Parameter *parameter);

/* the text lives as long as its message, and need not end with 0 */
TRITONSERVER_Error *TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message *message, const char **text, size_t *size);
TRITONSERVER_Error *TRITONSERVER_MessageDelete(TRITONSERVER_Message *message);

TRITONSERVER_Error *TRITONBACKEND_ApiVersion(uint32_t *major, uint32_t *minor);

/* `artifact` is 0: files in the folder `location`, the model's; its versions' folders lie in it */
TRITONSERVER_Error *TRITONBACKEND_ModelRepository(TRITONBACKEND_Model *model, int *artifact, const char **location);
TRITONSERVER_Error *TRITONBACKEND_ModelVersion(TRITONBACKEND_Model *model, uint64_t *version);
TRITONSERVER_Error *TRITONBACKEND_ModelConfig(TRITONBACKEND_Model *model, uint32_t version,
                                              TRITONSERVER_Message **config);
TRITONSERVER_Error *TRITONBACKEND_ModelState(TRITONBACKEND_Model *model, void **state);
TRITONSERVER_Error *TRITONBACKEND_ModelSetState(TRITONBACKEND_Model *model, void *state);
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance *instance,
                                                     TRITONBACKEND_Model **model);
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceKind(TRITONBACKEND_ModelInstance *instance, int *kind);
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceDeviceId(TRITONBACKEND_ModelInstance *instance, int32_t *device);
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceState(TRITONBACKEND_ModelInstance *instance, void **state);
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceSetState(TRITONBACKEND_ModelInstance *instance, void *state);

/* a tensor may come in several buffers, whose bytes need not be as many as its shape asks for */
TRITONSERVER_Error *TRITONBACKEND_RequestInput(TRITONBACKEND_Request *request, const char *name,
                                               TRITONBACKEND_Input **input);
TRITONSERVER_Error *TRITONBACKEND_InputProperties(TRITONBACKEND_Input *input, const char **name, int *datatype,
                                                  const int64_t **shape, uint32_t *dims, uint64_t *byte_size,
                                                  uint32_t *buffer_count);
/* memory type and id: in, what we would like; out, what it is */
TRITONSERVER_Error *TRITONBACKEND_InputBuffer(TRITONBACKEND_Input *input, uint32_t index, const void **buffer,
                                              uint64_t *byte_size, int *memory_type, int64_t *memory_type_id);

/* a response is ours until it is sent; all its outputs must have their buffers by then */
TRITONSERVER_Error *TRITONBACKEND_ResponseNew(TRITONBACKEND_Response **response, TRITONBACKEND_Request *request);
TRITONSERVER_Error *TRITONBACKEND_ResponseOutput(TRITONBACKEND_Response *response, TRITONBACKEND_Output **output,
                                                 const char *name, int datatype, const int64_t *shape, uint32_t dims);
TRITONSERVER_Error *TRITONBACKEND_OutputBuffer(TRITONBACKEND_Output *output, void **buffer, uint64_t byte_size,
                                               int *memory_type, int64_t *memory_type_id);
TRITONSERVER_Error *TRITONBACKEND_ResponseSend(TRITONBACKEND_Response *response, uint32_t flags,
                                               TRITONSERVER_Error *error);

/* times in ns of CLOCK_MONOTONIC; of a request before it is released */
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportStatistics(TRITONBACKEND_ModelInstance *instance,
                                                                TRITONBACKEND_Request *request, bool success,
                                                                uint64_t begin_ns, uint64_t compute_begin_ns,
                                                                uint64_t compute_end_ns, uint64_t end_ns);
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportBatchStatistics(TRITONBACKEND_ModelInstance *instance,
                                                                     uint64_t batch_size, uint64_t begin_ns,
                                                                     uint64_t compute_begin_ns,
                                                                     uint64_t compute_end_ns, uint64_t end_ns);
TRITONSERVER_Error *TRITONBACKEND_RequestRelease(TRITONBACKEND_Request *request, uint32_t flags);

/* ---- asking the server that we are in, as its own front ends do ---- */

/* an allocator gives a response's outputs their memory, and takes it back; the response and both callbacks' pointers are
 * those that a request was given */
typedef TRITONSERVER_Error *TRITONSERVER_AllocateFn(TRITONSERVER_ResponseAllocator *allocator, const char *name,
                                                    size_t byte_size, int memory_type, int64_t memory_type_id,
                                                    void *user, void **buffer, void **buffer_user,
                                                    int *actual_memory_type, int64_t *actual_memory_type_id);
typedef TRITONSERVER_Error *TRITONSERVER_FreeFn(TRITONSERVER_ResponseAllocator *allocator, void *buffer,
                                                void *buffer_user, size_t byte_size, int memory_type,
                                                int64_t memory_type_id);
typedef TRITONSERVER_Error *TRITONSERVER_StartFn(TRITONSERVER_ResponseAllocator *allocator, void *user);
typedef void TRITONSERVER_ReleaseFn(TRITONSERVER_InferenceRequest *request, uint32_t flags, void *user);
typedef void TRITONSERVER_CompleteFn(TRITONSERVER_InferenceResponse *response, uint32_t flags, void *user);

TRITONSERVER_Error *TRITONBACKEND_ModelServer(TRITONBACKEND_Model *model, TRITONSERVER_Server **server);
TRITONSERVER_Error *TRITONSERVER_ResponseAllocatorNew(TRITONSERVER_ResponseAllocator **allocator,
                                                      TRITONSERVER_AllocateFn *allocate, TRITONSERVER_FreeFn *free,
                                                      TRITONSERVER_StartFn *start);
TRITONSERVER_Error *TRITONSERVER_ResponseAllocatorDelete(TRITONSERVER_ResponseAllocator *allocator);

/* a request is ours until it is released, what its inputs point at too; version -1: the newest */
TRITONSERVER_Error *TRITONSERVER_InferenceRequestNew(TRITONSERVER_InferenceRequest **request,
                                                     TRITONSERVER_Server *server, const char *model, int64_t version);
TRITONSERVER_Error *TRITONSERVER_InferenceRequestDelete(TRITONSERVER_InferenceRequest *request);
TRITONSERVER_Error *TRITONSERVER_InferenceRequestAddInput(TRITONSERVER_InferenceRequest *request, const char *name,
                                                          int datatype, const int64_t *shape, uint64_t dims);
TRITONSERVER_Error *TRITONSERVER_InferenceRequestAppendInputData(TRITONSERVER_InferenceRequest *request,
                                                                 const char *name, const void *base, size_t byte_size,
                                                                 int memory_type, int64_t memory_type_id);
TRITONSERVER_Error *TRITONSERVER_InferenceRequestSetReleaseCallback(TRITONSERVER_InferenceRequest *request,
                                                                    TRITONSERVER_ReleaseFn *release, void *user);
TRITONSERVER_Error *TRITONSERVER_InferenceRequestSetResponseCallback(TRITONSERVER_InferenceRequest *request,
                                                                     TRITONSERVER_ResponseAllocator *allocator,
                                                                     void *allocator_user,
                                                                     TRITONSERVER_CompleteFn *complete, void *user);

/* where it fails no callback is called, and the request stays ours */
TRITONSERVER_Error *TRITONSERVER_ServerInferAsync(TRITONSERVER_Server *server, TRITONSERVER_InferenceRequest *request,
                                                  TRITONSERVER_InferenceTrace *trace);

/* a response is ours to delete; its error and what it points at are its own */
TRITONSERVER_Error *TRITONSERVER_InferenceResponseError(TRITONSERVER_InferenceResponse *response);
TRITONSERVER_Error *TRITONSERVER_InferenceResponseDelete(TRITONSERVER_InferenceResponse *response);
TRITONSERVER_Error *TRITONSERVER_InferenceResponseModel(TRITONSERVER_InferenceResponse *response, const char **name,
                                                        int64_t *version);
TRITONSERVER_Error *TRITONSERVER_InferenceResponseOutputCount(TRITONSERVER_InferenceResponse *response,
                                                              uint32_t *count);
TRITONSERVER_Error *TRITONSERVER_InferenceResponseOutput(TRITONSERVER_InferenceResponse *response, uint32_t index,
                                                         const char **name, int *datatype, const int64_t **shape,
                                                         uint64_t *dims, const void **base, size_t *byte_size,
                                                         int *memory_type, int64_t *memory_type_id, void **user);

/* what Triton calls in a backend: see shell.c; ModelInstanceInitialize and _Finalize only where a backend has them */
TRITON_ENTRY_POINT TRITONSERVER_Error *TRITONBACKEND_Initialize(TRITONBACKEND_Backend *backend);
TRITON_ENTRY_POINT TRITONSERVER_Error *TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model *model);
TRITON_ENTRY_POINT TRITONSERVER_Error *TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model *model);
TRITON_ENTRY_POINT TRITONSERVER_Error *TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance *instance);
TRITON_ENTRY_POINT TRITONSERVER_Error *TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance *instance);
TRITON_ENTRY_POINT TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance *instance,
                                                                          TRITONBACKEND_Request **requests,
                                                                          uint32_t request_count);

#endif
