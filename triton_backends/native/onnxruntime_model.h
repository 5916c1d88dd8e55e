/* A model that ONNX Runtime runs, between who opens its sessions and who answers with them. */
#ifndef ELASTICREC_ONNXRUNTIME_MODEL_H
#define ELASTICREC_ONNXRUNTIME_MODEL_H

#include "onnxruntime.h"
#include "shell.h"

typedef struct Model Model;

/* The model on a device, shared by all instances there: their state. */
typedef struct Place {
    const Model *model;
    int32_t gpu;
    bool joins; /* rows of several queries may be run as one */
    OrtSession *session;
    struct Place *next;
} Place;

enum { ON_CPU = -1 };

struct Model {
    OrtApi ort;
    OrtEnv *environment;
    OrtMemoryInfo *memory;
    OrtAllocator *allocator; /* ONNX Runtime's own */
    char *path;              /* of model.onnx */
    Place *places;           /* Triton makes a model's instances one after another */
    char **names;            /* of the inputs, then of the outputs; read of the first place */
    size_t inputs, outputs;
};

/* Whether a call of ONNX Runtime's went well; else what it says is the problem. */
bool done(const Model *model, OrtStatus *status, Problem *problem);

#endif
