#ifndef LIBCOMMON_NET_HTTPD_H
#define LIBCOMMON_NET_HTTPD_H

/*
 * HTTP/1.1 server over evhttp: a few threads, each with an event base, an evhttp and a listener of
 * its own (SO_REUSEPORT). Handlers run on those threads and must not block; the answer may be given
 * there, or later from any thread, exactly once. What a proxy could read differently (control
 * characters and bare line ends in the head or between chunks, repeated Content-Length or Host,
 * blanks before a colon, bodies on HEAD, ...) is refused with 400 and the connection is closed:
 * evhttp sees bytes only after they have been read by stricter rules. A body must be JSON by its
 * Content-Type; one that a form of a foreign page could send is refused from pages (415), and where
 * hosts are set, so is a request for another one (421). A client may end its side
 * when it has asked: what came is answered. Slow and surplus clients are cut off: limits in the
 * settings. A request whose client has gone is answered into nothing. Each answer to a route
 * is counted, timed and, if its context is sampled, a span (tracer.h), unless the route says no.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/err.h"
#include "libcommon/base/settings.h"
#include "libcommon/base/trace.h"

struct httpd_settings {
    char *listen_addr;
    char *hosts;           /* comma-separated; NULL or "": any */
    char *cors_origins;    /* comma-separated; NULL or "": none */
    char *trusted_proxies; /* networks (address.h); NULL or "": none */
    bool proxy_protocol;   /* spoken by them */
    int64_t threads, max_connections, max_header_bytes;
    int64_t max_headers;         /* 0: any number */
    int64_t address_connections; /* at once from one address; 0: any number */
    int64_t connection_requests; /* one after another; 0: any number */
    int64_t max_body_bytes;      /* 0: what the program needs */
    int64_t memory_bytes;        /* of all connections, in and out; 0: by their number */
    int64_t read_timeout_ms;     /* from the first byte of a request to its last */
    int64_t idle_timeout_ms;     /* between requests of a kept-alive connection */
    int64_t write_timeout_ms;    /* a client that does not read its answer */

    char *tls_cert_file, *tls_key_file; /* PEM; both or, without TLS, none (NULL or "") */
    char *tls_client_ca_file;           /* "": clients are asked for no certificate */
    char *tls_client_auth;              /* "optional", "required" */
    char *tls_min_version;              /* "1.2", "1.3" */
};

/* Each program has a row of its own for LISTEN_ADDR: the default port differs. */
#define HTTPD_LISTEN_ROW(initial)                                                                \
    SETTING_TEXT_ROW(httpd_settings, listen_addr, SETTING_ADDR, "LISTEN_ADDR", initial, 0, NULL, \
                     "Address the HTTP server listens on; :port means every address.")
extern const struct setting httpd_settings_rows[]; /* the others */
extern const struct setting httpd_body_rows[];     /* of a program that takes bodies */
/* What spans the rows: appends a line to errors for each fault, returns their number. */
size_t httpd_settings_check(const struct httpd_settings *settings, struct buf *errors);

struct httpd;
struct httpd_request;

typedef void httpd_handler(struct httpd_request *req, void *arg);

/* What a route goes without. */
enum httpd_route_word {
    HTTPD_NO_LIMIT = 1 << 0,   /* admit is not asked */
    HTTPD_NO_SPAN = 1 << 1,    /* its answers are no spans */
    HTTPD_NO_METRIC = 1 << 2,  /* its answers are neither counted nor timed */
    HTTPD_EXPECT_200 = 1 << 3, /* for machines of ours: 200 alone has its counter from the start */
    HTTPD_PROBE = 1 << 4,      /* who asks is no client: by any address, without a certificate */
    HTTPD_RAW_QUERY = 1 << 5,  /* the handler asks for the raw query alone: it may be anything */
};

struct httpd_route {
    const char *method; /* "GET", "POST", "PUT", "DELETE"; GET answers HEAD too */
    const char *path;   /* exact, or a prefix that ends in an asterisk */
    httpd_handler *handler;
    unsigned words;    /* of enum httpd_route_word */
    const void *needs; /* for admit and the handler; the server does not look at it */
};

struct httpd_config {
    const struct httpd_settings *settings;
    const struct httpd_route *routes;
    size_t route_count;
    void *arg; /* for handlers and admit */
    /* Asked before the body is looked at and the handler runs (NULL: all may pass). Returns true to
     * go on, or answers the request itself and returns false. */
    bool (*admit)(struct httpd_request *req, void *arg);
    int64_t beside; /* descriptors that the rest of the program needs; connections leave them */
    /* The largest body that the program has a use for: the settings may allow more, not less. Where
     * no route is for POST or PUT, any body is too large. */
    size_t body_bytes;
};

/* The files of certificates are read again, within a second or so, by all servers of the process.
 * They are when they change, too. Any thread; no signal handler. */
