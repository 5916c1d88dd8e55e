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

static void skip_space(Reader *reader) {
    while (reader->at < reader->end && memchr(" \t\r\n", *reader->at, 4) != NULL) reader->at++;
}

static bool unexpected(Reader *reader, const char *expected) {
    return fail(reader->problem, "%s: expected %s at byte %td; build the repository again", reader->file, expected,
                reader->at - reader->begin);
}

bool read_mark(Reader *reader, char mark) {
    const char expected[] = {'\'', mark, '\'', '\0'};
    skip_space(reader);
    if (reader->at == reader->end || *reader->at != mark) return unexpected(reader, expected);
    reader->at++;
    return true;
}

bool read_next(Reader *reader, char close, bool *more) {
    skip_space(reader);
    *more = reader->at < reader->end && *reader->at == ',';
    return read_mark(reader, *more ? ',' : close);
}

bool read_name(Reader *reader, char name[NAME_BYTES]) {
    size_t length = 0;
    if (!read_mark(reader, '"')) return false;
    while (reader->at < reader->end && length + 1 < NAME_BYTES) {
        const char letter = *reader->at | 32, figure = *reader->at;
        if (!(letter >= 'a' && letter <= 'z') && !(figure >= '0' && figure <= '9') && figure != '_' && figure != '-' &&
            figure != '.')
            break;
        name[length++] = *reader->at++;
    }
    name[length] = '\0';
    if (length == 0) return unexpected(reader, "a name");
    if (reader->at == reader->end || *reader->at != '"') return unexpected(reader, "the end of a name");
    reader->at++;
    return true;
}

bool read_key(Reader *reader, const char *key) {
    char name[NAME_BYTES];
    if (!read_name(reader, name)) return false;
    if (strcmp(name, key) != 0) return unexpected(reader, key);
    return read_mark(reader, ':');
}

bool read_count(Reader *reader, int64_t least, int64_t most, int64_t *count) {
    char expected[80];
    snprintf(expected, sizeof expected, "a number from %lld to %lld", (long long)least, (long long)most);
    skip_space(reader);
    const char *first = reader->at;
    int64_t value = 0;
    while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9') {
        value = 10 * value + (*reader->at++ - '0');
        if (value > most) return unexpected(reader, expected);
    }
    if (reader->at == first || value < least) return unexpected(reader, expected);
    *count = value;
    return true;
}

bool read_end(Reader *reader) {
    skip_space(reader);
    return reader->at == reader->end || unexpected(reader, "the end of the file");
}
