/* Follows the address file and DNS, in a thread of its own: neither may keep a query waiting. */
#ifndef ELASTICREC_KEEPER_H
#define ELASTICREC_KEEPER_H

#include "engine.h"

typedef struct Keeper Keeper;

/* Give the engine the replicas that `path` names, now and whenever they change.
 * NULL and the problem where the file is missing or wrong. */
Keeper *keeper_open(const char *path, const Settings *settings, Engine *engine, Problem *problem);
void keeper_close(Keeper *keeper);

#endif
