/* Triton's backend API, held in plain structs that a test fills in and reads (fake_triton.py).
 *
 * Only what our backends call, from any thread. Errors and metrics are counted, so that a test sees what was not freed. */
#include "fake_triton.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint32_t fake_api_major = 1;
atomic_int fake_live_errors = 0;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- errors and logs ---- */

Error *TRITONSERVER_ErrorNew(int code, const char *message) {
    Error *error = calloc(1, sizeof *error);
    error->code = code;
    strncpy(error->message, message, sizeof error->message - 1);
    fake_live_errors++;
    return error;
}

void TRITONSERVER_ErrorDelete(Error *error) {
    free(error);
    fake_live_errors--;
}

int TRITONSERVER_ErrorCode(Error *error) { return error->code; }

const char *TRITONSERVER_ErrorMessage(Error *error) { return error->message; }

char fake_log[1 << 20];

Error *TRITONSERVER_LogMessage(int level, const char *file, int line, const char *message) {
    (void)level, (void)file, (void)line;
    pthread_mutex_lock(&lock);
    const size_t length = strlen(fake_log);
    if (length + strlen(message) + 2 < sizeof fake_log) sprintf(fake_log + length, "%s\n", message);
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* ---- metrics ---- */

typedef struct {
    char name[64], value[64];
} Parameter;

typedef struct {
    char name[64];
} Family;

/* A metric's family and labels, as Prometheus writes them, and its value. */
typedef struct {
    char series[256];
    double value;
    int32_t alive;
} Metric;

enum { METRIC_ROOM = 1024 };
Metric fake_metrics[METRIC_ROOM];
const int32_t fake_metric_room = METRIC_ROOM;
static int32_t next_metric = 0;
atomic_int fake_live_metrics = 0; /* families and parameters too */

Error *TRITONSERVER_MetricFamilyNew(Family **family, int kind, const char *name, const char *description) {
    (void)description;
    if (kind != 0 && kind != 1) return TRITONSERVER_ErrorNew(3, "no counter and no gauge");
    *family = calloc(1, sizeof **family);
    strncpy((*family)->name, name, sizeof (*family)->name - 1);
    fake_live_metrics++;
    return NULL;
}

Error *TRITONSERVER_MetricFamilyDelete(Family *family) {
    free(family);
    fake_live_metrics--;
    return NULL;
}

Parameter *TRITONSERVER_ParameterNew(const char *name, int type, const void *value) {
    (void)type;
    Parameter *parameter = calloc(1, sizeof *parameter);
    strncpy(parameter->name, name, sizeof parameter->name - 1);
    strncpy(parameter->value, value, sizeof parameter->value - 1);
    fake_live_metrics++;
    return parameter;
}

void TRITONSERVER_ParameterDelete(Parameter *parameter) {
    free(parameter);
    fake_live_metrics--;
}

Error *TRITONSERVER_MetricNew(Metric **metric, Family *family, const Parameter **labels, uint64_t label_count) {
    next_metric %= METRIC_ROOM; /* over those of ended models */
    *metric = fake_metrics + next_metric++;
    **metric = (Metric){.alive = 1};
    char *at = (*metric)->series;
    at += sprintf(at, "%s", family->name);
    for (uint64_t i = 0; i < label_count; i++)
        at += sprintf(at, "%s%s=%s", i > 0 ? "," : " ", labels[i]->name, labels[i]->value);
    fake_live_metrics++;
    return NULL;
}

Error *TRITONSERVER_MetricDelete(Metric *metric) {
    metric->alive = 0;
    fake_live_metrics--;
    return NULL;
}

Error *TRITONSERVER_MetricIncrement(Metric *metric, double amount) {
    pthread_mutex_lock(&lock);
    metric->value += amount;
    pthread_mutex_unlock(&lock);
    return NULL;
}

Error *TRITONSERVER_MetricSet(Metric *metric, double value) {
    pthread_mutex_lock(&lock);
    metric->value = value;
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* ---- models, requests, responses ---- */

Error *TRITONBACKEND_ApiVersion(uint32_t *major, uint32_t *minor) {
    *major = fake_api_major;
    *minor = 19;
    return NULL;
}

Error *TRITONBACKEND_ModelRepository(Model *model, int *artifact, const char **location) {
    *artifact = 0;
    *location = model->location;
    return NULL;
}

Error *TRITONBACKEND_ModelVersion(Model *model, uint64_t *version) {
    *version = model->version;
    return NULL;
}

Error *TRITONBACKEND_ModelState(Model *model, void **state) {
    *state = model->state;
    return NULL;
}

Error *TRITONBACKEND_ModelSetState(Model *model, void *state) {
    model->state = state;
    return NULL;
}

Error *TRITONBACKEND_ModelInstanceModel(Instance *instance, Model **model) {
    *model = instance->model;
    return NULL;
}

Error *TRITONBACKEND_ModelInstanceKind(Instance *instance, int *kind) {
    *kind = instance->kind;
    return NULL;
}

Error *TRITONBACKEND_ModelInstanceDeviceId(Instance *instance, int32_t *device) {
    *device = instance->device;
    return NULL;
}

Error *TRITONBACKEND_ModelInstanceState(Instance *instance, void **state) {
    *state = instance->state;
    return NULL;
}

Error *TRITONBACKEND_ModelInstanceSetState(Instance *instance, void *state) {
    instance->state = state;
    return NULL;
}

/* A message is a copy of a text, of exactly its size, so that a sanitizer sees a read beyond it. */
typedef struct {
    size_t size;
    char *text;
} Message;

Error *TRITONBACKEND_ModelConfig(Model *model, uint32_t version, Message **config) {
    if (version != 1) return TRITONSERVER_ErrorNew(3, "unknown version of configs");
    *config = malloc(sizeof **config);
    (*config)->size = strlen(model->config);
    (*config)->text = malloc((*config)->size);
    memcpy((*config)->text, model->config, (*config)->size);
    return NULL;
}

Error *TRITONSERVER_MessageSerializeToJson(Message *message, const char **text, size_t *size) {
    *text = message->text;
    *size = message->size;
    return NULL;
}

Error *TRITONSERVER_MessageDelete(Message *message) {
    free(message->text);
    free(message);
    return NULL;
}

Error *TRITONBACKEND_RequestInput(Request *request, const char *name, const Input **input) {
    for (uint32_t i = 0; i < request->input_count; i++)
        if (strcmp(request->inputs[i].name, name) == 0) {
            *input = request->inputs + i;
            return NULL;
        }
    return TRITONSERVER_ErrorNew(3, "unknown request input name");
}

Error *TRITONBACKEND_InputProperties(const Input *input, const char **name, int *datatype, const int64_t **shape,
                                     uint32_t *dims, uint64_t *byte_size, uint32_t *buffer_count) {
    if (name != NULL) *name = input->name;
    *datatype = input->datatype;
    *shape = input->shape;
    *dims = input->dims;
    *byte_size = input->byte_size;
    *buffer_count = input->buffer_count;
    return NULL;
}

Error *TRITONBACKEND_InputBuffer(const Input *input, uint32_t index, const void **buffer, uint64_t *byte_size,
                                 int *memory_type, int64_t *memory_type_id) {
    if (index >= input->buffer_count) return TRITONSERVER_ErrorNew(3, "no such buffer");
    *buffer = input->buffers[index];
    *byte_size = input->sizes[index];
    *memory_type = input->memory_type;
    *memory_type_id = 0;
    return NULL;
}

Error *TRITONBACKEND_ResponseNew(Request **response, Request *request) {
    *response = request;
    return NULL;
}

Error *TRITONBACKEND_ResponseOutput(Request *response, Output **output, const char *name, int datatype,
                                    const int64_t *shape, uint32_t dims) {
    if (response->output_count == MOST_OUTPUTS) return TRITONSERVER_ErrorNew(1, "too many outputs");
    *output = response->outputs + response->output_count++;
    strncpy((*output)->name, name, sizeof (*output)->name - 1);
    (*output)->datatype = datatype;
    (*output)->dims = dims;
    memcpy((*output)->shape, shape, dims * sizeof *shape);
    /* the answer to OutputBuffer, which does not see the response */
    (*output)->byte_size = (uint64_t)response->output_memory_type << 32 | (uint32_t)response->output_offset;
    return NULL;
}

Error *TRITONBACKEND_OutputBuffer(Output *output, void **buffer, uint64_t byte_size, int *memory_type,
                                  int64_t *memory_type_id) {
    const uint32_t offset = (uint32_t)output->byte_size;
    *memory_type = (int)(output->byte_size >> 32);
    *memory_type_id = 0;
    output->byte_size = byte_size;
    output->memory = malloc(byte_size + offset);
    if (output->memory == NULL) return TRITONSERVER_ErrorNew(1, "no memory for an output");
    memset(output->memory, 0x55, byte_size + offset);
    *buffer = output->memory + offset;
    return NULL;
}

Error *TRITONBACKEND_ResponseSend(Request *response, uint32_t flags, Error *error) {
    if (error != NULL) strncpy(response->error, error->message, sizeof response->error - 1);
    if (error != NULL) response->code = error->code;
    response->sent += flags == 1;
    return NULL;
}

Error *TRITONBACKEND_ModelInstanceReportStatistics(Instance *instance, Request *request, bool success,
                                                   uint64_t begin_ns, uint64_t compute_begin_ns,
                                                   uint64_t compute_end_ns, uint64_t end_ns) {
    if (request->released || begin_ns == 0 || begin_ns > compute_begin_ns || compute_begin_ns > compute_end_ns ||
        compute_end_ns > end_ns)
        return TRITONSERVER_ErrorNew(3, "times out of order");
    pthread_mutex_lock(&lock);
    instance->good += success;
    instance->bad += !success;
    pthread_mutex_unlock(&lock);
    return NULL;
}

Error *TRITONBACKEND_ModelInstanceReportBatchStatistics(Instance *instance, uint64_t batch_size, uint64_t begin_ns,
                                                        uint64_t compute_begin_ns, uint64_t compute_end_ns,
                                                        uint64_t end_ns) {
    (void)begin_ns, (void)compute_begin_ns, (void)compute_end_ns, (void)end_ns;
    pthread_mutex_lock(&lock);
    instance->executions++;
    instance->executed += batch_size;
    pthread_mutex_unlock(&lock);
    return NULL;
}

Error *TRITONBACKEND_RequestRelease(Request *request, uint32_t flags) {
    request->released += flags == 1;
    return NULL;
}

void fake_free_outputs(Request *request) {
    if (atomic_load(&request->released) == 0) abort(); /* and what was written before it is visible from here on */
    for (uint32_t i = 0; i < request->output_count; i++) free(request->outputs[i].memory);
}
