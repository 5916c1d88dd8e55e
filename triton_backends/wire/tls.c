#include "tls.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "openssl.h"

enum { CA, CERT, KEY, FILES };

/* One end of connections: where its files are named, which of them asks for TLS, and who is at the other end. */
typedef struct {
    const char *names[FILES];
    int asks;
    const char *peer;
} End;

static const End CLIENT = {{"ELASTICREC_TLS_CA", "ELASTICREC_TLS_CERT", "ELASTICREC_TLS_KEY"}, CA, "server"};
static const End SERVER = {{"ELASTICREC_LISTEN_CA", "ELASTICREC_LISTEN_CERT", "ELASTICREC_LISTEN_KEY"}, CERT, "client"};

/* A file as it was when it was read: device, inode, size, and when it was written. */
typedef struct {
    int64_t marks[5];
} Version;

struct Tls {
    const End *end;
    char *files[FILES]; /* NULL: not named */
    Version versions[FILES];
    SSL_CTX *context; /* of these versions */
};

struct Secured {
    const End *end;
    Socket socket;
    SSL *ssl;
};

static const unsigned char HTTP2[] = {2, 'h', '2'}; /* as ALPN has it */

/* What HTTP/2 allows of TLS 1.2 (RFC 9113, 9.2.2), and gRPC's own servers choose from. */
static const char CIPHERS[] = "ECDHE+AESGCM:ECDHE+CHACHA20";

/* As gRPC prefers them: OpenSSL's own order begins with AES of 256 bits, which takes a quarter longer. */
static const char CIPHERS_OF_1_3[] = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

/* ---- a context of files ---- */

/* A key with a password is refused, and no terminal asked for it. */
static int know_no_password(char *text, int room, int writing, void *user) {
    (void)text, (void)room, (void)writing, (void)user;
    return -1;
}

static int choose_http2(SSL *ssl, const unsigned char **chosen, unsigned char *chosen_size,
                        const unsigned char *offered, unsigned offered_size, void *user) {
    (void)ssl, (void)user;
    for (unsigned at = 0; at + sizeof HTTP2 <= offered_size; at += 1u + offered[at])
        if (memcmp(offered + at, HTTP2, sizeof HTTP2) == 0) {
            *chosen = offered + at + 1;
            *chosen_size = sizeof HTTP2 - 1;
            return SSL_TLSEXT_ERR_OK;
        }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static bool load_files(SSL_CTX *context, char *const files[FILES], Problem *problem) {
    const char *ca = files[CA], *cert = files[CERT], *key = files[KEY];
    if (ca != NULL && openssl.SSL_CTX_load_verify_locations(context, ca, NULL) != 1) return openssl_failed(ca, problem);
    if (cert != NULL && openssl.SSL_CTX_use_certificate_chain_file(context, cert) != 1)
        return openssl_failed(cert, problem);
    return key == NULL ||
           (openssl.SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) == 1 &&
            openssl.SSL_CTX_check_private_key(context) == 1) ||
           openssl_failed(key, problem);
}

/* A server resumes no session: who comes again shows its certificate again, against the authority of that day. */
static bool set_server(SSL_CTX *context, bool mutual) {
    openssl.SSL_CTX_set_alpn_select_cb(context, choose_http2, NULL);
    openssl.SSL_CTX_ctrl(context, SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF, NULL);
    openssl.SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
    openssl.SSL_CTX_set_verify(context, mutual ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT : SSL_VERIFY_NONE,
                               NULL);
    return openssl.SSL_CTX_set_num_tickets(context, 0) == 1;
}

static bool set_client(SSL_CTX *context) {
    openssl.SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    return openssl.SSL_CTX_set_alpn_protos(context, HTTP2, sizeof HTTP2) == 0;
}

