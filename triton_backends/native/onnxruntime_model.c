/* A stand-in for Triton's own ONNX Runtime backend, for servers that come without: `model.onnx` of the version folder, its
 * external data beside it, with inputs and outputs of any shape and any numbers. It runs on one thread of the CPU, or by
 * the CUDA provider on the GPU that its instance is placed on, with tensors in the host's memory: all that our configs ask
 * for. Here sessions are opened; `onnxruntime_run.c` answers. ONNX Runtime itself lies beside this library. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accelerators.h"
#include "onnxruntime_model.h"

static const char *const LIBRARY = "libonnxruntime.so.1";

bool done(const Model *model, OrtStatus *status, Problem *problem) {
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
    if (table == NULL) return fail(problem, "%s: it has no version %d of its API", LIBRARY, ORT_API_VERSION);
#define ORT_FILL(number, type, name, ...) memcpy(&ort->name, table + number, sizeof ort->name);
    ORT_FUNCTIONS(ORT_FILL)
    return true;
}

/* Add the CUDA provider on this GPU, with what else `asked` says. */
static bool add_cuda(const Model *model, int32_t gpu, const CudaOptions *asked, OrtSessionOptions *options,
                     Problem *problem) {
    const OrtApi *ort = &model->ort;
    OrtCUDAProviderOptionsV2 *cuda = NULL;
    char number[16];
    const char *names[MOST_CUDA_OPTIONS + 1] = {"device_id"}, *values[MOST_CUDA_OPTIONS + 1] = {number};
    snprintf(number, sizeof number, "%d", gpu);
    for (size_t i = 0; i < asked->count; i++) {
        names[i + 1] = asked->names[i];
        values[i + 1] = asked->values[i];
    }
    const bool good =
        done(model, ort->CreateCUDAProviderOptions(&cuda), problem) &&
        done(model, ort->UpdateCUDAProviderOptions(cuda, names, values, asked->count + 1), problem) &&
        done(model, ort->SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda), problem);
    if (cuda != NULL) ort->ReleaseCUDAProviderOptions(cuda);
    return good;
}

/* Have the model run on this GPU; never on the CPU instead because the GPU or a library is missing. */
static bool use_gpu(const Model *model, Json config, int32_t gpu, OrtSessionOptions *options, Problem *problem) {
    CudaOptions *asked = malloc(sizeof *asked);
    if (asked == NULL) return fail(problem, "model.onnx: out of memory");
    bool good = read_cuda_options(config, asked, problem);
    if (good && !add_cuda(model, gpu, asked, options, problem)) {
        const Problem told = *problem;
        good = fail(problem,
                    "GPU %d: the model is placed there, and this ONNX Runtime cannot use it; run: pip uninstall "
                    "onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'; or build with --cpu-only. %s",
                    gpu, told.text);
    }
    free(asked);
    return good;
}

/* Whether tensors lie in ONNX Runtime's own arena, which keeps what the largest batch took; as its config says. */
static bool use_arena(const Model *model, Json config, OrtSessionOptions *options, Problem *problem) {
    char value[NAME_BYTES] = "1";
    Json text = json_member(json_member(json_member(config, "parameters"), "enable_mem_arena"), "string_value");
    json_string(&text, value, sizeof value);
    if (strcmp(value, "0") == 0) return done(model, model->ort.DisableCpuMemArena(options), problem);
    return strcmp(value, "1") == 0 || fail(problem, "enable_mem_arena: expected 0 or 1, got %s", value);
}

/* Whether rows of several queries may be run as one: of a model that has batches. */
static bool read_joins(Json config) {
    Json number = json_member(config, "max_batch_size");
    const char *from;
    size_t size;
    return json_value(&number, &from, &size) && size > 0 && *from != '-' && (size > 1 || *from > '1');
}

static bool open_session(const Model *model, Json config, Place *place, Problem *problem) {
    OrtSessionOptions *options = NULL;
    place->joins = read_joins(config);
    const bool good =
        done(model, model->ort.CreateSessionOptions(&options), problem) &&
        done(model, model->ort.SetIntraOpNumThreads(options, 1), problem) &&
        use_arena(model, config, options, problem) &&
        (place->gpu == ON_CPU || use_gpu(model, config, place->gpu, options, problem)) &&
        done(model, model->ort.CreateSession(model->environment, model->path, options, &place->session), problem);
    if (options != NULL) model->ort.ReleaseSessionOptions(options);
    return good;
}

