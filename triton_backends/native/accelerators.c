#include "accelerators.h"

#include <string.h>

static bool read_parameters(Json parameters, CudaOptions *options, Problem *problem) {
    char name[NAME_BYTES];
    for (bool first = true; json_next_member(&parameters, first, name, sizeof name); first = false) {
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
        Json text = json_member(accelerator, "name");
        json_string(&text, name, sizeof name);
        if (strcmp(name, "cuda") != 0)
            return fail(problem, "gpu_execution_accelerator: expected cuda, got %s: only NVIDIA's own ONNX Runtime "
                                 "backend may have others", name);
        if (!read_parameters(json_member(accelerator, "parameters"), options, problem)) return false;
    } while (json_mark(&list, ','));
    return true;
}

bool read_cuda_options(Json config, CudaOptions *options, Problem *problem) {
    options->count = 0;
    const Json accelerators = json_member(json_member(config, "optimization"), "execution_accelerators");
    return read_accelerators(json_member(accelerators, "gpu_execution_accelerator"), options, problem);
}
