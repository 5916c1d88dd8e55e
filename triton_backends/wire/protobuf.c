#include "protobuf.h"

#include <string.h>

enum { LENGTH_DELIMITED = 2, VARINT = 0, FIXED64 = 1, FIXED32 = 5 };

char *put_varint(char *at, uint64_t value) {
    for (; value >= 128; value >>= 7) *at++ = (char)(value | 128);
    *at++ = (char)value;
    return at;
}

char *put_tag(char *at, uint32_t field, uint64_t size) {
    *at++ = (char)(field << 3 | LENGTH_DELIMITED);
    return put_varint(at, size);
}

char *put_text(char *at, uint32_t field, const char *text) {
    const size_t size = strlen(text);
    at = put_tag(at, field, size);
    memcpy(at, text, size);
    return at + size;
}


bool take_varint(Bytes *bytes, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 64 && bytes->at < bytes->end; shift += 7) {
        const uint8_t byte = *bytes->at++;
        *value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return true;
    }
    return false;
}

bool take_bytes(Bytes *bytes, uint64_t size, Bytes *taken) {
    if (size > (uint64_t)(bytes->end - bytes->at)) return false;
    *taken = (Bytes){bytes->at, bytes->at + size};
    bytes->at += size;
    return true;
}

bool take_field(Bytes *bytes, Field *field) {
    uint64_t tag;
    if (!take_varint(bytes, &tag)) return false;
    field->number = tag >> 3;
    field->delimited = (tag & 7) == LENGTH_DELIMITED;
    switch (tag & 7) {
        case VARINT: return take_varint(bytes, &field->value);
        case FIXED64: return take_bytes(bytes, 8, &field->content);
        case FIXED32: return take_bytes(bytes, 4, &field->content);
        case LENGTH_DELIMITED:
            return take_varint(bytes, &field->value) && take_bytes(bytes, field->value, &field->content);
        default: return false;
    }
}

bool is_text(const Field *field, const char *text) {
    const size_t size = strlen(text);
    return field->delimited && (size_t)(field->content.end - field->content.at) == size &&
           memcmp(field->content.at, text, size) == 0;
}
