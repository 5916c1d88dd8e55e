#include "requests.h"

#include <stdlib.h>

enum { MOST_TENSORS = 3 }; /* of a group: ids, lengths and weights */

static RequestTensor begin_tensor(const char *name, int64_t group, const char *datatype, const Piece *pieces) {
    RequestTensor tensor = {.datatype = datatype, .pieces = pieces};
    tensor_name(tensor.name, name, group);
    return tensor;
}

static Piece *add(RequestTensor *tensor, Piece *at, const void *numbers, int64_t count) {
    *at = (Piece){numbers, 4 * (size_t)count};
    tensor->piece_count++;
    return at + 1;
}

/* A group's tensors, and their pieces from `at` on; behind both. */
static RequestTensor *add_group(const RoutedPart *part, const Unit *units, int64_t rows, RequestTensor *tensor,
                                Piece **at) {
    *tensor = begin_tensor("ids", part->group, "INT32", *at);
    for (int64_t u = part->first; u < part->end; u++) *at = add(tensor, *at, units[u].ids, units[u].count);
    *++tensor = begin_tensor("lengths", part->group, "INT32", *at);
    for (int64_t u = part->first; u < part->end; u++)
        *at = add(tensor, *at, units[u].lengths, units[u].bags == 0 ? 1 : rows * units[u].bags);
    tensor++;
    if (part->weighted == 0) return tensor;
    *tensor = begin_tensor("weights", part->group, "FP32", *at);
    for (int64_t u = part->first; u < part->end; u++)
        if (units[u].weights != NULL) *at = add(tensor, *at, units[u].weights, units[u].count);
    return tensor + 1;
}

bool request_write(const Settings *settings, const RemoteShard *shard, const Unit *units, const int64_t *rows,
                   Message *message, int64_t *ids) {
    const size_t groups = (size_t)shard->group_count;
    size_t pieces = 0;
    *message = (Message){0};
    *ids = 0;
    for (const RemoteGroup *group = shard->groups; group < shard->groups + groups; group++) {
        pieces += MOST_TENSORS * (size_t)(group->part->end - group->part->first);
        for (int64_t u = group->part->first; u < group->part->end; u++) *ids += units[u].count;
    }
    RequestTensor *tensors = calloc(MOST_TENSORS * groups, sizeof *tensors), *end = tensors;
    Piece *made = calloc(pieces, sizeof *made), *at = made;
    for (size_t g = 0; tensors != NULL && made != NULL && g < groups; g++)
        end = add_group(shard->groups[g].part, units, rows[shard->groups[g].part->group], end, &at);
    const bool good = tensors != NULL && made != NULL &&
                      message_write(message, shard->model, settings->version, tensors, end - tensors);
    free(made);
    free(tensors);
    return good;
}

static AnswerShape shape_of(const char *name, int64_t group, int64_t rows, int64_t width, bool half) {
    AnswerShape shape = {.rows = rows, .width = width, .half = half};
    tensor_name(shape.name, name, group);
    return shape;
}

void request_shapes(const Settings *settings, const RemoteShard *shard, const Unit *units, const int64_t *rows,
                    AnswerShape *shapes) {
    const bool half = settings->half != 0;
    for (const RemoteGroup *group = shard->groups; group < shard->groups + shard->group_count; group++) {
        const RoutedPart *part = group->part;
        int64_t numbers = 0;
        for (int64_t u = part->first; u < part->end; u++) numbers += units[u].count * settings->dims[u];
        if (part->bags > 0) *shapes++ = shape_of("sums", part->group, rows[part->group], group->width, half);
        if (part->unpooled > 0) *shapes++ = shape_of("rows", part->group, 1, numbers, half);
    }
}
