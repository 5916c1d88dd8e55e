#include "json.h"

#include <stdint.h>
#include <string.h>

enum { MOST_DEPTH = 32, MOST_NAME = 256 };

char json_peek(Json *json) {
    while (json->at < json->end && memchr(" \t\r\n", *json->at, 4) != NULL) json->at++;
    return json->at < json->end ? *json->at : '\0';
}

bool json_mark(Json *json, char mark) {
    if (json_peek(json) != mark || json->at == json->end) return false;
    json->at++;
    return true;
}

/* A code point that \u stands for, half of one too; -1: none. */
static int32_t take_code(Json *json) {
    int32_t code = 0;
    if (json->end - json->at < 6 || json->at[0] != '\\' || json->at[1] != 'u') return -1;
    for (int i = 2; i < 6; i++) {
        static const char figures[] = "0123456789abcdef";
        const char *figure = memchr(figures, json->at[i] | (json->at[i] >= 'A' ? 32 : 0), 16);
        if (figure == NULL) return -1;
        code = 16 * code + (int32_t)(figure - figures);
    }
    json->at += 6;
    return code;
}

/* The letter that a backslash begins, as UTF-8 has it; how many bytes, 0: none. */
static size_t take_escape(Json *json, char letter[4]) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *known = json->end - json->at > 1 ? memchr(from, json->at[1], sizeof from - 1) : NULL;
    if (known != NULL) {
        letter[0] = to[known - from];
        json->at += 2;
        return 1;
    }
    int32_t code = take_code(json);
    if (code >= 0xd800 && code < 0xdc00) {
        const int32_t low = take_code(json);
        code = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00) : -1;
    } else if (code >= 0xdc00 && code < 0xe000) {
        code = -1;
    }
    if (code < 1) return 0;
    const size_t size = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char marks[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = size - 1; i > 0; i--, code >>= 6) letter[i] = (char)(0x80 | (code & 63));
    letter[0] = (char)(marks[size] | code);
    return size;
}

bool json_string(Json *json, char *text, size_t room) {
    size_t length = 0;
    bool fits = room > 0;
    if (!json_mark(json, '"')) return false;
    while (json->at < json->end && *json->at != '"') {
        char letter[4] = {*json->at};
        const bool escaped = *letter == '\\';
        const size_t size = escaped ? take_escape(json, letter) : (unsigned char)*letter >= ' ';
        if (size == 0) return false;
        if (!escaped) json->at++;
        fits = fits && length + size < room;
        if (!fits) continue;
        memcpy(text + length, letter, size);
        length += size;
    }
    if (room > 0) text[length] = '\0';
    return json_mark(json, '"');
}

static bool skip(Json *json, int depth);

static bool skip_items(Json *json, char close, int depth) {
    if (json_mark(json, close)) return true;
    do {
        if (close == '}' && (!json_string(json, NULL, 0) || !json_mark(json, ':'))) return false;
        if (!skip(json, depth + 1)) return false;
    } while (json_mark(json, ','));
    return json_mark(json, close);
}

/* A number, true, false or null; more words pass than JSON has. */
static bool skip_word(Json *json) {
    const char *begin = json->at;
    while (json->at < json->end && *json->at != '\0' &&
           strchr("+-.0123456789abcdefghijklmnopqrstuvwxyzE", *json->at) != NULL)
        json->at++;
    return json->at > begin;
}

static bool skip(Json *json, int depth) {
    if (depth == MOST_DEPTH) return false;
    switch (json_peek(json)) {
        case '"': return json_string(json, NULL, 0);
        case '{': json->at++; return skip_items(json, '}', depth);
        case '[': json->at++; return skip_items(json, ']', depth);
        default: return skip_word(json);
    }
}

bool json_value(Json *json, const char **from, size_t *size) {
    json_peek(json);
    *from = json->at;
    const bool good = skip(json, 0);
    *size = (size_t)(json->at - *from);
    return good;
}

bool json_next_member(Json *object, bool first, char *name, size_t room) {
    if (!json_mark(object, first ? '{' : ',') || json_peek(object) == '}') return false;
    return json_string(object, name, room) && json_mark(object, ':');
}

Json json_member(Json object, const char *wanted) {
    char name[MOST_NAME];
    const char *from;
    size_t size;
    for (bool first = true; json_next_member(&object, first, name, sizeof name); first = false) {
        if (!json_value(&object, &from, &size)) break;
        if (strcmp(name, wanted) == 0) return (Json){from, from + size};
    }
    return (Json){object.end, object.end};
}
