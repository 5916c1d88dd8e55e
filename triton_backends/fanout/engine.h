/* The router's event loop. A thread of its own waits for what is to be done; who hands a query over begins it and sends its
 * calls itself, without waking that thread, unless somebody is at the loop already. One at a time has the turn. */
#ifndef ELASTICREC_ENGINE_H
#define ELASTICREC_ENGINE_H

#include "calls.h"

typedef struct Engine Engine;

/* A running loop over services that have no replicas yet; NULL and the problem where it cannot run. */
Engine *engine_open(const Settings *settings, Tls *tls, Counters *counters, Problem *problem);

/* Queries under way get an error; afterwards no query, nor anything of the engine, is used any more. */
void engine_close(Engine *engine);

/* The services, in the settings' order: for a query's calls. */
RemoteService *engine_service(Engine *engine, int64_t index);

/* Begin a query, from any thread; `answered` is called in the engine's, or in that of any query that is submitted. */
void engine_submit(Engine *engine, Query *query);

/* From any thread: the replicas of a service from now on; addresses: the engine's from here. */
void engine_set_addresses(Engine *engine, int64_t service, Address *addresses, int64_t count);

#endif