static bool set_up(SSL_CTX *context, const Tls *tls, Problem *problem) {
    openssl.SSL_CTX_set_default_passwd_cb(context, know_no_password);
    openssl.SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION);
    openssl.SSL_CTX_ctrl(context, SSL_CTRL_MODE, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER,
                         NULL);
    if (openssl.SSL_CTX_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2, NULL) != 1 ||
        openssl.SSL_CTX_set_cipher_list(context, CIPHERS) != 1 ||
        openssl.SSL_CTX_set_ciphersuites(context, CIPHERS_OF_1_3) != 1)
        return openssl_failed("no TLS 1.2", problem);
    if (!(tls->end == &SERVER ? set_server(context, tls->files[CA] != NULL) : set_client(context)))
        return openssl_failed("no HTTP/2", problem);
    return load_files(context, tls->files, problem);
}

static SSL_CTX *make_context(const Tls *tls, Problem *problem) {
    openssl.ERR_clear_error();
    SSL_CTX *context = openssl.SSL_CTX_new(tls->end == &SERVER ? openssl.TLS_server_method() : openssl.TLS_client_method());
    if (context == NULL) openssl_failed("no context", problem);
    else if (set_up(context, tls, problem)) return context;
    if (context != NULL) openssl.SSL_CTX_free(context);
    return NULL;
}

static void look_at(const Tls *tls, Version versions[FILES]) {
    memset(versions, 0, FILES * sizeof *versions);
    for (int i = 0; i < FILES; i++) {
        struct stat about;
        if (tls->files[i] == NULL || stat(tls->files[i], &about) != 0) continue;
        versions[i] = (Version){{(int64_t)about.st_dev, (int64_t)about.st_ino, (int64_t)about.st_size,
                                 (int64_t)about.st_mtim.tv_sec, (int64_t)about.st_mtim.tv_nsec}};
    }
}

/* Have the context of the files as they are now; false and the problem where one is wrong: the context stays then. */
static bool renew(Tls *tls, Problem *problem) {
    Version versions[FILES]; /* looked at first: what is written while they are read is read again */
    look_at(tls, versions);
    if (tls->context != NULL && memcmp(versions, tls->versions, sizeof versions) == 0) return true;
    SSL_CTX *context = make_context(tls, problem);
    if (context == NULL) return false;
    if (tls->context != NULL) openssl.SSL_CTX_free(tls->context); /* its sessions hold it */
    tls->context = context;
    memcpy(tls->versions, versions, sizeof versions);
    return true;
}

/* ---- settings ---- */

static bool check_names(const Tls *tls, Problem *problem) {
    const char *const *names = tls->end->names;
    if ((tls->files[CERT] == NULL) != (tls->files[KEY] == NULL))
        return fail(problem, "expected both %s and %s, or neither, got only one", names[CERT], names[KEY]);
    if (tls->files[CA] == NULL && tls->files[CERT] != NULL && tls->end == &CLIENT)
        return fail(problem, "expected %s beside %s: the servers' certificates must be checked too", names[CA],
                    names[CERT]);
    if (tls->files[CA] != NULL && tls->files[CERT] == NULL && tls->end == &SERVER)
        return fail(problem, "expected %s and %s beside %s: a server shows a certificate first", names[CERT],
                    names[KEY], names[CA]);
    return true;
}

static bool read_names(Tls *tls, Problem *problem) {
    for (int i = 0; i < FILES; i++) {
        const char *file = getenv(tls->end->names[i]);
        if (file == NULL || *file == '\0') continue;
        tls->files[i] = strdup(file);
        if (tls->files[i] == NULL) return fail(problem, "out of memory");
    }
    return check_names(tls, problem);
}

static bool open_end(const End *end, Tls **tls, Problem *problem) {
    Tls *made = calloc(1, sizeof *made);
    *tls = NULL;
    if (made == NULL) return fail(problem, "out of memory");
    made->end = end;
    bool good = read_names(made, problem);
    const bool wanted = good && made->files[end->asks] != NULL;
    if (wanted) good = openssl_load(problem) && renew(made, problem);
    if (wanted && good) *tls = made;
    else tls_close(made);
    return good;
}

bool tls_client_open(Tls **tls, Problem *problem) {
    return open_end(&CLIENT, tls, problem);
}

bool tls_server_open(Tls **tls, Problem *problem) {
    return open_end(&SERVER, tls, problem);
}

void tls_close(Tls *tls) {
    if (tls->context != NULL) openssl.SSL_CTX_free(tls->context);
    for (int i = 0; i < FILES; i++) free(tls->files[i]);
    free(tls);
}

