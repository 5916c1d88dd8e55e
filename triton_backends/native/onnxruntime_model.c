/* A stand-in for Triton's own ONNX Runtime backend, for servers that come without: `model.onnx` of the version folder,
 * whose inputs and outputs are FP32 of two dimensions, as the dense models that we export. It runs requests one by one,
 * each with one thread on the CPU: all that our configs ask for. ONNX Runtime itself lies beside this library. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "onnxruntime.h"
#include "answers.h"

static const char *const LIBRARY = "libonnxruntime.so.1";

typedef struct {
    OrtApi ort;
    OrtEnv *environment;
    OrtSession *session;
    OrtMemoryInfo *memory;
    OrtAllocator *allocator; /* ONNX Runtime's own */
    char **names;            /* of the inputs, then of the outputs */
    size_t inputs, outputs;
} Model;

/* Whether a call of ONNX Runtime's went well; else what it says is the problem. */
static bool done(const Model *model, OrtStatus *status, Problem *problem) {
    if (status == NULL) return true;
    fail(problem, "ONNX Runtime: %s", model->ort.GetErrorMessage(status));
    model->ort.ReleaseStatus(status);
    return false;
}

/* The library stays open: it cannot be unloaded safely. */
static bool load_functions(OrtApi *ort, Problem *problem) {
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return fail(problem, "%s", dlerror());
    const OrtApiBase *(*get_base)(void);
    *(void **)&get_base = dlsym(library, "OrtGetApiBase");
    if (get_base == NULL) return fail(problem, "%s: expected ONNX Runtime, got another library", LIBRARY);
    const OrtFunction *table = get_base()->get_api(ORT_API_VERSION);
    if (table == NULL) return fail(problem, "%s: version 1 of its API is not there any more", LIBRARY);
#define ORT_FILL(number, type, name, ...) memcpy(&ort->name, table + number, sizeof ort->name);
    ORT_FUNCTIONS(ORT_FILL)
    return true;
}

static bool open_session(Model *model, const char *folder, Problem *problem) {
    const size_t room = strlen(folder) + sizeof "/model.onnx";
    char *path = malloc(room);
    if (path == NULL) return fail(problem, "model.onnx: out of memory");
    snprintf(path, room, "%s/model.onnx", folder);
    OrtSessionOptions *options = NULL;
    const bool good =
        done(model, model->ort.CreateEnv(ORT_LOG_WARNING, "elasticrec", &model->environment), problem) &&
        done(model, model->ort.CreateSessionOptions(&options), problem) &&
        done(model, model->ort.SetIntraOpNumThreads(options, 1), problem) &&
        done(model, model->ort.CreateSession(model->environment, path, options, &model->session), problem);
    if (options != NULL) model->ort.ReleaseSessionOptions(options);
    free(path);
    return good;
}

static bool read_names(Model *model, Problem *problem) {
    const OrtApi *ort = &model->ort;
    if (!done(model, ort->CreateCpuMemoryInfo(ORT_ARENA_ALLOCATOR, ORT_MEMORY_DEFAULT, &model->memory), problem) ||
        !done(model, ort->GetAllocatorWithDefaultOptions(&model->allocator), problem) ||
        !done(model, ort->SessionGetInputCount(model->session, &model->inputs), problem) ||
        !done(model, ort->SessionGetOutputCount(model->session, &model->outputs), problem))
        return false;
    model->names = calloc(model->inputs + model->outputs, sizeof *model->names);
    if (model->names == NULL) return fail(problem, "model.onnx: out of memory");
    for (size_t i = 0; i < model->inputs; i++)
        if (!done(model, ort->SessionGetInputName(model->session, i, model->allocator, model->names + i), problem))
            return false;
    char **names = model->names + model->inputs;
    for (size_t i = 0; i < model->outputs; i++)
        if (!done(model, ort->SessionGetOutputName(model->session, i, model->allocator, names + i), problem))
            return false;
    return true;
}

void *model_open(const char *folder, Problem *problem) {
    Model *model = calloc(1, sizeof *model);
    if (model == NULL) fail(problem, "model.onnx: out of memory");
    if (model == NULL || !load_functions(&model->ort, problem)) {
        free(model);
        return NULL;
    }
    if (open_session(model, folder, problem) && read_names(model, problem)) return model;
    model_close(model);
    return NULL;
}

