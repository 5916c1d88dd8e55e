/* Answers by ONNX Runtime: the rows of a batch's queries are one run of the model where they fit together. */
#include <stdlib.h>
#include <string.h>

#include "onnxruntime_model.h"

/* Rows of a run on the CPU, unless a query has more by itself. RM3's dense layers take 2.28 ms for 32 rows, by 128 at once
 * 1.93 for each 32, by 512 1.82; and a run's memory grows with its rows. A GPU takes all of MOST_QUERIES. */
enum { MOST_CPU_ROWS = 128, MOST_QUERIES = 64 };

/* ONNX Runtime's numbers of Triton's types; 0 where it has none. */
static const int ort_types[TRITON_TYPES] = {0, 9, 2, 4, 12, 13, 3, 5, 6, 7, 10, 1, 11, 0, 16};

typedef struct {
    TRITONBACKEND_Request *request;
    TRITONBACKEND_Response *response;
    Tensor *tensors; /* the model's inputs */
    int64_t rows;    /* of each input; -1: there are none, or not the same of all */
    bool good;
    Problem problem;
} Query;

/* An output of a run. */
typedef struct {
    const char *numbers;
    size_t bytes; /* of all */
    int64_t shape[MOST_DIMS];
    size_t dims;
    int type; /* Triton's */
} Output;

/* What a run needs, and gives: `values` has the inputs, then the outputs. */
typedef struct {
    Tensor *inputs;
    OrtValue **values;
    Output *outputs;
} Run;

/* ---- queries ---- */

static int64_t rows_of(const Model *model, const Tensor *tensors) {
    int64_t rows = -1;
    for (size_t i = 0; i < model->inputs; i++) {
        if (tensors[i].dims == 0 || (i > 0 && tensors[i].shape[0] != rows)) return -1;
        rows = tensors[i].shape[0];
    }
    return rows > 0 ? rows : -1;
}

static bool open_inputs(const Model *model, Query *query) {
    query->tensors = calloc(model->inputs + 1, sizeof *query->tensors);
    if (query->tensors == NULL) return fail(&query->problem, "out of memory");
    for (size_t i = 0; i < model->inputs; i++)
        if (!tensor_open(query->request, model->names[i], query->tensors + i, &query->problem) ||
            !tensor_align(query->tensors + i, model->names[i], &query->problem))
            return false;
    query->rows = rows_of(model, query->tensors);
    return true;
}

static void open_query(const Model *model, TRITONBACKEND_Request *request, Query *query) {
    *query = (Query){.request = request, .rows = -1};
    query->good = passed(TRITONBACKEND_ResponseNew(&query->response, request), &query->problem) &&
                  open_inputs(model, query);
}

/* Send what came of it; the request is no longer ours afterwards. */
static void close_query(const Model *model, TRITONBACKEND_ModelInstance *instance, Query *query, uint64_t begin_ns) {
    const uint64_t end_ns = now_ns();
    TRITONSERVER_Error *error = query->good ? NULL : TRITONSERVER_ErrorNew(TRITON_ERROR_INVALID_ARG, query->problem.text);
    if (query->response != NULL) log_error(TRITONBACKEND_ResponseSend(query->response, TRITON_RESPONSE_FINAL, error));
    if (error != NULL) TRITONSERVER_ErrorDelete(error);
    for (size_t i = 0; query->tensors != NULL && i < model->inputs; i++) tensor_close(query->tensors + i);
    free(query->tensors);
    log_error(TRITONBACKEND_ModelInstanceReportStatistics(instance, query->request, query->good, begin_ns, begin_ns,
                                                          end_ns, end_ns));
    log_error(TRITONBACKEND_RequestRelease(query->request, TRITON_RELEASE_ALL));
}

/* Whether one's rows can stand below the other's. */
static bool are_alike(const Model *model, const Query *query, const Query *other) {
    for (size_t i = 0; i < model->inputs; i++) {
        const Tensor *tensor = query->tensors + i, *next = other->tensors + i;
        if (tensor->type != next->type || tensor->dims != next->dims) return false;
        if (memcmp(tensor->shape + 1, next->shape + 1, sizeof *tensor->shape * (size_t)(tensor->dims - 1)) != 0)
            return false;
    }
    return true;
}

