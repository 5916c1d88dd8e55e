/* Protocol buffers' encoding, as far as inference messages need it. Of what is read nothing is trusted. */
#ifndef ELASTICREC_PROTOBUF_H
#define ELASTICREC_PROTOBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Each returns the end of what it wrote. */
char *put_varint(char *at, uint64_t value);
char *put_tag(char *at, uint32_t field, uint64_t size); /* of a field that is `size` bytes long */
char *put_text(char *at, uint32_t field, const char *text);

typedef struct {
    const uint8_t *at, *end;
} Bytes;

typedef struct {
    uint64_t number; /* the field's */
    uint64_t value;  /* of a varint */
    Bytes content;   /* of a length-delimited field */
    bool delimited;
} Field;

/* Take the next one off; false where there is none. */
bool take_varint(Bytes *bytes, uint64_t *value);
bool take_field(Bytes *bytes, Field *field);

bool is_text(const Field *field, const char *text);

#endif
