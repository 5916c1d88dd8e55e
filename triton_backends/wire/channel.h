/* A socket's bytes, in plain text or by TLS: what is read, and what waits to be sent. */
#ifndef ELASTICREC_CHANNEL_H
#define ELASTICREC_CHANNEL_H

#include "../native/files.h"
#include "tls.h"

enum { MOST_GATHERED = 64, GIVE_UP_MS = 10000 /* on a peer whose kernel does not acknowledge what was sent */ };
#ifndef TCP_USER_TIMEOUT
#define TCP_USER_TIMEOUT 18
#endif

/* Bytes that stay where they are. */
typedef struct {
    const void *bytes;
    size_t size;
} Piece;

/* Bytes of a message, to be sent before those of `out` from `at` on. */
typedef struct {
    size_t at;
    Piece piece;
} Gathered;

typedef struct {
    int epoll;
    void *user; /* that epoll's events come with */
    int socket; /* in that epoll; not blocking */
    uint32_t events; /* that epoll waits for */
    Secured *secured; /* NULL: plain text */
    char *out; /* to be sent from `out_sent` on */
    size_t out_bytes, out_sent, out_room; /* there is room for what is gathered too */
    Gathered gathered[MOST_GATHERED]; /* until `channel_send` or `channel_keep` */
    size_t gathered_count, gathered_bytes;
    Problem problem; /* why what failed did */
} Channel;

/* Go on with TLS on a connected socket. host: that the server's certificate must be for; NULL: we are the server.
 * 1: it is secured, 0: later, when epoll says so, -1: it failed, and the problem says why. */
int channel_secure(Channel *channel, Tls *tls, const char *host);
void channel_close(Channel *channel);
void channel_wait(Channel *channel, uint32_t events);

/* Bytes read; 0: none now; -1: the connection is gone, and the problem says why. */
ssize_t channel_read(Channel *channel, void *bytes, size_t room);

/* Send what can be sent; false where the connection is gone. */
bool channel_send(Channel *channel);
bool channel_append(Channel *channel, const void *bytes, size_t size);

/* Likewise, but many bytes need not be copied: they stay where they are until then. */
bool channel_gather(Channel *channel, const void *bytes, size_t size);
void channel_keep(Channel *channel); /* copy what is gathered: it will not stay where it is */

#endif