/* How many, from the first on, are run as one. */
static uint32_t together(const Place *place, const Query *queries, uint32_t count) {
    int64_t rows = queries->rows;
    uint32_t number = 1;
    if (!place->joins || rows < 0) return 1;
    for (; number < count; number++) {
        const Query *next = queries + number;
        if (!next->good || next->rows < 0 || !are_alike(place->model, queries, next)) break;
        rows += next->rows;
        if (place->gpu == ON_CPU && rows > MOST_CPU_ROWS) break;
    }
    return number;
}

/* ---- a run ---- */

static void close_run(const Model *model, Run *run) {
    for (size_t i = 0; run->values != NULL && i < model->inputs + model->outputs; i++)
        if (run->values[i] != NULL) model->ort.ReleaseValue(run->values[i]);
    for (size_t i = 0; run->inputs != NULL && i < model->inputs; i++) tensor_close(run->inputs + i);
    free(run->values);
    free(run->inputs);
    free(run->outputs);
}

/* An input of all queries, row below row; of one it stays where it lies. */
static bool join_input(const Query *queries, uint32_t count, size_t input, Tensor *joined, Problem *problem) {
    *joined = queries->tensors[input];
    joined->copy = NULL;
    if (count == 1) return true;
    joined->count = joined->shape[0] = 0;
    for (const Query *query = queries; query < queries + count; query++) {
        joined->count += query->tensors[input].count;
        joined->shape[0] += query->rows;
    }
    char *to = joined->copy = malloc((size_t)(joined->count * joined->bytes) + 1);
    if (to == NULL) return fail(problem, "out of memory for %lld rows", (long long)joined->shape[0]);
    joined->data = to;
    for (const Query *query = queries; query < queries + count; query++) {
        const Tensor *tensor = query->tensors + input;
        memcpy(to, tensor->data, (size_t)(tensor->count * tensor->bytes));
        to += tensor->count * tensor->bytes;
    }
    return true;
}

static bool wrap_input(const Model *model, const Tensor *tensor, OrtValue **value, Problem *problem) {
    return done(model,
                model->ort.CreateTensorWithDataAsOrtValue(model->memory, (void *)tensor->data,
                                                          (size_t)(tensor->count * tensor->bytes), tensor->shape,
                                                          (size_t)tensor->dims, ort_types[tensor->type], value),
                problem);
}

static bool read_shape(const Model *model, const char *name, const OrtTensorTypeAndShapeInfo *about, Output *output,
                       Problem *problem) {
    int type = 0;
    if (!done(model, model->ort.GetTensorElementType(about, &type), problem) ||
        !done(model, model->ort.GetDimensionsCount(about, &output->dims), problem))
        return false;
    if (output->dims > MOST_DIMS)
        return fail(problem, "%s: expected at most %d dimensions, got %zu", name, MOST_DIMS, output->dims);
    while (output->type < TRITON_TYPES && (ort_types[output->type] != type || type == 0)) output->type++;
    if (output->type == TRITON_TYPES) return fail(problem, "%s: expected a model that gives numbers", name);
    if (!done(model, model->ort.GetDimensions(about, output->shape, output->dims), problem)) return false;
    output->bytes = number_bytes(output->type);
    for (size_t i = 0; i < output->dims; i++) output->bytes *= (size_t)output->shape[i];
    return true;
}

static bool read_output(const Model *model, const char *name, OrtValue *value, Output *output, Problem *problem) {
    OrtTensorTypeAndShapeInfo *about = NULL;
    void *numbers;
    *output = (Output){0};
    const bool good = done(model, model->ort.GetTensorTypeAndShape(value, &about), problem) &&
                      read_shape(model, name, about, output, problem) &&
                      done(model, model->ort.GetTensorMutableData(value, &numbers), problem);
    if (good) output->numbers = numbers;
    if (about != NULL) model->ort.ReleaseTensorTypeAndShapeInfo(about);
    return good;
}

