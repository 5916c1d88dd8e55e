/* A call's two sides: what an embedding service gets of a query, and what it is to answer with. */
#ifndef ELASTICREC_REQUESTS_H
#define ELASTICREC_REQUESTS_H

#include "settings.h"

/* Of each group that the service holds look-ups of, the units' ids, lengths and weights; ids: how many it asks for.
 * units: the router's; rows: of each group. The message is to be closed whatever comes of it; false where memory is out. */
bool request_write(const Settings *settings, const RemoteShard *shard, const Unit *units, const int64_t *rows,
                   Message *message, int64_t *ids);

/* The answer's tensors: of each group of the service its sums, and its units' rows as they are, one after another. */
void request_shapes(const Settings *settings, const RemoteShard *shard, const Unit *units, const int64_t *rows,
                    AnswerShape *shapes);

#endif