void model_close(void *state) {
    Model *model = state;
    for (size_t i = 0; model->names != NULL && i < model->inputs + model->outputs; i++)
        if (model->names[i] != NULL) model->ort.AllocatorFree(model->allocator, model->names[i]);
    free(model->names);
    if (model->memory != NULL) model->ort.ReleaseMemoryInfo(model->memory);
    if (model->session != NULL) model->ort.ReleaseSession(model->session);
    if (model->environment != NULL) model->ort.ReleaseEnv(model->environment);
    free(model);
}

/* Hand an input to ONNX Runtime where it lies. */
static bool wrap_input(const Model *model, const char *name, const Tensor *tensor, int64_t rows, OrtValue **value,
                       Problem *problem) {
    if (tensor->type != TRITON_TYPE_FP32) return fail(problem, "%s: expected FP32", name);
    if (tensor->rows != rows)
        return fail(problem, "%s: expected %lld rows, as many as in %s, got %lld", name, (long long)rows,
                    model->names[0], (long long)tensor->rows);
    const int64_t shape[] = {tensor->rows, tensor->columns};
    const size_t size = sizeof(float) * (size_t)(tensor->rows * tensor->columns);
    return done(model,
                model->ort.CreateTensorWithDataAsOrtValue(model->memory, (void *)tensor->data, size, shape, 2,
                                                          ORT_TYPE_FLOAT, value),
                problem);
}

static bool copy_output(const Model *model, const char *name, OrtValue *value, TRITONBACKEND_Response *response,
                        Problem *problem) {
    const OrtApi *ort = &model->ort;
    OrtTensorTypeAndShapeInfo *about = NULL;
    int64_t shape[2];
    size_t dims = 0;
    int type = 0;
    void *numbers, *output;
    bool good = done(model, ort->GetTensorTypeAndShape(value, &about), problem) &&
                done(model, ort->GetTensorElementType(about, &type), problem) &&
                done(model, ort->GetDimensionsCount(about, &dims), problem);
    if (good && (type != ORT_TYPE_FLOAT || dims != 2))
        good = fail(problem, "%s: expected a model that gives FP32 of 2 dimensions", name);
    good = good && done(model, ort->GetDimensions(about, shape, 2), problem) &&
           done(model, ort->GetTensorMutableData(value, &numbers), problem) &&
           add_output(response, name, TRITON_TYPE_FP32, shape[0], shape[1], &output, problem);
    if (good) memcpy(output, numbers, sizeof(float) * (size_t)(shape[0] * shape[1]));
    if (about != NULL) ort->ReleaseTensorTypeAndShapeInfo(about);
    return good;
}

/* `values`: room for the inputs, then the outputs, all NULL. */
static bool run(const Model *model, TRITONBACKEND_Request *request, Tensor *tensors, OrtValue **values,
                TRITONBACKEND_Response *response, Problem *problem) {
    for (size_t i = 0; i < model->inputs; i++)
        if (!tensor_open(request, model->names[i], tensors + i, problem) ||
            !wrap_input(model, model->names[i], tensors + i, tensors[0].rows, values + i, problem))
            return false;
    const char *const *names = (const char *const *)model->names;
    const OrtValue *const *inputs = (const OrtValue *const *)values;
    OrtValue **outputs = values + model->inputs;
    if (!done(model,
              model->ort.Run(model->session, NULL, names, inputs, model->inputs, names + model->inputs,
                             model->outputs, outputs),
              problem))
        return false;
    for (size_t i = 0; i < model->outputs; i++)
        if (!copy_output(model, names[model->inputs + i], outputs[i], response, problem)) return false;
    return true;
}

bool model_answer(const void *state, TRITONBACKEND_Request *request, TRITONBACKEND_Response *response,
                  Problem *problem) {
    const Model *model = state;
    Tensor *tensors = calloc(model->inputs, sizeof *tensors);
    OrtValue **values = calloc(model->inputs + model->outputs, sizeof *values);
    const bool good = tensors == NULL || values == NULL ? fail(problem, "out of memory")
                                                        : run(model, request, tensors, values, response, problem);
    for (size_t i = 0; values != NULL && i < model->inputs + model->outputs; i++)
        if (values[i] != NULL) model->ort.ReleaseValue(values[i]);
    for (size_t i = 0; tensors != NULL && i < model->inputs; i++) tensor_close(tensors + i);
    free(values);
    free(tensors);
    return good;
}