/* Run the model on the queries' rows, and see what it gives. */
static bool compute(const Place *place, const Query *queries, uint32_t count, Run *run, Problem *problem) {
    const Model *model = place->model;
    run->inputs = calloc(model->inputs + 1, sizeof *run->inputs);
    run->values = calloc(model->inputs + model->outputs, sizeof *run->values);
    run->outputs = calloc(model->outputs + 1, sizeof *run->outputs);
    if (run->inputs == NULL || run->values == NULL || run->outputs == NULL) return fail(problem, "out of memory");
    for (size_t i = 0; i < model->inputs; i++)
        if (!join_input(queries, count, i, run->inputs + i, problem) ||
            !wrap_input(model, run->inputs + i, run->values + i, problem))
            return false;
    const char *const *names = (const char *const *)model->names;
    const OrtValue *const *inputs = (const OrtValue *const *)run->values;
    OrtValue **outputs = run->values + model->inputs;
    if (!done(model,
              model->ort.Run(place->session, NULL, names, inputs, model->inputs, names + model->inputs,
                             model->outputs, outputs),
              problem))
        return false;
    for (size_t i = 0; i < model->outputs; i++)
        if (!read_output(model, names[model->inputs + i], outputs[i], run->outputs + i, problem)) return false;
    return true;
}

/* Whether each row has its own part of every output. */
static bool has_rows(const Model *model, const Run *run) {
    for (size_t i = 0; i < model->outputs; i++)
        if (run->outputs[i].dims == 0 || run->outputs[i].shape[0] != run->inputs->shape[0]) return false;
    return true;
}

/* Put a query's rows of an output, which begin at `from`, into its response. */
static bool put_rows(const char *name, Output *output, const char *from, size_t bytes, Query *query) {
    void *to;
    if (!add_tensor(query->response, name, output->type, output->shape, output->dims, &to, &query->problem))
        return false;
    if (bytes > 0) memcpy(to, from, bytes);
    return true;
}

static void put_outputs(const Model *model, const Run *run, Query *queries, uint32_t count) {
    const int64_t rows = count > 1 ? run->inputs->shape[0] : 1;
    for (size_t i = 0; i < model->outputs; i++) {
        Output *output = run->outputs + i;
        const char *from = output->numbers;
        for (Query *query = queries; query < queries + count; query++) {
            const size_t bytes = count > 1 ? output->bytes / (size_t)rows * (size_t)query->rows : output->bytes;
            if (count > 1) output->shape[0] = query->rows;
            query->good = query->good && put_rows(model->names[model->inputs + i], output, from, bytes, query);
            from += bytes;
        }
    }
}

/* Answer these as one; where that fails each alone, so that none fails for another's fault. */
static void answer(const Place *place, Query *queries, uint32_t count) {
    Run run = {0};
    Problem problem;
    if (compute(place, queries, count, &run, &problem) && (count == 1 || has_rows(place->model, &run)))
        put_outputs(place->model, &run, queries, count);
    else if (count > 1)
        for (uint32_t i = 0; i < count; i++) answer(place, queries + i, 1);
    else {
        queries->good = false;
        queries->problem = problem;
    }
    close_run(place->model, &run);
}

void model_execute(void *state, TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request **requests,
                   uint32_t request_count) {
    const Place *place = state;
    const Model *model = place->model;
    const uint64_t begin_ns = now_ns();
    uint32_t answered = 0;
    Query queries[MOST_QUERIES];
    for (uint32_t first = 0; first < request_count; first += MOST_QUERIES) {
        const uint32_t count = request_count - first < MOST_QUERIES ? request_count - first : MOST_QUERIES;
        for (uint32_t i = 0; i < count; i++) open_query(model, requests[first + i], queries + i);
        for (uint32_t i = 0, number; i < count; i += number) {
            const uint64_t run_ns = now_ns();
            number = queries[i].good ? together(place, queries + i, count - i) : 1;
            if (queries[i].good) answer(place, queries + i, number);
            for (uint32_t j = i; j < i + number; j++) {
                answered += queries[j].good;
                close_query(model, instance, queries + j, run_ns);
            }
        }
    }
    const uint64_t end_ns = now_ns();
    if (answered > 0)
        log_error(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, answered, begin_ns, begin_ns, end_ns,
                                                                   end_ns));
}
