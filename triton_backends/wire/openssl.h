/* The part of OpenSSL's API, version 3, that `tls.c` uses; it is opened when TLS is asked for.
 *
 * The libraries keep functions and values of their major version (libssl.so.3) as they are, so no header is needed to
 * compile. Source: ssl.h, x509_vfy.h and err.h of openssl/openssl.
 */
#ifndef ELASTICREC_OPENSSL_H
#define ELASTICREC_OPENSSL_H

#include <stddef.h>

typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;
typedef struct ssl_method_st SSL_METHOD;

enum { SSL_FILETYPE_PEM = 1, SSL_VERIFY_PEER = 1, TLS1_2 = 0x0303, X509_V_OK = 0 };
enum { SSL_CTRL_MODE = 33, SSL_CTRL_SET_TLSEXT_HOSTNAME = 55, SSL_CTRL_SET_MIN_PROTO_VERSION = 123 };
enum { SSL_MODE_ENABLE_PARTIAL_WRITE = 1, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER = 2, TLSEXT_NAMETYPE_HOST_NAME = 0 };
enum { SSL_ERROR_WANT_READ = 2, SSL_ERROR_WANT_WRITE = 3, SSL_ERROR_SYSCALL = 5, SSL_ERROR_ZERO_RETURN = 6 };

/* type, name, arguments; the first group is libssl's, the second libcrypto's */
#define SSL_FUNCTIONS(F)                                                                                              \
    F(const SSL_METHOD *, TLS_client_method, void)                                                                    \
    F(SSL_CTX *, SSL_CTX_new, const SSL_METHOD *)                                                                     \
    F(void, SSL_CTX_free, SSL_CTX *)                                                                                  \
    F(long, SSL_CTX_ctrl, SSL_CTX *, int, long, void *)                                                               \
    F(void, SSL_CTX_set_verify, SSL_CTX *, int mode, void *callback)                                                  \
    F(int, SSL_CTX_load_verify_locations, SSL_CTX *, const char *file, const char *folder)                            \
    F(int, SSL_CTX_use_certificate_chain_file, SSL_CTX *, const char *file)                                           \
    F(int, SSL_CTX_use_PrivateKey_file, SSL_CTX *, const char *file, int type)                                        \
    F(int, SSL_CTX_check_private_key, const SSL_CTX *)                                                                \
    F(int, SSL_CTX_set_alpn_protos, SSL_CTX *, const unsigned char *, unsigned size)                                  \
    F(SSL *, SSL_new, SSL_CTX *)                                                                                      \
    F(void, SSL_free, SSL *)                                                                                          \
    F(long, SSL_ctrl, SSL *, int, long, void *)                                                                       \
    F(int, SSL_set_fd, SSL *, int)                                                                                    \
    F(int, SSL_set1_host, SSL *, const char *)                                                                        \
    F(int, SSL_connect, SSL *)                                                                                        \
    F(int, SSL_read, SSL *, void *, int)                                                                              \
    F(int, SSL_write, SSL *, const void *, int)                                                                       \
    F(int, SSL_get_error, const SSL *, int)                                                                           \
    F(long, SSL_get_verify_result, const SSL *)                                                                       \
    F(void, SSL_get0_alpn_selected, const SSL *, const unsigned char **, unsigned *size)
#define CRYPTO_FUNCTIONS(F)                                                                                           \
    F(unsigned long, ERR_get_error, void)                                                                             \
    F(void, ERR_clear_error, void)                                                                                    \
    F(void, ERR_error_string_n, unsigned long, char *, size_t)                                                        \
    F(const char *, X509_verify_cert_error_string, long)

#endif
