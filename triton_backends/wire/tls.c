#include "tls.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "openssl.h"

static const char *const SSL_LIBRARY = "libssl.so.3", *const CRYPTO_LIBRARY = "libcrypto.so.3";
static const char CA[] = "ELASTICREC_TLS_CA", CERT[] = "ELASTICREC_TLS_CERT", KEY[] = "ELASTICREC_TLS_KEY";

#define DECLARE(type, name, ...) type (*name)(__VA_ARGS__);
struct Tls {
    SSL_FUNCTIONS(DECLARE)
    CRYPTO_FUNCTIONS(DECLARE)
    char *ca, *cert, *key; /* cert, key: NULL without a certificate of our own */
};

struct Secured {
    const Tls *tls;
    SSL_CTX *context;
    SSL *ssl;
};

/* ---- the library ---- */

/* DEEPBIND: the library calls its own functions, whatever others of these names the server has. They stay open. */
static bool load_functions(Tls *tls, Problem *problem) {
    void *crypto = dlopen(CRYPTO_LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    void *ssl = crypto == NULL ? NULL : dlopen(SSL_LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (ssl == NULL) return fail(problem, "%s; TLS needs OpenSSL 3", dlerror());
    const char *missing = NULL;
#define LOAD(library, name)                                                                                           \
    *(void **)&tls->name = dlsym(library, #name);                                                                     \
    if (tls->name == NULL) missing = #name;
#define LOAD_SSL(type, name, ...) LOAD(ssl, name)
#define LOAD_CRYPTO(type, name, ...) LOAD(crypto, name)
    SSL_FUNCTIONS(LOAD_SSL)
    CRYPTO_FUNCTIONS(LOAD_CRYPTO)
    return missing == NULL || fail(problem, "%s: %s is not there", SSL_LIBRARY, missing);
}

/* What OpenSSL says is wrong. */
static bool failed(const Tls *tls, const char *what, Problem *problem) {
    char text[256] = "no reason given";
    const unsigned long code = tls->ERR_get_error();
    if (code != 0) tls->ERR_error_string_n(code, text, sizeof text);
    tls->ERR_clear_error();
    return fail(problem, "TLS: %s: %s", what, text);
}

/* ---- settings ---- */

static char *variable(const char *name) {
    const char *value = getenv(name);
    return value == NULL || *value == '\0' ? NULL : strdup(value);
}

static bool check_variables(const Tls *tls, Problem *problem) {
    if ((tls->cert == NULL) != (tls->key == NULL))
        return fail(problem, "expected both %s and %s, or neither, got only one", CERT, KEY);
    if (tls->ca == NULL && tls->cert != NULL)
        return fail(problem, "expected %s beside %s: the servers' certificates must be checked too", CA, CERT);
    return true;
}

/* A context of the files as they are now; NULL and the problem where one is wrong. */
static SSL_CTX *make_context(const Tls *tls, Problem *problem) {
    tls->ERR_clear_error();
    SSL_CTX *context = tls->SSL_CTX_new(tls->TLS_client_method());
    bool good = context != NULL || failed(tls, "no context", problem);
    if (good && tls->SSL_CTX_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2, NULL) != 1)
        good = failed(tls, "no TLS 1.2", problem);
    if (good && tls->SSL_CTX_load_verify_locations(context, tls->ca, NULL) != 1) good = failed(tls, tls->ca, problem);
    if (good && tls->cert != NULL && tls->SSL_CTX_use_certificate_chain_file(context, tls->cert) != 1)
        good = failed(tls, tls->cert, problem);
    if (good && tls->key != NULL &&
        (tls->SSL_CTX_use_PrivateKey_file(context, tls->key, SSL_FILETYPE_PEM) != 1 ||
         tls->SSL_CTX_check_private_key(context) != 1))
        good = failed(tls, tls->key, problem);
    if (good && tls->SSL_CTX_set_alpn_protos(context, (const unsigned char *)"\2h2", 3) != 0)
        good = failed(tls, "no ALPN", problem);
    if (good) {
        tls->SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
        tls->SSL_CTX_ctrl(context, SSL_CTRL_MODE,
                          SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, NULL);
        return context;
    }
    if (context != NULL) tls->SSL_CTX_free(context);
    return NULL;
}

/* Whether the files can be used; they are read anew for each connection. */
static bool check_files(const Tls *tls, Problem *problem) {
    SSL_CTX *context = make_context(tls, problem);
    if (context == NULL) return false;
    tls->SSL_CTX_free(context);
    return true;
}

bool tls_open(Tls **tls, Problem *problem) {
    Tls *made = calloc(1, sizeof *made);
    *tls = NULL;
    if (made == NULL) return fail(problem, "out of memory");
    made->ca = variable(CA);
    made->cert = variable(CERT);
    made->key = variable(KEY);
    bool good = check_variables(made, problem);
    const bool wanted = good && made->ca != NULL;
    if (wanted) good = load_functions(made, problem) && check_files(made, problem);
    if (wanted && good) *tls = made;
    else tls_close(made);
    return good;
}

void tls_close(Tls *tls) {
    free(tls->ca);
    free(tls->cert);
    free(tls->key);
    free(tls);
}

/* ---- sessions ---- */

Secured *tls_begin(const Tls *tls, int socket, const char *host, Problem *problem) {
    Secured *session = calloc(1, sizeof *session);
    if (session == NULL) {
        fail(problem, "out of memory");
        return NULL;
    }
    session->tls = tls;
    session->context = make_context(tls, problem);
    session->ssl = session->context == NULL ? NULL : tls->SSL_new(session->context);
    if (session->ssl != NULL && tls->SSL_set_fd(session->ssl, socket) == 1 &&
        tls->SSL_set1_host(session->ssl, host) == 1) {
        tls->SSL_ctrl(session->ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_HOST_NAME, (void *)host);
        return session;
    }
    if (session->context != NULL) failed(tls, host, problem);
    tls_end(session);
    return NULL;
}

void tls_end(Secured *session) {
    if (session->ssl != NULL) session->tls->SSL_free(session->ssl);
    if (session->context != NULL) session->tls->SSL_CTX_free(session->context);
    free(session);
}

static bool speaks_http2(const Secured *session) {
    const unsigned char *protocol = NULL;
    unsigned size = 0;
    session->tls->SSL_get0_alpn_selected(session->ssl, &protocol, &size);
    return size == 2 && memcmp(protocol, "h2", 2) == 0;
}

int tls_handshake(Secured *session, bool *writes, Problem *problem) {
    const Tls *tls = session->tls;
    tls->ERR_clear_error();
    const int done = tls->SSL_connect(session->ssl);
    if (done == 1) return speaks_http2(session) || fail(problem, "TLS: the server does not speak HTTP/2") ? 1 : -1;
    const int error = tls->SSL_get_error(session->ssl, done);
    *writes = error == SSL_ERROR_WANT_WRITE;
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return 0;
    const long verified = tls->SSL_get_verify_result(session->ssl);
    if (verified != X509_V_OK)
        fail(problem, "TLS: the server's certificate: %s", tls->X509_verify_cert_error_string(verified));
    else failed(tls, "handshake", problem);
    return -1;
}

/* What a call that moved no byte means: 0: later, -1: the connection is gone. */
static ssize_t judge(const Secured *session, int result, Problem *problem) {
    const int error = session->tls->SSL_get_error(session->ssl, result);
    switch (error) {
        case SSL_ERROR_WANT_READ:
        case SSL_ERROR_WANT_WRITE: return 0;
        case SSL_ERROR_ZERO_RETURN: fail(problem, "the server closed the connection"); return -1;
        case SSL_ERROR_SYSCALL:
            fail(problem, "%s", errno != 0 ? strerror(errno) : "the server closed the connection");
            return -1;
        default: failed(session->tls, "connection", problem); return -1;
    }
}

ssize_t tls_read(Secured *session, void *bytes, size_t room, Problem *problem) {
    session->tls->ERR_clear_error();
    const int got = session->tls->SSL_read(session->ssl, bytes, room < INT_MAX ? (int)room : INT_MAX);
    return got > 0 ? got : judge(session, got, problem);
}

ssize_t tls_write(Secured *session, const void *bytes, size_t size, Problem *problem) {
    session->tls->ERR_clear_error();
    const int sent = session->tls->SSL_write(session->ssl, bytes, size < INT_MAX ? (int)size : INT_MAX);
    return sent > 0 ? sent : judge(session, sent, problem);
}
