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

bool read_open(Reader *reader, char close, bool *more) {
    skip_space(reader);
    *more = reader->at == reader->end || *reader->at != close;
    return *more || read_mark(reader, close);
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

/* A code point that \u stands for, half of one too; -1: none. */
static int32_t read_code(Reader *reader) {
    int32_t code = 0;
    if (reader->end - reader->at < 6 || reader->at[0] != '\\' || reader->at[1] != 'u') return -1;
    for (int i = 2; i < 6; i++) {
        static const char figures[] = "0123456789abcdef";
        const char *figure = memchr(figures, reader->at[i] | (reader->at[i] >= 'A' ? 32 : 0), 16);
        if (figure == NULL) return -1;
        code = 16 * code + (int32_t)(figure - figures);
    }
    reader->at += 6;
    return code;
}

/* The letter that a backslash begins, as UTF-8 has it; how many bytes, 0: none. */
static size_t read_escape(Reader *reader, char letter[4]) {
    if (reader->end - reader->at > 1 && memchr("\"\\/", reader->at[1], 3) != NULL) {
        letter[0] = reader->at[1];
        reader->at += 2;
        return 1;
    }
    int32_t code = read_code(reader);
    if (code >= 0xd800 && code < 0xdc00) {
        const int32_t low = read_code(reader);
        code = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00) : -1;
    } else if (code >= 0xdc00 && code < 0xe000) {
        code = -1;
    }
    if (code < ' ') return 0;
    const size_t size = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char marks[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = size - 1; i > 0; i--, code >>= 6) letter[i] = (char)(0x80 | (code & 63));
    letter[0] = (char)(marks[size] | code);
    return size;
}

bool read_text(Reader *reader, char text[NAME_BYTES]) {
    size_t length = 0, size = 1;
    if (!read_mark(reader, '"')) return false;
    for (; reader->at < reader->end && *reader->at != '"' && length + 4 < NAME_BYTES && size > 0; length += size) {
        const char letter = *reader->at;
        size = letter == '\\' ? read_escape(reader, text + length) : (unsigned char)letter >= ' ';
        if (size > 0 && letter != '\\') text[length] = *reader->at++;
    }
    text[length] = '\0';
    if (size == 0 || reader->at == reader->end || *reader->at != '"') return unexpected(reader, "the end of a name");
    if (length == 0) return unexpected(reader, "a name");
    reader->at++;
    return true;
}

bool read_number(Reader *reader, int64_t least, int64_t most, int64_t *number) {
    char expected[80];
    snprintf(expected, sizeof expected, "a number from %lld to %lld", (long long)least, (long long)most);
    skip_space(reader);
    const bool negative = reader->at < reader->end && *reader->at == '-';
    if (negative) reader->at++;
    const char *first = reader->at;
    int64_t value = 0; /* counted downwards: there is one negative number more */
    while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9') {
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_sub_overflow(value, *reader->at - '0', &value))
            return unexpected(reader, expected);
        reader->at++;
    }
    if (reader->at == first || (!negative && value == INT64_MIN)) return unexpected(reader, expected);
    *number = negative ? value : -value;
    return (*number >= least && *number <= most) || unexpected(reader, expected);
}

bool read_end(Reader *reader) {
    skip_space(reader);
    return reader->at == reader->end || unexpected(reader, "the end of the file");
}

void group_suffix(int64_t group, char suffix[SUFFIX_BYTES]) {
    suffix[0] = '\0';
    if (group > 0) snprintf(suffix, SUFFIX_BYTES, "_%d", (int)group);
}
