/* The part of ONNX Runtime's C API that `onnxruntime_model.c` uses.
 *
 * The API is a table of functions that only ever grows at its end, so a function is its place; those here are all there
 * since version 11 of the table. No header is needed to compile, and the library is opened when a model is loaded. Functions
 * return NULL where all went well, else a status to be released. Source: onnxruntime_c_api.h of microsoft/onnxruntime.
 */
#ifndef ELASTICREC_ONNXRUNTIME_H
#define ELASTICREC_ONNXRUNTIME_H

#include <stddef.h>
#include <stdint.h>

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtValue OrtValue;
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtCUDAProviderOptionsV2 OrtCUDAProviderOptionsV2;

enum { ORT_API_VERSION = 11, ORT_LOG_WARNING = 2, ORT_ARENA_ALLOCATOR = 1, ORT_MEMORY_DEFAULT = 0 };

/* its field is the type of the function, `number` the place in the table */
typedef void (*OrtFunction)(void);
typedef struct {
    const OrtFunction *(*get_api)(uint32_t version);
    const char *(*version)(void);
} OrtApiBase;

#define ORT_FUNCTIONS(F)                                                                                              \
    F(2, const char *, GetErrorMessage, const OrtStatus *)                                                            \
    F(3, OrtStatus *, CreateEnv, int severity, const char *name, OrtEnv **)                                           \
    F(7, OrtStatus *, CreateSession, const OrtEnv *, const char *path, const OrtSessionOptions *, OrtSession **)      \
    F(9, OrtStatus *, Run, OrtSession *, const void *options, const char *const *input_names,                         \
      const OrtValue *const *inputs, size_t input_count, const char *const *output_names, size_t output_count,        \
      OrtValue **outputs)                                                                                             \
    F(10, OrtStatus *, CreateSessionOptions, OrtSessionOptions **)                                                    \
    F(19, OrtStatus *, DisableCpuMemArena, OrtSessionOptions *)                                                       \
    F(24, OrtStatus *, SetIntraOpNumThreads, OrtSessionOptions *, int threads)                                        \
    F(30, OrtStatus *, SessionGetInputCount, const OrtSession *, size_t *)                                            \
    F(31, OrtStatus *, SessionGetOutputCount, const OrtSession *, size_t *)                                           \
    F(36, OrtStatus *, SessionGetInputName, const OrtSession *, size_t index, OrtAllocator *, char **)                \
    F(37, OrtStatus *, SessionGetOutputName, const OrtSession *, size_t index, OrtAllocator *, char **)               \
    F(49, OrtStatus *, CreateTensorWithDataAsOrtValue, const OrtMemoryInfo *, void *data, size_t size,                \
      const int64_t *shape, size_t dims, int type, OrtValue **)                                                       \
    F(51, OrtStatus *, GetTensorMutableData, OrtValue *, void **)                                                     \
    F(60, OrtStatus *, GetTensorElementType, const OrtTensorTypeAndShapeInfo *, int *)                                \
    F(61, OrtStatus *, GetDimensionsCount, const OrtTensorTypeAndShapeInfo *, size_t *)                               \
    F(62, OrtStatus *, GetDimensions, const OrtTensorTypeAndShapeInfo *, int64_t *, size_t)                           \
    F(65, OrtStatus *, GetTensorTypeAndShape, const OrtValue *, OrtTensorTypeAndShapeInfo **)                         \
    F(69, OrtStatus *, CreateCpuMemoryInfo, int allocator, int memory, OrtMemoryInfo **)                              \
    F(76, OrtStatus *, AllocatorFree, OrtAllocator *, void *)                                                         \
    F(78, OrtStatus *, GetAllocatorWithDefaultOptions, OrtAllocator **)                                               \
    F(92, void, ReleaseEnv, OrtEnv *)                                                                                 \
    F(93, void, ReleaseStatus, OrtStatus *)                                                                           \
    F(94, void, ReleaseMemoryInfo, OrtMemoryInfo *)                                                                   \
    F(95, void, ReleaseSession, OrtSession *)                                                                         \
    F(96, void, ReleaseValue, OrtValue *)                                                                             \
    F(99, void, ReleaseTensorTypeAndShapeInfo, OrtTensorTypeAndShapeInfo *)                                           \
    F(100, void, ReleaseSessionOptions, OrtSessionOptions *)                                                          \
    F(204, OrtStatus *, SessionOptionsAppendExecutionProvider_CUDA_V2, OrtSessionOptions *,                           \
      const OrtCUDAProviderOptionsV2 *)                                                                               \
    F(205, OrtStatus *, CreateCUDAProviderOptions, OrtCUDAProviderOptionsV2 **)                                       \
    F(206, OrtStatus *, UpdateCUDAProviderOptions, OrtCUDAProviderOptionsV2 *, const char *const *names,              \
      const char *const *values, size_t count)                                                                        \
    F(208, void, ReleaseCUDAProviderOptions, OrtCUDAProviderOptionsV2 *)

#define ORT_FIELD(number, type, name, ...) type (*name)(__VA_ARGS__);
typedef struct {
    ORT_FUNCTIONS(ORT_FIELD)
} OrtApi;

#endif
