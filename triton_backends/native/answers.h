/* Between `answers.c` and a model whose requests are answered one by one. */
#ifndef ELASTICREC_ANSWERS_H
#define ELASTICREC_ANSWERS_H

#include "shell.h"

/* Put the outputs of a request into its response. Called by several threads at once. */
bool model_answer(const void *model, TRITONBACKEND_Request *request, TRITONBACKEND_Response *response,
                  Problem *problem);

#endif
