/* The part of OpenSSL's API, version 3, that `tls.c` uses; it is opened when TLS is asked for.
 *
 * The libraries keep functions and values of their major version (libssl.so.3) as they are, so no header is needed to
 * compile. Source: ssl.h, x509_vfy.h, err.h and bio.h of openssl/openssl.
 */
#ifndef ELASTICREC_OPENSSL_H
#define ELASTICREC_OPENSSL_H

#include <stddef.h>
#include <stdint.h>

#include "../native/files.h"

typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;
typedef struct ssl_method_st SSL_METHOD;
typedef struct bio_st BIO;
typedef struct bio_method_st BIO_METHOD;

typedef int (*AskPassword)(char *text, int room, int writing, void *user);
typedef int (*ChooseProtocol)(SSL *, const unsigned char **chosen, unsigned char *chosen_size,
                              const unsigned char *offered, unsigned offered_size, void *user);

enum { SSL_FILETYPE_PEM = 1, TLS1_2 = 0x0303, X509_V_OK = 0 };
enum { SSL_VERIFY_NONE = 0, SSL_VERIFY_PEER = 1, SSL_VERIFY_FAIL_IF_NO_PEER_CERT = 2 };
enum { SSL_OP_NO_TICKET = 1 << 14, SSL_OP_NO_RENEGOTIATION = 1 << 30, SSL_SESS_CACHE_OFF = 0 };
enum {
    SSL_CTRL_MODE = 33,
    SSL_CTRL_SET_SESS_CACHE_MODE = 44,
    SSL_CTRL_SET_TLSEXT_HOSTNAME = 55,
    SSL_CTRL_SET_MIN_PROTO_VERSION = 123
};
enum { SSL_MODE_ENABLE_PARTIAL_WRITE = 1, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER = 2, TLSEXT_NAMETYPE_HOST_NAME = 0 };
enum { SSL_TLSEXT_ERR_OK = 0, SSL_TLSEXT_ERR_ALERT_FATAL = 2 };
enum { SSL_ERROR_WANT_READ = 2, SSL_ERROR_WANT_WRITE = 3, SSL_ERROR_SYSCALL = 5, SSL_ERROR_ZERO_RETURN = 6 };
enum { BIO_TYPE_SOURCE_SINK = 0x0400, BIO_CTRL_FLUSH = 11 };
enum { BIO_FLAGS_READ = 1, BIO_FLAGS_WRITE = 2, BIO_FLAGS_RWS = 7, BIO_FLAGS_SHOULD_RETRY = 8 };

/* type, name, arguments; the first group is libssl's, the second libcrypto's */
#define SSL_FUNCTIONS(F)                                                                                              \
    F(const SSL_METHOD *, TLS_client_method, void)                                                                    \
    F(const SSL_METHOD *, TLS_server_method, void)                                                                    \
    F(SSL_CTX *, SSL_CTX_new, const SSL_METHOD *)                                                                     \
    F(void, SSL_CTX_free, SSL_CTX *)                                                                                  \
    F(long, SSL_CTX_ctrl, SSL_CTX *, int, long, void *)                                                               \
    F(uint64_t, SSL_CTX_set_options, SSL_CTX *, uint64_t)                                                             \
    F(int, SSL_CTX_set_num_tickets, SSL_CTX *, size_t)                                                                \
    F(int, SSL_CTX_set_cipher_list, SSL_CTX *, const char *)                                                          \
    F(int, SSL_CTX_set_ciphersuites, SSL_CTX *, const char *)                                                         \
    F(void, SSL_CTX_set_verify, SSL_CTX *, int mode, void *callback)                                                  \
    F(void, SSL_CTX_set_default_passwd_cb, SSL_CTX *, AskPassword)                                                    \
    F(int, SSL_CTX_load_verify_locations, SSL_CTX *, const char *file, const char *folder)                            \
    F(int, SSL_CTX_use_certificate_chain_file, SSL_CTX *, const char *file)                                           \
    F(int, SSL_CTX_use_PrivateKey_file, SSL_CTX *, const char *file, int type)                                        \
    F(int, SSL_CTX_check_private_key, const SSL_CTX *)                                                                \
    F(int, SSL_CTX_set_alpn_protos, SSL_CTX *, const unsigned char *, unsigned size)                                  \
    F(void, SSL_CTX_set_alpn_select_cb, SSL_CTX *, ChooseProtocol, void *user)                                        \
    F(SSL *, SSL_new, SSL_CTX *)                                                                                      \
    F(void, SSL_free, SSL *)                                                                                          \
    F(long, SSL_ctrl, SSL *, int, long, void *)                                                                       \
    F(void, SSL_set_bio, SSL *, BIO *, BIO *)                                                                         \
    F(int, SSL_set1_host, SSL *, const char *)                                                                        \
    F(void, SSL_set_accept_state, SSL *)                                                                              \
    F(void, SSL_set_connect_state, SSL *)                                                                             \
    F(int, SSL_do_handshake, SSL *)                                                                                   \
    F(int, SSL_read, SSL *, void *, int)                                                                              \
    F(int, SSL_write, SSL *, const void *, int)                                                                       \
    F(int, SSL_get_error, const SSL *, int)                                                                           \
    F(long, SSL_get_verify_result, const SSL *)                                                                       \
    F(void, SSL_get0_alpn_selected, const SSL *, const unsigned char **, unsigned *size)
#define CRYPTO_FUNCTIONS(F)                                                                                           \
    F(unsigned long, ERR_get_error, void)                                                                             \
    F(void, ERR_clear_error, void)                                                                                    \
    F(void, ERR_error_string_n, unsigned long, char *, size_t)                                                        \
    F(const char *, X509_verify_cert_error_string, long)                                                              \
    F(BIO_METHOD *, BIO_meth_new, int type, const char *name)                                                         \
    F(int, BIO_meth_set_read, BIO_METHOD *, int (*)(BIO *, char *, int))                                              \
    F(int, BIO_meth_set_write, BIO_METHOD *, int (*)(BIO *, const char *, int))                                       \
    F(int, BIO_meth_set_ctrl, BIO_METHOD *, long (*)(BIO *, int, long, void *))                                       \
    F(BIO *, BIO_new, const BIO_METHOD *)                                                                             \
    F(void, BIO_set_data, BIO *, void *)                                                                              \
    F(void *, BIO_get_data, BIO *)                                                                                    \
    F(void, BIO_set_init, BIO *, int)                                                                                 \
    F(void, BIO_set_flags, BIO *, int)                                                                                \
    F(void, BIO_clear_flags, BIO *, int)

#define DECLARE_FUNCTION(type, name, ...) type (*name)(__VA_ARGS__);
extern struct OpenSsl {
    SSL_FUNCTIONS(DECLARE_FUNCTION)
    CRYPTO_FUNCTIONS(DECLARE_FUNCTION)
} openssl;

/* Open the libraries, once; false where they are not there. They stay open. */
bool openssl_load(Problem *problem);

/* Note what OpenSSL says is wrong. Returns false. */
bool openssl_failed(const char *what, Problem *problem);

typedef struct {
    int descriptor;
    bool more; /* comes behind what is written: the kernel may wait for it, and wake the other side once */
} Socket;

/* A socket for OpenSSL to read and write, which stays the caller's; NULL where there is no memory. Unlike OpenSSL's own
 * it raises no SIGPIPE, so that any thread of the server may write. */
BIO *openssl_socket(Socket *socket);

#endif
