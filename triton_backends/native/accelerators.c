#include "accelerators.h"

#include <string.h>

#include "shell.h"

/* Take a member of an object that has begun, up to its value; false at its end, and where it is none. */
static bool next_member(Json *object, bool first, char name[NAME_BYTES]) {
    if (!json_mark(object, first ? '{' : ',') || json_peek(object) == '}') return false;
    return json_string(object, name, NAME_BYTES) && json_mark(object, ':');
}

/* What stands in an object under this name; nothing where it has no such member. */
static Json member(Json object, const char *wanted) {
    char name[NAME_BYTES];
    const char *from;
    size_t size;
    for (bool first = true; next_member(&object, first, name); first = false) {
        if (!json_value(&object, &from, &size)) break;
        if (strcmp(name, wanted) == 0) return (Json){from, from + size};
    }
    return (Json){object.end, object.end};
}

static bool read_parameters(Json parameters, CudaOptions *options, Problem *problem) {
    char name[NAME_BYTES];
    for (bool first = true; next_member(&parameters, first, name); first = false) {
        const size_t at = options->count;
        if (at == MOST_CUDA_OPTIONS)
            return fail(problem, "gpu_execution_accelerator: expected at most %d parameters", MOST_CUDA_OPTIONS);
        memcpy(options->names[at], name, NAME_BYTES);
        if (!json_string(&parameters, options->values[at], NAME_BYTES))
            return fail(problem, "gpu_execution_accelerator: %s: expected a string", name);
        options->count++;
    }
    return true;
}

static bool read_accelerators(Json list, CudaOptions *options, Problem *problem) {
    const char *from;
    size_t size;
    if (!json_mark(&list, '[') || json_peek(&list) == ']') return true;
    do {
        char name[NAME_BYTES] = "";
        if (!json_value(&list, &from, &size)) return fail(problem, "gpu_execution_accelerator: expected JSON");
        const Json accelerator = {from, from + size};
        Json text = member(accelerator, "name");
        json_string(&text, name, sizeof name);
        if (strcmp(name, "cuda") != 0)
            return fail(problem, "gpu_execution_accelerator: expected cuda, got %s: only NVIDIA's own ONNX Runtime "
                                 "backend may have others", name);
        if (!read_parameters(member(accelerator, "parameters"), options, problem)) return false;
    } while (json_mark(&list, ','));
    return true;
}

bool read_cuda_options(TRITONBACKEND_Model *model, CudaOptions *options, Problem *problem) {
    TRITONSERVER_Message *config;
    const char *text;
    size_t size;
    options->count = 0;
    if (!passed(TRITONBACKEND_ModelConfig(model, TRITON_CONFIG_VERSION, &config), problem)) return false;
    bool good = passed(TRITONSERVER_MessageSerializeToJson(config, &text, &size), problem);
    if (good) {
        const Json optimization = member((Json){text, text + size}, "optimization");
        const Json accelerators = member(optimization, "execution_accelerators");
        good = read_accelerators(member(accelerators, "gpu_execution_accelerator"), options, problem);
    }
    log_error(TRITONSERVER_MessageDelete(config));
    return good;
}
