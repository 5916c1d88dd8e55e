/* TLS by OpenSSL's libssl, opened only where it is asked for; PEM files as the environment names them. */
#ifndef ELASTICREC_TLS_H
#define ELASTICREC_TLS_H

#include <sys/types.h>

#include "../native/files.h"

typedef struct Tls Tls;         /* whom we trust, and who we are */
typedef struct Secured Secured; /* one connection's session */

/* What ELASTICREC_TLS_CA, _CERT and _KEY ask for: *tls is NULL without a CA, which is plain text.
 * False where a certificate stands without key or CA, a key without certificate, or a file or library is missing. */
bool tls_open(Tls **tls, Problem *problem);
void tls_close(Tls *tls);

/* Begin a session on a connected socket; the files are read anew, as they may have been renewed.
 * host: that the server's certificate must be for, a name or an address. */
Secured *tls_begin(const Tls *tls, int socket, const char *host, Problem *problem);
void tls_end(Secured *session);

/* 1: it is done, 0: call again when the socket is ready (*writes: for writing), -1: it failed */
int tls_handshake(Secured *session, bool *writes, Problem *problem);

/* Bytes moved; 0: call again when the socket is ready; -1: the connection is gone */
ssize_t tls_read(Secured *session, void *bytes, size_t room, Problem *problem);
ssize_t tls_write(Secured *session, const void *bytes, size_t size, Problem *problem);

#endif
