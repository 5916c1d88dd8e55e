/* Taking JSON apart, as people or programs write it: any value, any white space. Nothing is trusted. */
#ifndef ELASTICREC_JSON_H
#define ELASTICREC_JSON_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    const char *at, *end;
} Json;

char json_peek(Json *json);                              /* the next character after white space; 0 at the end */
bool json_mark(Json *json, char mark);                   /* take this character, after white space */
bool json_string(Json *json, char *text, size_t room);   /* take a string, in UTF-8; what has no room is left out */
bool json_value(Json *json, const char **from, size_t *size); /* take any value, and where it stands */

/* take a member of an object that has begun, up to its value; false at its end, and where it is none */
bool json_next_member(Json *object, bool first, char *name, size_t room);
Json json_member(Json object, const char *wanted); /* what stands there under this name; nothing where it has no such member */

#endif
