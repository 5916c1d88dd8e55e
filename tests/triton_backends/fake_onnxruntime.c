/* ONNX Runtime's C API as far as a session of the CUDA provider is opened with it: notes which options were asked for.
 *
 * What no machine without a GPU has: the real library of onnxruntime-gpu refuses there. All that it can tell without one,
 * its own words included, is tested with the real onnxruntime. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

char fake_calls[4096]; /* a line per call that matters */
const char *fake_failure; /* of the provider, where there is one */

static char thing[1]; /* all of its objects */

#define NOTE(...) snprintf(fake_calls + strlen(fake_calls), sizeof fake_calls - strlen(fake_calls), __VA_ARGS__)

static void *succeed(void) { return NULL; }

static const char *message(const void *status) { return status; }

static const void *create(void **made) {
    *made = thing;
    return NULL;
}

static const void *create_environment(int severity, const char *name, void **made) {
    (void)severity, (void)name;
    return create(made);
}

static const void *create_memory(int allocator, int memory, void **made) {
    (void)allocator, (void)memory;
    return create(made);
}

static const void *create_session(const void *environment, const char *path, const void *options, void **made) {
    (void)environment, (void)options;
    NOTE("session %s\n", strrchr(path, '/') + 1);
    return create(made);
}

static const void *count(const void *session, size_t *number) {
    (void)session;
    *number = 0;
    return NULL;
}

static const void *update(void *options, const char *const *names, const char *const *values, size_t number) {
    (void)options;
    NOTE("cuda");
    for (size_t i = 0; i < number; i++) NOTE(" %s=%s", names[i], values[i]);
    NOTE("\n");
    return NULL;
}

static const void *append(void *options, const void *cuda) {
    (void)options, (void)cuda;
    return fake_failure;
}

static const void *without_arena(void *options) {
    (void)options;
    NOTE("no arena\n");
    return NULL;
}

static void release(void *session) {
    (void)session;
    NOTE("released\n");
}

static const void *const *get_api(uint32_t version) {
    static const void *table[512];
    if (version > 27) return NULL;
    for (size_t i = 0; i < 512; i++) table[i] = (const void *)succeed;
    table[2] = (const void *)message;
    table[3] = (const void *)create_environment;
    table[7] = (const void *)create_session;
    table[10] = table[78] = table[205] = (const void *)create;
    table[19] = (const void *)without_arena;
    table[30] = table[31] = (const void *)count;
    table[69] = (const void *)create_memory;
    table[95] = (const void *)release;
    table[204] = (const void *)append;
    table[206] = (const void *)update;
    return table;
}

static const void *const base[] = {(const void *)get_api, NULL};

const void *OrtGetApiBase(void) { return base; }
