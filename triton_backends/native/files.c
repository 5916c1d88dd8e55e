#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool fail(Problem *problem, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(problem->text, sizeof problem->text, format, arguments);
    va_end(arguments);
    return false;
}

static bool map_open_file(int descriptor, const char *name, Mapping *mapping, Problem *problem) {
    struct stat status;
    if (fstat(descriptor, &status) != 0) return fail(problem, "%s: %s", name, strerror(errno));
    if (!S_ISREG(status.st_mode)) return fail(problem, "%s: expected a file", name);
    *mapping = (Mapping){NULL, (size_t)status.st_size};
    if (mapping->size == 0) return true;
    void *bytes = mmap(NULL, mapping->size, PROT_READ, MAP_SHARED | MAP_POPULATE, descriptor, 0);
    if (bytes == MAP_FAILED) return fail(problem, "%s: cannot be mapped: %s", name, strerror(errno));
    mapping->bytes = bytes;
    return true;
}

bool map_file(const char *folder, const char *name, Mapping *mapping, Problem *problem) {
    const size_t room = strlen(folder) + strlen(name) + 2;
    char *path = malloc(room);
    if (path == NULL) return fail(problem, "%s: out of memory", name);
    snprintf(path, room, "%s/%s", folder, name);
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    free(path);
    if (descriptor < 0) return fail(problem, "%s: %s", name, strerror(errno));
    const bool mapped = map_open_file(descriptor, name, mapping, problem);
    close(descriptor);
    return mapped;
}

void unmap_file(Mapping *mapping) {
    if (mapping->bytes != NULL) munmap((void *)mapping->bytes, mapping->size);
    *mapping = (Mapping){NULL, 0};
}

static const char NAME_LETTERS[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
enum { LONGEST_TEXT = NAME_BYTES - 5 }; /* where room for one more letter is left nothing was left out */

static bool unexpected(Reader *reader, const char *expected) {
    return fail(reader->problem, "%s: expected %s at byte %td; build the repository again", reader->file, expected,
                reader->json.at - reader->begin);
}

Reader reader_of(const Mapping *text, const char *file, Problem *problem) {
    const char *begin = text->bytes;
    return (Reader){begin, {begin, begin == NULL ? NULL : begin + text->size}, file, problem};
}

bool read_mark(Reader *reader, char mark) {
    const char expected[] = {'\'', mark, '\'', '\0'};
    return json_mark(&reader->json, mark) || unexpected(reader, expected);
}

bool read_next(Reader *reader, char close, bool *more) {
    *more = json_peek(&reader->json) == ',';
    return read_mark(reader, *more ? ',' : close);
}

bool read_open(Reader *reader, char close, bool *more) {
    *more = json_peek(&reader->json) != close;
    return *more || read_mark(reader, close);
}

bool read_text(Reader *reader, char text[NAME_BYTES]) {
    if (json_peek(&reader->json) != '"') return read_mark(reader, '"');
    bool good = json_string(&reader->json, text, NAME_BYTES);
    for (const char *letter = text; good && *letter != '\0'; letter++) good = (unsigned char)*letter >= ' ';
    if (!good || strlen(text) > LONGEST_TEXT) return unexpected(reader, "the end of a name");
    return *text != '\0' || unexpected(reader, "a name");
}

bool read_name(Reader *reader, char name[NAME_BYTES]) {
    if (!read_text(reader, name)) return false;
    for (const char *letter = name; *letter != '\0'; letter++)
        if (memchr(NAME_LETTERS, *letter, sizeof NAME_LETTERS - 1) == NULL) return unexpected(reader, "a name");
    return true;
}

bool read_key(Reader *reader, const char *key) {
    char name[NAME_BYTES];
    if (!read_name(reader, name)) return false;
    if (strcmp(name, key) != 0) return unexpected(reader, key);
    return read_mark(reader, ':');
}

bool read_number(Reader *reader, int64_t least, int64_t most, int64_t *number) {
    char expected[80];
    Json *json = &reader->json;
    snprintf(expected, sizeof expected, "a number from %lld to %lld", (long long)least, (long long)most);
    const bool negative = json_mark(json, '-');
    const char *first = json->at;
    int64_t value = 0; /* counted downwards: there is one negative number more */
    while (json->at < json->end && *json->at >= '0' && *json->at <= '9') {
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_sub_overflow(value, *json->at - '0', &value))
            return unexpected(reader, expected);
        json->at++;
    }
    if (json->at == first || (!negative && value == INT64_MIN)) return unexpected(reader, expected);
    *number = negative ? value : -value;
    return (*number >= least && *number <= most) || unexpected(reader, expected);
}

bool read_end(Reader *reader) {
    json_peek(&reader->json);
    return reader->json.at == reader->json.end || unexpected(reader, "the end of the file");
}

void tensor_name(char text[TENSOR_NAME_BYTES], const char *name, int64_t group) {
    char *end = stpcpy(text, name);
    if (group > 0) snprintf(end, (size_t)(text + TENSOR_NAME_BYTES - end), "_%d", (int)group);
}
