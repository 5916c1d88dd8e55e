/* Follows the address file and DNS, in a thread of its own: neither may keep a query waiting. */
#ifndef ELASTICREC_WATCHER_H
#define ELASTICREC_WATCHER_H

#include "engine.h"

typedef struct Watcher Watcher;

/* Give the engine the replicas that `path` names, now and whenever they change.
 * NULL and the problem where the file is missing or wrong. */
Watcher *watcher_open(const char *path, const Settings *settings, Engine *engine, Problem *problem);
void watcher_close(Watcher *watcher);

#endif
