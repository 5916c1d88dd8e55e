/* Between Triton and a model: shell.c has Triton's entry points, tensors.c knows requests and responses.
 *
 * A backend library holds both and a model, which defines the three functions. */
#ifndef ELASTICREC_SHELL_H
#define ELASTICREC_SHELL_H

#include "files.h"
#include "tensor.h"
#include "triton.h"

/* Open what lies in a model's version folder; NULL and the problem where it is broken. All instances share it. */
void *model_open(TRITONBACKEND_Model *triton_model, const char *folder, Problem *problem);
void model_close(void *model);

/* Answer and release all these requests, now or later. Called by several threads at once. `model`: what was opened, or
 * the instance's own state where its backend sets one. */
void model_execute(void *model, TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request **requests,
                   uint32_t request_count);

/* Whether a call of Triton's went well; else what it says is the problem. */
bool passed(TRITONSERVER_Error *error, Problem *problem);

/* Where nobody is left to be told. */
void log_error(TRITONSERVER_Error *error);

/* A warning in the server's log, as printf would. */
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t now_ns(void); /* of CLOCK_MONOTONIC, as Triton's statistics want it */

/* Open a request's input, of any numbers and up to MOST_DIMS dimensions; to be closed whatever comes of it. It may be at
 * any address: as it came from a socket. */
bool tensor_open(TRITONBACKEND_Request *request, const char *name, Tensor *tensor, Problem *problem);
bool tensor_align(Tensor *tensor, const char *name, Problem *problem); /* have it at one that its numbers can be read at */
void tensor_close(Tensor *tensor);

/* As Triton calls a type; bytes of a number, 0 where it is of no fixed size. */
const char *type_name(int type);
size_t number_bytes(int type);

/* A new output; its buffer need not be aligned. */
bool add_tensor(TRITONBACKEND_Response *response, const char *name, int type, const int64_t *shape, size_t dims,
                void **data, Problem *problem);
bool add_output(TRITONBACKEND_Response *response, const char *name, int type, int64_t rows, int64_t columns,
                void **data, Problem *problem);

#endif
