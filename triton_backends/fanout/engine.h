/* The router's event loop, in a thread of its own: Triton's thread hands queries over and is free for the next. */
#ifndef ELASTICREC_ENGINE_H
#define ELASTICREC_ENGINE_H

#include "calls.h"

typedef struct Engine Engine;

/* A running loop over services that have no replicas yet; NULL and the problem where it cannot run. */
Engine *engine_open(const Settings *settings, const Tls *tls, Counters *counters, Problem *problem);

/* Queries under way get an error; afterwards no query, nor anything of the engine, is used any more. */
void engine_close(Engine *engine);

/* The services, in the settings' order: for a query's calls. */
RemoteService *engine_service(Engine *engine, int64_t index);

/* Begin a query; `answered` is called in the engine's thread. Both from any thread. */
void engine_submit(Engine *engine, Query *query);

/* The replicas of a service from now on; addresses: the engine's from here. */
void engine_set_addresses(Engine *engine, int64_t service, Address *addresses, int64_t count);

#endif
