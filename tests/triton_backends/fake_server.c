/* The part of Triton's in-process API that the shards' listener asks, with one model; each request has a thread of its own.
 *
 * `fake_hold` keeps calls waiting, as busy instances would, until it is called again. `fake_changed` counts the requests whose
 * bytes were others at their end than when they were asked. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fake_triton.h"

enum { MOST_INPUTS = 8, INVALID = 3, NOT_FOUND = 2 };

typedef struct Asked Asked;
typedef struct Answer Answer;
typedef Error *Allocate(void *allocator, const char *name, size_t size, int memory, int64_t device, void *user,
                        void **buffer, void **buffer_user, int *actual_memory, int64_t *actual_device);
typedef Error *Free(void *allocator, void *buffer, void *buffer_user, size_t size, int memory, int64_t device);
typedef void Released(Asked *asked, uint32_t flags, void *user);
typedef void Complete(Answer *answer, uint32_t flags, void *user);
typedef Error *Execute(Instance *instance, Request **requests, uint32_t count);

typedef struct {
    Allocate *allocate;
    Free *free;
} Allocator;

struct Asked {
    Input inputs[MOST_INPUTS];
    int64_t shapes[MOST_INPUTS][8];
    const void *buffers[MOST_INPUTS];
    uint64_t sizes[MOST_INPUTS];
    Request request;
    Released *released;
    Complete *complete;
    void *released_user, *complete_user;
    Allocator *allocator;
    uint64_t digest; /* of the inputs */
};

struct Answer {
    Allocator *allocator;
    uint32_t count;
    Output outputs[MOST_OUTPUTS];
    void *memory[MOST_OUTPUTS];
    Error *error;
};

static Execute *execute;
static Instance *instance;
atomic_int fake_live_requests = 0, fake_live_answers = 0, fake_under_way = 0, fake_changed = 0;

static pthread_mutex_t holding = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t let_go = PTHREAD_COND_INITIALIZER;
static bool held = false;

void fake_hold(bool hold) {
    pthread_mutex_lock(&holding);
    held = hold;
    pthread_cond_broadcast(&let_go);
    pthread_mutex_unlock(&holding);
}

void fake_serve(Execute *by, Instance *its) {
    pthread_mutex_lock(&holding);
    execute = by;
    instance = its;
    pthread_mutex_unlock(&holding);
}

Error *TRITONBACKEND_ModelServer(Model *model, void **server) {
    *server = model;
    return NULL;
}

Error *TRITONSERVER_ResponseAllocatorNew(Allocator **allocator, Allocate *allocate, Free *release, void *start) {
    (void)start;
    *allocator = malloc(sizeof **allocator);
    **allocator = (Allocator){allocate, release};
    return NULL;
}

Error *TRITONSERVER_ResponseAllocatorDelete(Allocator *allocator) {
    free(allocator);
    return NULL;
}

/* ---- requests ---- */

Error *TRITONSERVER_InferenceRequestNew(Asked **asked, void *server, const char *model, int64_t version) {
    (void)server;
    if (strcmp(model, "m") != 0 || (version != -1 && version != 1))
        return TRITONSERVER_ErrorNew(NOT_FOUND, "Request for unknown model\n(100% sure)");
    *asked = calloc(1, sizeof **asked);
    (*asked)->request.inputs = (*asked)->inputs;
    fake_live_requests++;
    return NULL;
}

Error *TRITONSERVER_InferenceRequestDelete(Asked *asked) {
    for (uint32_t i = 0; i < asked->request.input_count; i++) free((char *)asked->inputs[i].name);
    free(asked);
    fake_live_requests--;
    return NULL;
}

Error *TRITONSERVER_InferenceRequestAddInput(Asked *asked, const char *name, int datatype, const int64_t *shape,
                                             uint64_t dims) {
    const uint32_t index = asked->request.input_count;
    if (index == MOST_INPUTS || dims > 8) return TRITONSERVER_ErrorNew(INVALID, "too many inputs");
    memcpy(asked->shapes[index], shape, dims * sizeof *shape);
    asked->inputs[index] = (Input){.name = strdup(name),
                                   .datatype = datatype,
                                   .shape = asked->shapes[index],
                                   .dims = (uint32_t)dims,
                                   .buffer_count = 1,
                                   .buffers = asked->buffers + index,
                                   .sizes = asked->sizes + index};
    asked->request.input_count++;
    return NULL;
}

