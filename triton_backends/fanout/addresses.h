/* Where the replicas of each embedding service are: a JSON file that may change while the router runs.
 *
 *     {"tier0": "dns:///rm1-tier0:8001",                 every address of that name, asked for again and again
 *      "tier1": ["10.0.0.7:8001", "10.0.0.8:8001"]}      these */
#ifndef ELASTICREC_ADDRESSES_H
#define ELASTICREC_ADDRESSES_H

#include "settings.h"

enum { HOST_BYTES = 256, MOST_ENDPOINTS = 1024 }; /* endpoints of a service */

typedef struct {
    char host[HOST_BYTES];
    int port;
    bool resolve; /* the host is a name that stands for as many servers as it has addresses */
} Endpoint;

typedef struct {
    Endpoint *items;
    int64_t count;
} Endpoints;

/* Read the endpoints of each service into `found`, one each in the settings' order; entries of others are passed over.
 * False and what was expected, and what came, where the text is wrong; what `found` holds is to be freed all the same. */
bool addresses_read(const char *text, size_t size, const Settings *settings, Endpoints *found, Problem *problem);
void endpoints_free(Endpoints *endpoints);

#endif
