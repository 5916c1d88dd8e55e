/* TLS by OpenSSL's libssl, opened only where it is asked for; PEM files as the environment names them. */
#ifndef ELASTICREC_TLS_H
#define ELASTICREC_TLS_H

#include <sys/types.h>

#include "../native/files.h"

enum { TLS_RECORD_BYTES = 1 << 14 /* of content: a read brings no more */ };

typedef struct Tls Tls;         /* whom we trust, and who we are; of one thread at a time */
typedef struct Secured Secured; /* one connection's session */

/* What the environment asks for; *tls is NULL where that is plain text. False where a file's name stands without
 * another that it needs, or a file or library is missing or wrong.
 *
 * A client's: ELASTICREC_TLS_CA, whom it trusts, and beside it _CERT and _KEY, by which servers know it.
 * A server's: ELASTICREC_LISTEN_CERT and _KEY, and beside these _CA, of which every client must have a certificate. */
bool tls_client_open(Tls **tls, Problem *problem);
bool tls_server_open(Tls **tls, Problem *problem);
void tls_close(Tls *tls);

/* Begin a session on a connected socket; a file that was renewed is read again.
 * host: that the server's certificate must be for, a name or an address; NULL: we are the server.
 * Where renewed files are wrong a server goes on by those before, and the problem says why; a client gets NULL. */
Secured *tls_begin(Tls *tls, int socket, const char *host, Problem *problem);
void tls_end(Secured *session);

/* 1: it is done, 0: call again when the socket is ready (*writes: for writing), -1: it failed */
int tls_handshake(Secured *session, bool *writes, Problem *problem);

/* Bytes moved; 0: call again when the socket is ready; -1: the connection is gone. Nothing that was received is kept
 * back once `tls_read` had TLS_RECORD_BYTES of room. */
ssize_t tls_read(Secured *session, void *bytes, size_t room, Problem *problem);
ssize_t tls_write(Secured *session, const void *bytes, size_t size, Problem *problem);

#endif