static bool open_place(const Model *model, TRITONBACKEND_Model *triton, Place *place, Problem *problem) {
    TRITONSERVER_Message *config;
    const char *text;
    size_t size;
    if (!passed(TRITONBACKEND_ModelConfig(triton, TRITON_CONFIG_VERSION, &config), problem)) return false;
    const bool good = passed(TRITONSERVER_MessageSerializeToJson(config, &text, &size), problem) &&
                      open_session(model, (Json){text, text + size}, place, problem);
    log_error(TRITONSERVER_MessageDelete(config));
    return good;
}

static bool read_names(Model *model, OrtSession *session, Problem *problem) {
    const OrtApi *ort = &model->ort;
    if (!done(model, ort->SessionGetInputCount(session, &model->inputs), problem) ||
        !done(model, ort->SessionGetOutputCount(session, &model->outputs), problem))
        return false;
    model->names = calloc(model->inputs + model->outputs, sizeof *model->names);
    if (model->names == NULL) return fail(problem, "model.onnx: out of memory");
    for (size_t i = 0; i < model->inputs; i++)
        if (!done(model, ort->SessionGetInputName(session, i, model->allocator, model->names + i), problem))
            return false;
    char **names = model->names + model->inputs;
    for (size_t i = 0; i < model->outputs; i++)
        if (!done(model, ort->SessionGetOutputName(session, i, model->allocator, names + i), problem)) return false;
    return true;
}

/* The place of an instance, opened by the first one there; NULL and the problem where it cannot be. */
static Place *place_of(Model *model, TRITONBACKEND_Model *triton, int32_t gpu, Problem *problem) {
    Place *place = model->places;
    while (place != NULL && place->gpu != gpu) place = place->next;
    if (place != NULL) return place;
    place = calloc(1, sizeof *place);
    if (place == NULL) fail(problem, "model.onnx: out of memory");
    if (place == NULL) return NULL;
    *place = (Place){.model = model, .gpu = gpu, .next = model->places};
    model->places = place; /* whatever comes of it, model_close has it */
    if (!open_place(model, triton, place, problem)) return NULL;
    return model->names != NULL || read_names(model, place->session, problem) ? place : NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance *instance) {
    TRITONBACKEND_Model *triton;
    void *model;
    int kind;
    int32_t gpu;
    Problem problem;
    TRITONSERVER_Error *error = TRITONBACKEND_ModelInstanceModel(instance, &triton);
    if (error == NULL) error = TRITONBACKEND_ModelState(triton, &model);
    if (error == NULL) error = TRITONBACKEND_ModelInstanceKind(instance, &kind);
    if (error == NULL) error = TRITONBACKEND_ModelInstanceDeviceId(instance, &gpu);
    if (error != NULL) return error;
    Place *place = place_of(model, triton, kind == TRITON_KIND_GPU ? gpu : ON_CPU, &problem);
    if (place == NULL) return TRITONSERVER_ErrorNew(TRITON_ERROR_INVALID_ARG, problem.text);
    return TRITONBACKEND_ModelInstanceSetState(instance, place);
}

void *model_open(TRITONBACKEND_Model *triton_model, const char *folder, Problem *problem) {
    (void)triton_model;
    const size_t room = strlen(folder) + sizeof "/model.onnx";
    Model *model = calloc(1, sizeof *model);
    if (model != NULL) model->path = malloc(room);
    if (model == NULL || model->path == NULL) fail(problem, "model.onnx: out of memory");
    if (model == NULL || model->path == NULL || !load_functions(&model->ort, problem)) {
        free(model != NULL ? model->path : NULL);
        free(model);
        return NULL;
    }
    snprintf(model->path, room, "%s/model.onnx", folder);
    const OrtApi *ort = &model->ort;
    if (done(model, ort->CreateEnv(ORT_LOG_WARNING, "elasticrec", &model->environment), problem) &&
        done(model, ort->CreateCpuMemoryInfo(ORT_ARENA_ALLOCATOR, ORT_MEMORY_DEFAULT, &model->memory), problem) &&
        done(model, ort->GetAllocatorWithDefaultOptions(&model->allocator), problem))
        return model;
    model_close(model);
    return NULL;
}

void model_close(void *state) {
    Model *model = state;
    for (size_t i = 0; model->names != NULL && i < model->inputs + model->outputs; i++)
        if (model->names[i] != NULL) model->ort.AllocatorFree(model->allocator, model->names[i]);
    free(model->names);
    if (model->memory != NULL) model->ort.ReleaseMemoryInfo(model->memory);
    for (Place *place = model->places, *next; place != NULL; place = next) {
        next = place->next;
        if (place->session != NULL) model->ort.ReleaseSession(place->session);
        free(place);
    }
    if (model->environment != NULL) model->ort.ReleaseEnv(model->environment);
    free(model->path);
    free(model);
}
