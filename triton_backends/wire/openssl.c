#include "openssl.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>

static const char *const SSL_LIBRARY = "libssl.so.3", *const CRYPTO_LIBRARY = "libcrypto.so.3";

struct OpenSsl openssl;

static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;
static BIO_METHOD *socket_method; /* made once the libraries are there */

/* ---- the libraries ---- */

/* DEEPBIND: the library calls its own functions, whatever others of these names the server has. */
static bool load_functions(Problem *problem) {
    void *crypto = dlopen(CRYPTO_LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    void *ssl = crypto == NULL ? NULL : dlopen(SSL_LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (ssl == NULL) return fail(problem, "%s; TLS needs OpenSSL 3", dlerror());
    const char *missing = NULL;
#define LOAD(library, name)                                                                                           \
    *(void **)&openssl.name = dlsym(library, #name);                                                                  \
    if (openssl.name == NULL) missing = #name;
#define LOAD_SSL(type, name, ...) LOAD(ssl, name)
#define LOAD_CRYPTO(type, name, ...) LOAD(crypto, name)
    SSL_FUNCTIONS(LOAD_SSL)
    CRYPTO_FUNCTIONS(LOAD_CRYPTO)
    return missing == NULL || fail(problem, "%s: %s is not there", SSL_LIBRARY, missing);
}

bool openssl_failed(const char *what, Problem *problem) {
    char text[256] = "no reason given";
    const unsigned long code = openssl.ERR_get_error();
    if (code != 0) openssl.ERR_error_string_n(code, text, sizeof text);
    openssl.ERR_clear_error();
    return fail(problem, "TLS: %s: %s", what, text);
}

/* ---- sockets ---- */

/* What has moved, and whether the caller may try again. */
static int tell(BIO *bio, ssize_t moved, int direction) {
    openssl.BIO_clear_flags(bio, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
    if (moved < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        openssl.BIO_set_flags(bio, direction | BIO_FLAGS_SHOULD_RETRY);
    return (int)moved;
}

static int socket_read(BIO *bio, char *bytes, int room) {
    const Socket *socket = openssl.BIO_get_data(bio);
    const ssize_t got = recv(socket->descriptor, bytes, (size_t)room, 0);
    if (got == 0) errno = 0; /* the end is no error of the system's */
    return tell(bio, got, BIO_FLAGS_READ);
}

static int socket_write(BIO *bio, const char *bytes, int size) {
    const Socket *socket = openssl.BIO_get_data(bio);
    const int flags = MSG_NOSIGNAL | (socket->more ? MSG_MORE : 0);
    return tell(bio, send(socket->descriptor, bytes, (size_t)size, flags), BIO_FLAGS_WRITE);
}

static long socket_control(BIO *bio, int command, long number, void *pointer) {
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH; /* nothing waits here */
}

static bool make_method(Problem *problem) {
    BIO_METHOD *method = openssl.BIO_meth_new(BIO_TYPE_SOURCE_SINK, "socket");
    if (method == NULL || openssl.BIO_meth_set_read(method, socket_read) != 1 ||
        openssl.BIO_meth_set_write(method, socket_write) != 1 ||
        openssl.BIO_meth_set_ctrl(method, socket_control) != 1)
        return openssl_failed("no sockets", problem);
    socket_method = method;
    return true;
}

BIO *openssl_socket(Socket *socket) {
    BIO *bio = openssl.BIO_new(socket_method);
    if (bio == NULL) return NULL;
    openssl.BIO_set_data(bio, socket);
    openssl.BIO_set_init(bio, 1);
    return bio;
}

bool openssl_load(Problem *problem) {
    pthread_mutex_lock(&loading);
    const bool loaded = socket_method != NULL || (load_functions(problem) && make_method(problem));
    pthread_mutex_unlock(&loading);
    return loaded;
}
