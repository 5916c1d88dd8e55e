/* Reading a model's files: mapped, or a JSON description in the exact form that the builder writes.
 *
 * Functions that can fail return false and leave the reason in a `Problem`. */
#ifndef ELASTICREC_FILES_H
#define ELASTICREC_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "json.h"

enum { NAME_BYTES = 256 }; /* of a table, tensor or service, its end included */
enum { TENSOR_NAME_BYTES = 32 }; /* of a group's tensor, its end included */

typedef struct {
    char text[512];
} Problem;

/* Note what is wrong, as printf would; cut where it is too long. Returns false. */
bool fail(Problem *problem, const char *format, ...) __attribute__((format(printf, 2, 3)));

typedef struct {
    const void *bytes; /* page-aligned; NULL where the file is empty */
    size_t size;
} Mapping;

/* Map a file for reading, its pages shared with all processes that do so, and read them all in. */
bool map_file(const char *folder, const char *name, Mapping *mapping, Problem *problem);
void unmap_file(Mapping *mapping);

/* A index in a JSON text. */
typedef struct {
    const char *begin;
    Json json;
    const char *file; /* its name, for messages */
    Problem *problem;
} Reader;

Reader reader_of(const Mapping *text, const char *file, Problem *problem);

bool read_mark(Reader *reader, char mark);              /* this character, after white space */
bool read_next(Reader *reader, char close, bool *more); /* a list goes on (`,`) or ends (`close`) */
bool read_open(Reader *reader, char close, bool *more); /* a list that has begun holds something, or ends (`close`) */
bool read_key(Reader *reader, const char *key);         /* "key": */
bool read_name(Reader *reader, char name[NAME_BYTES]);  /* a string of letters, digits, _, - and . */
bool read_text(Reader *reader, char text[NAME_BYTES]);  /* any string that is not empty, in UTF-8 */
bool read_number(Reader *reader, int64_t least, int64_t most, int64_t *number); /* an integer in these bounds */
bool read_end(Reader *reader);                          /* nothing more */

/* What a group's tensor is called: `name`, at most 20 letters, and after the first group the group's number. */
void tensor_name(char text[TENSOR_NAME_BYTES], const char *name, int64_t group);

#endif
