#include "json.h"

#include <string.h>

enum { MOST_DEPTH = 32 };

char json_peek(Json *json) {
    while (json->at < json->end && memchr(" \t\r\n", *json->at, 4) != NULL) json->at++;
    return json->at < json->end ? *json->at : '\0';
}

bool json_mark(Json *json, char mark) {
    if (json_peek(json) != mark || json->at == json->end) return false;
    json->at++;
    return true;
}

/* What a backslash and the next letter stand for; of \u the figures, which no name of ours has, become a `?`. */
static bool unescape(Json *json, char *letter) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (json->at == json->end) return false;
    const char kind = *json->at++;
    const char *place = strchr(from, kind);
    if (place != NULL && kind != '\0') {
        *letter = to[place - from];
        return true;
    }
    if (kind != 'u' || json->end - json->at < 4) return false;
    for (int i = 0; i < 4; i++)
        if (strchr("0123456789abcdefABCDEF", *json->at++) == NULL) return false;
    *letter = '?';
    return true;
}

bool json_string(Json *json, char *text, size_t room) {
    size_t length = 0;
    if (!json_mark(json, '"')) return false;
    while (json->at < json->end && *json->at != '"') {
        char letter = *json->at++;
        if ((unsigned char)letter < ' ' || (letter == '\\' && !unescape(json, &letter))) return false;
        if (length + 1 < room) text[length++] = letter;
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