void httpd_reload(void);

struct httpd *httpd_new(const struct httpd_config *config,
                        struct err *err);          /* binds; NULL on failure */
int httpd_start(struct httpd *h, struct err *err); /* starts the threads */
uint16_t httpd_port(const struct httpd *h);        /* the port bound, when 0 was asked for */
/* Stops accepting; every answer from now on closes its connection. */
void httpd_drain(struct httpd *h);
/* Waits until no request is in hand and answers are written, at most timeout_ms. True: all done. */
bool httpd_wait_drained(struct httpd *h, int timeout_ms);
/* Ends such waits, those under way and those to come, within 100 ms: somebody is out of patience.
 */
void httpd_give_up(void);
void httpd_free(struct httpd *h); /* ends the threads; nobody may hold a request any more */

/* Valid until the answer is given; on the handler's thread only, so copy what must outlive the
 * handler. */
const char *httpd_path(const struct httpd_request *req); /* decoded, without query */
const char *httpd_method(const struct httpd_request *req);
/* As it came, not decoded: path and query, and the query alone ("": none). */
const char *httpd_target(const struct httpd_request *req);
const char *httpd_raw_query(const struct httpd_request *req);
/* Decoded; NULL: absent. No parameter is there twice. */
const char *httpd_query(const struct httpd_request *req, const char *name);
/* NULL: absent. The first one: only those that make no sense twice are refused then. */
const char *httpd_header(const struct httpd_request *req, const char *name);
const char *httpd_body(const struct httpd_request *req, size_t *n); /* never NULL */
/* The client's address as text, an IPv4 one without the prefix that it has on an IPv6 socket; ""
 * when it is not known. Any thread; stable until the answer. */
const char *httpd_peer(const struct httpd_request *req);
/* What was to be known of the body is known: it need not wait for the answer. */
void httpd_drop_body(struct httpd_request *req);
/* The client's X-Request-Id, if it is well-formed, else one of our own, the id of the request's
 * span; answers carry it. Any thread; stable until the answer. */
const char *httpd_request_id(const struct httpd_request *req);
/* The caller's trace context with a span id of our own, or a new root (section 3 of the W3C text);
 * the caller's tracestate or "". Stable until the answer. */
const struct trace_context *httpd_trace(const struct httpd_request *req);
const char *httpd_tracestate(const struct httpd_request *req);
/* Whom the request is about, for its span; by admit or the handler. */
void httpd_set_user(struct httpd_request *req, int64_t user_id);
/* What the row of its route says. */
const void *httpd_needs(const struct httpd_request *req);
/* HTTPD_ROOM bytes for what the program knows about the request: zero at first, stable until the
 * answer. */
#define HTTPD_ROOM 32
void *httpd_room(struct httpd_request *req);

/*
 * Deadlines. A handler that passes its request on may give it one (monotonic): then late answers,
 * on the request's own thread, if nobody has taken it before. Until it is taken, whoever has the
 * request says how far it has come, with a mark of the program's own (0 at first) that late is
 * told; whoever wants to answer takes it first. Both are exact against the deadline: false means
 * that late answers, and that the request is no longer there for who asked.
 */
typedef void httpd_late_fn(struct httpd_request *req, unsigned mark);
void httpd_set_deadline(struct httpd_request *req, int64_t deadline_ms, httpd_late_fn *late);
bool httpd_mark(struct httpd_request *req, unsigned mark); /* any thread */
bool httpd_take(struct httpd_request *req);                /* any thread; once */

/* Holds back the answer or reset that follows by delay_us, or until the server drains. */
void httpd_delay(struct httpd_request *req, int64_t delay_us);
/* In place of an answer: cuts the connection with a TCP reset; any thread. */
void httpd_reset(struct httpd_request *req);
bool httpd_draining(const struct httpd_request *req);

/* Adds a header to the answer; by whoever will answer, before. value is copied. Every answer says
 * that its type is meant as it stands, and that no cache keeps it unless Cache-Control is set. */
void httpd_set_header(struct httpd_request *req, const char *name, const char *value);
/* Answers; any thread; once. The body is copied. Content-Type: application/json. */
void httpd_reply(struct httpd_request *req, int status, const char *body, size_t n);
void httpd_reply_type(struct httpd_request *req, int status, const char *content_type,
                      const char *body, size_t n);
/* The body stays as it is until the server is freed, and is not copied. */
void httpd_reply_constant(struct httpd_request *req, int status, const char *content_type,
                          const char *body, size_t n);
/* {"error":code,"message":message} and "field" unless NULL. */
void httpd_reply_error(struct httpd_request *req, int status, const char *code, const char *message,
                       const char *field);
/* The same of what may be tried again, after so many seconds (Retry-After). */
void httpd_reply_retry(struct httpd_request *req, int status, const char *code, const char *message,
                       int64_t after_sec);

#endif