/* ---- sessions ---- */

/* Be the client of that host. */
static bool call_host(SSL *ssl, const char *host, Problem *problem) {
    openssl.SSL_set_connect_state(ssl);
    openssl.SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_HOST_NAME, (void *)host);
    return openssl.SSL_set1_host(ssl, host) == 1 || openssl_failed(host, problem);
}

static SSL *make_session(SSL_CTX *context, Socket *socket, const char *host, Problem *problem) {
    SSL *ssl = openssl.SSL_new(context);
    BIO *bio = ssl == NULL ? NULL : openssl_socket(socket);
    bool good = bio != NULL || openssl_failed("no session", problem);
    if (bio != NULL) openssl.SSL_set_bio(ssl, bio, bio); /* the session's own now */
    if (good && host == NULL) openssl.SSL_set_accept_state(ssl);
    if (good && host != NULL) good = call_host(ssl, host, problem);
    if (good) return ssl;
    if (ssl != NULL) openssl.SSL_free(ssl);
    return NULL;
}

Secured *tls_begin(Tls *tls, int socket, const char *host, Problem *problem) {
    if (!renew(tls, problem) && tls->end == &CLIENT) return NULL;
    Secured *session = calloc(1, sizeof *session);
    if (session == NULL) return fail(problem, "out of memory"), NULL;
    session->end = tls->end;
    session->socket.descriptor = socket;
    session->ssl = make_session(tls->context, &session->socket, host, problem);
    if (session->ssl != NULL) return session;
    free(session);
    return NULL;
}

void tls_end(Secured *session) {
    openssl.SSL_free(session->ssl);
    free(session);
}

static bool speaks_http2(const Secured *session) {
    const unsigned char *protocol = NULL;
    unsigned size = 0;
    openssl.SSL_get0_alpn_selected(session->ssl, &protocol, &size);
    return size == sizeof HTTP2 - 1 && memcmp(protocol, HTTP2 + 1, size) == 0;
}

/* What a call that moved no byte means: 0: later, -1: the connection is gone. */
static int judge(const Secured *session, int error, const char *what, Problem *problem) {
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return 0;
    if (error == SSL_ERROR_SYSCALL && errno != 0) fail(problem, "%s", strerror(errno));
    else if (error == SSL_ERROR_SYSCALL || error == SSL_ERROR_ZERO_RETURN)
        fail(problem, "the %s closed the connection", session->end->peer);
    else openssl_failed(what, problem);
    return -1;
}

int tls_handshake(Secured *session, bool *writes, Problem *problem) {
    const char *peer = session->end->peer;
    openssl.ERR_clear_error();
    const int done = openssl.SSL_do_handshake(session->ssl);
    if (done == 1) return speaks_http2(session) || fail(problem, "TLS: the %s does not speak HTTP/2", peer) ? 1 : -1;
    const int error = openssl.SSL_get_error(session->ssl, done);
    *writes = error == SSL_ERROR_WANT_WRITE;
    const int verdict = judge(session, error, "handshake", problem);
    const long verified = openssl.SSL_get_verify_result(session->ssl);
    if (verdict < 0 && verified != X509_V_OK)
        fail(problem, "TLS: the %s's certificate: %s", peer, openssl.X509_verify_cert_error_string(verified));
    return verdict;
}

ssize_t tls_read(Secured *session, void *bytes, size_t room, Problem *problem) {
    openssl.ERR_clear_error();
    const int got = openssl.SSL_read(session->ssl, bytes, room < INT_MAX ? (int)room : INT_MAX);
    return got > 0 ? got : judge(session, openssl.SSL_get_error(session->ssl, got), "connection", problem);
}

ssize_t tls_write(Secured *session, const void *bytes, size_t size, Problem *problem) {
    openssl.ERR_clear_error();
    session->socket.more = size > TLS_RECORD_BYTES; /* a write is of one record */
    const int sent = openssl.SSL_write(session->ssl, bytes, size < INT_MAX ? (int)size : INT_MAX);
    return sent > 0 ? sent : judge(session, openssl.SSL_get_error(session->ssl, sent), "connection", problem);
}
