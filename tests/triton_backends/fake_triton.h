/* What the two halves of the stand-in share: the backend API (fake_triton.c), and the server's own (fake_server.c). */
#ifndef FAKE_TRITON_H
#define FAKE_TRITON_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { MOST_OUTPUTS = 64 };

typedef struct {
    char message[1024];
    int code;
} Error;

typedef struct {
    const char *name;
    int32_t datatype, memory_type;
    const int64_t *shape;
    uint32_t dims, buffer_count;
    uint64_t byte_size; /* as told; the buffers' sizes may say something else */
    const void *const *buffers;
    const uint64_t *sizes;
} Input;

typedef struct {
    char name[256];
    int32_t datatype;
    uint32_t dims;
    int64_t shape[8];
    uint64_t byte_size;
    char *memory; /* the buffer is `memory + offset` */
} Output;

typedef struct {
    const Input *inputs;
    uint32_t input_count, output_count;
    int32_t output_memory_type, output_offset; /* what OutputBuffer answers with */
    Output outputs[MOST_OUTPUTS];
    char error[1024]; /* of the response */
    int32_t sent;
    atomic_int released;
    int32_t code; /* of the error */
} Request;

typedef struct {
    const char *location;
    uint64_t version;
    void *state;
    const char *config; /* in JSON */
} Model;

typedef struct {
    Model *model;
    uint64_t good, bad, executions, executed;
    void *state;
    int32_t kind, device;
} Instance;

Error *TRITONSERVER_ErrorNew(int code, const char *message);
void TRITONSERVER_ErrorDelete(Error *error);
void fake_free_outputs(Request *request);

#endif