Error *TRITONSERVER_InferenceRequestAppendInputData(Asked *asked, const char *name, const void *base, size_t size,
                                                    int memory, int64_t device) {
    (void)memory, (void)device;
    for (uint32_t i = 0; i < asked->request.input_count; i++)
        if (strcmp(asked->inputs[i].name, name) == 0) {
            asked->buffers[i] = base;
            asked->sizes[i] = asked->inputs[i].byte_size = size;
            return NULL;
        }
    return TRITONSERVER_ErrorNew(INVALID, "no such input");
}

Error *TRITONSERVER_InferenceRequestSetReleaseCallback(Asked *asked, Released *released, void *user) {
    asked->released = released;
    asked->released_user = user;
    return NULL;
}

Error *TRITONSERVER_InferenceRequestSetResponseCallback(Asked *asked, Allocator *allocator, void *allocator_user,
                                                        Complete *complete, void *user) {
    (void)allocator_user;
    asked->allocator = allocator;
    asked->complete = complete;
    asked->complete_user = user;
    return NULL;
}

/* ---- answers ---- */

static Answer *answer_of(Asked *asked) {
    Answer *answer = calloc(1, sizeof *answer);
    Request *request = &asked->request;
    fake_live_answers++;
    answer->allocator = asked->allocator;
    if (*request->error != '\0') answer->error = TRITONSERVER_ErrorNew(request->code, request->error);
    for (uint32_t i = 0; answer->error == NULL && i < request->output_count; i++) {
        Output *output = answer->outputs + answer->count;
        void **memory = answer->memory + answer->count++, *user;
        int type;
        int64_t device;
        *output = request->outputs[i];
        asked->allocator->allocate(asked->allocator, output->name, output->byte_size, 0, 0, NULL, memory, &user, &type,
                                   &device);
        if (output->byte_size > 0) memcpy(*memory, request->outputs[i].memory, output->byte_size);
    }
    return answer;
}

Error *TRITONSERVER_InferenceResponseDelete(Answer *answer) {
    for (uint32_t i = 0; i < answer->count; i++)
        answer->allocator->free(answer->allocator, answer->memory[i], NULL, answer->outputs[i].byte_size, 0, 0);
    if (answer->error != NULL) TRITONSERVER_ErrorDelete(answer->error);
    free(answer);
    fake_live_answers--;
    return NULL;
}

Error *TRITONSERVER_InferenceResponseError(Answer *answer) { return answer->error; }

Error *TRITONSERVER_InferenceResponseModel(Answer *answer, const char **name, int64_t *version) {
    (void)answer;
    *name = "m";
    *version = 1;
    return NULL;
}

Error *TRITONSERVER_InferenceResponseOutputCount(Answer *answer, uint32_t *count) {
    *count = answer->count;
    return NULL;
}

Error *TRITONSERVER_InferenceResponseOutput(Answer *answer, uint32_t index, const char **name, int *datatype,
                                            const int64_t **shape, uint64_t *dims, const void **base, size_t *size,
                                            int *memory, int64_t *device, void **user) {
    const Output *output = answer->outputs + index;
    *name = output->name;
    *datatype = output->datatype;
    *shape = output->shape;
    *dims = output->dims;
    *base = answer->memory[index];
    *size = output->byte_size;
    *memory = 0;
    *device = 0;
    *user = NULL;
    return NULL;
}

static uint64_t digest(const Asked *asked) {
    uint64_t made = 0;
    for (uint32_t i = 0; i < asked->request.input_count; i++)
        for (uint64_t at = 0; at < asked->sizes[i]; at++) made = 31 * made + ((const uint8_t *)asked->buffers[i])[at];
    return made;
}

static void *work(void *argument) {
    Asked *asked = argument;
    Request *request = &asked->request;
    pthread_mutex_lock(&holding);
    while (held) pthread_cond_wait(&let_go, &holding);
    Execute *const serve = execute;
    Instance *const served = instance;
    pthread_mutex_unlock(&holding);
    serve(served, &request, 1);
    fake_changed += asked->digest != digest(asked);
    Answer *answer = answer_of(asked);
    fake_free_outputs(request);
    asked->complete(answer, 1, asked->complete_user);
    asked->released(asked, 1, asked->released_user);
    fake_under_way--;
    return NULL;
}

Error *TRITONSERVER_ServerInferAsync(void *server, Asked *asked, void *trace) {
    (void)server, (void)trace;
    pthread_t thread;
    if (asked->request.input_count < 2) return TRITONSERVER_ErrorNew(INVALID, "expected 2 inputs");
    asked->digest = digest(asked);
    fake_under_way++;
    pthread_create(&thread, NULL, work, asked);
    pthread_detach(thread);
    return NULL;
}
