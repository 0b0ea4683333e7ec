#ifndef LIBCOMMON_NET_HTTPD_INTERNAL_H
#define LIBCOMMON_NET_HTTPD_INTERNAL_H

/*
 * What the parts of the HTTP server share; nobody else includes this.
 *
 *   httpd.c          settings, threads, drain, the mailbox of each thread
 *   httpd_accept.c   listening sockets, how many connections there may be, who makes room
 *   httpd_conn.c     connections: deadlines, lingering close
 *   httpd_page.c     answers to what never becomes a request: what evhttp says, in our words
 *   httpd_tls.c      certificates; httpd_tls_conn.c: connections with TLS under them
 *   httpd_peer.c     who the client is
 *   httpd_proxy.c    what a proxy says before the first request
 *   httpd_wire.c     what evhttp gets to see of the bytes that come
 *   httpd_check.c    what is wrong with a request that evhttp has read
 *   httpd_cors.c     pages of other origins
 *   httpd_deadline.c requests whose time is up
 *   httpd_memory.c   the budget of bytes read and unwritten
 *   httpd_request.c  routing
 *   httpd_answer.c   answers
 *   httpd_input.c    what a handler may ask about its request
 *   httpd_stats.c    metrics
 *   httpd_span.c     the span of an answered request
 *
 * evhttp knows no limits on connections and no deadline for a whole request, and frees its
 * connections without a word. So each bufferevent carries a second reference, ours, held by a
 * struct http_conn on its thread's list: a sweep a few times a second cuts off who is overdue, and
 * the socket closes when both evhttp and we have let go.
 *
 * Everything here runs on the connection's own thread, without locks, but for the mailbox, the
 * counters and the flags marked atomic.
 */

#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <time.h>

#include "libcommon/base/buf.h"
#include "libcommon/net/address.h"
#include "libcommon/net/httpd.h"
#include "libcommon/net/httpd_tls.h"
#include "libcommon/telemetry/metrics.h"

enum http_method {
    HTTP_GET,
    HTTP_HEAD,
    HTTP_POST,
    HTTP_PUT,
    HTTP_DELETE,
    HTTP_OPTIONS,
    HTTP_PATCH,
    HTTP_TRACE,
    HTTP_CONNECT,
    HTTP_OTHER,
    HTTP_METHODS
};

#define HTTP_STATUS_SLOTS 49

/* Why a connection was cut off. */
enum http_drop {
    HTTP_DROP_HANDSHAKE_TIMEOUT,
    HTTP_DROP_READ_TIMEOUT,
    HTTP_DROP_IDLE_TIMEOUT,
    HTTP_DROP_WRITE_TIMEOUT,
    HTTP_DROP_BAD_REQUEST,
    HTTP_DROP_RESET,
    HTTP_DROP_CROWDED, /* idle, while others waited to be accepted */
    HTTP_DROP_ADDRESS, /* one too many from its address */
    HTTP_DROP_MEMORY,
    HTTP_DROPS
};

/* A path of the routing table with the methods it knows; the last one stands for every other. */
struct http_path {
    const char *pattern; /* as in the route; the value of the metrics' path label */
    size_t len;          /* without the asterisk */
    bool prefix;
    const struct httpd_route *routes[HTTP_METHODS];
    struct metric *seconds[HTTP_METHODS];
    char allow[64];
};

/*
 * evhttp ends lines at a bare LF and strings at a NUL, joins folded headers, and reads whatever a
 * body that it did not take leaves behind as the next request. So it never sees a byte that has not
 * been read here first, by stricter rules: a head goes on when it is whole and clean, a body by its
 * length, a chunk's size by the line; trailers do not go on at all. The first byte that fits
 * nothing ends the connection: in its place evhttp gets a line that it is sure to refuse, behind
 * the requests before, and nothing after it. Where segments begin and end makes no difference.
 */
enum http_wire_state {
    WIRE_BETWEEN, /* requests */
    WIRE_PROXY,   /* a proxy has still to say whom it speaks for */
    WIRE_HEAD,    /* request line and headers */
    WIRE_BODY,    /* of a Content-Length */
    WIRE_CHUNK_SIZE,
    WIRE_CHUNK,     /* its data and the end of line behind them */
    WIRE_CHUNK_END, /* of which there is something else */
    WIRE_TRAILERS,
    WIRE_WRONG,   /* evhttp has still to be told */
    WIRE_REFUSED, /* it has been */
};

/* httpd_proxy.c */
struct http_proxied {
    bool known; /* else the proxy speaks for itself, or for nobody that it knows */
    uint16_t port;
    struct address client;
};
enum http_proxy_part { HTTP_PROXY_MORE, HTTP_PROXY_WHOLE, HTTP_PROXY_WRONG };
/* The header that n bytes begin with, *len of them. */
enum http_proxy_part http_proxy_read(const char *p, size_t n, struct http_proxied *out,
                                     size_t *len);

struct http_wire {
    enum http_wire_state state;
    struct http_proxied proxied; /* behind WIRE_PROXY */
    bool old, bodiless;          /* of the request: HTTP/1.0; its method takes no body */
    unsigned lengths, encodings; /* headers that say how its body ends */
    unsigned headers;
    unsigned max_headers; /* 0: any number */
    uint64_t requests;    /* that have passed whole */
    uint64_t left;        /* bytes to come of the body or chunk */
    size_t max_head;
    size_t skipped;      /* bytes of blank lines or trailers */
    size_t line, looked; /* of what is held: where the last line begins, how far it is known */
    struct buf held;     /* not decided yet: at most max_head and what one read brings */
    int status;          /* from WIRE_WRONG on: of the answer, */
    const char *wrong;   /* and what is wrong, a sentence */
};

enum http_conn_state {
    CONN_IDLE,      /* between requests */
    CONN_READING,   /* the first byte of a request has come */
    CONN_HANDLING,  /* the request is in the program's hands */
    CONN_WRITING,   /* answered, not written out */
    CONN_LINGERING, /* closed by us; reads on so that the answer is not lost to a reset */
};

TAILQ_HEAD(http_conns, http_conn);

struct http_conn {
    struct http_conn *next, *prev;
    struct http_conn *next_due;
    TAILQ_ENTRY(http_conn) place;
    struct http_conns *list; /* of those that may make room; NULL: none */
    struct http_thread *thread;
    struct bufferevent *bev;
    struct ssl_st *ssl; /* the bufferevent's; NULL: without TLS */
    struct event watch; /* keeps the socket in the kernel's set while evhttp does not read */
    struct evhttp_connection *evcon; /* NULL after evhttp let go */
    struct httpd_request *req;       /* CONN_HANDLING only */
    enum http_conn_state state;
    bool fresh;                   /* just accepted: evhttp is still at it */
    bool used;                    /* a byte has come */
    bool gone;                    /* evhttp let go */
    bool due;                     /* on the thread's due list */
    bool linger;                  /* it ends, and bytes that nobody reads may still come */
    bool shaken;                  /* the handshake is done */
    bool continued;               /* evhttp has said 100 Continue since the last request */
    bool rewrite;                 /* evhttp has put a page of its own into the output */
    bool reset;                   /* to be cut off */
    bool over;                    /* the same, for want of memory */
    bool filtering;               /* what changes the input is the wire */
    bool was_read;                /* since the watch has last looked */
    int64_t since_ms;             /* when the state began */
    struct address address;       /* of the client, if known; */
    char peer[ADDRESS_TEXT_SIZE]; /* the same as text, "" if not */
    uint16_t peer_port;
    bool known;
    bool trusted;         /* a proxy of ours */
    bool counted;         /* among those of its address */
    size_t bytes;         /* that it is charged with */
    size_t request_bytes; /* of the request in evhttp's hands, until its answer is out */
    size_t lent;          /* of the output: constant, and not copied */
    struct http_wire wire;
    uint64_t taken; /* requests that evhttp has found */
};

struct http_thread {
    struct httpd *server;
    pthread_t thread;
    struct event_base *base;
    struct evhttp *http;
    struct evconnlistener *listener;
    struct evhttp_bound_socket *bound;
    int listen_fd;
    int wake_fd;
    struct event *wake, *sweep, *act, *stop_accepting, *deadline, *crowd;
    _Atomic(struct httpd_request *) mailbox;
    struct httpd_request *first_waiting, *last_waiting; /* with a deadline, in order of it */
    int64_t timer_ms; /* the deadline that the timer is set for; 0: it is not */
    struct http_conn *conns;
    struct http_conn *last_input; /* whose bytes evhttp has looked at last */
    struct http_conn *due;
    struct http_conn *sweep_next;   /* where a sweep goes on; NULL: none is under way */
    struct http_conns silent, kept; /* the idle ones, longest first: without a byte yet, others */
    struct http_conns lingering;    /* likewise */
    int64_t conn_count;
    int64_t shaking;           /* of them, handshakes under way */
    size_t bytes;              /* of all its connections */
    int64_t told_bytes;        /* of those, in the gauge */
    int64_t draining_since_ms; /* 0: not draining */
    int64_t resume_ms;         /* accepting is paused until then for want of descriptors */
    bool paused, sweeping;
    struct buf answer; /* that is put together; kept for the next one's sake */
    time_t date_sec;   /* which date is of */
    char date[40];
    bool short_of_memory; /* room is to be made at the end of this turn */
    /* by path, method and status; made when first needed */
    struct metric *(*answers)[HTTP_METHODS][HTTP_STATUS_SLOTS];
};

struct httpd {
    struct httpd_settings settings;
    void *arg;
    bool (*admit)(struct httpd_request *req, void *arg);
    struct http_path *paths; /* path_count, then the one for all others */
    size_t path_count;
    struct http_thread *threads;
    struct http_tls *tls; /* NULL: none */
    unsigned thread_count;
    size_t thread_bytes; /* that the connections of a thread may hold */
    size_t usual_bytes;  /* of a connection with a request of the usual size */
    uint16_t port;
    bool started;
    _Atomic bool draining, stopping;
    _Atomic int64_t connections, held; /* held: requests in the program's hands */
    pthread_mutex_t lock;              /* guards nothing but the wait for drained */
    pthread_cond_t drained;
    struct network *proxies; /* trusted ones */
    size_t proxy_count;
    struct http_crowd *crowds; /* connections by address; uthash */
    pthread_mutex_t crowds_lock;
};

enum http_action { HTTP_ANSWER, HTTP_RESET };

struct httpd_text {
    struct httpd_text *next;
    char text[];
};

struct httpd_request {
    struct httpd_request *next; /* in the mailbox */
    struct http_thread *thread;
    struct http_conn *conn;
    struct evhttp_request *ev;
    const struct http_path *path;
    enum http_method method;
    enum http_action action;
    bool answered;
    bool close; /* the connection ends with this answer */
    bool ended; /* its client has asked for that */
    bool kept;  /* the handler has said how caches may keep the answer */
    int status;
    int64_t start_us;
    struct trace_context trace;
    struct trace_context parent; /* the caller's, if has_parent */
    bool has_parent;
    int64_t user_id; /* 0: not known */
    _Alignas(max_align_t) unsigned char room[HTTPD_ROOM];
    const char *tracestate;
    const char *peer;
    const char *id;  /* "" before it is known */
    char own_id[17]; /* unless the client has given one */
    const char *decoded_path;
    struct httpd_text *texts; /* decoded strings, freed with the request */
    _Atomic unsigned stage;   /* who may answer: httpd_deadline.c */
    int64_t deadline_ms;
    httpd_late_fn *late; /* NULL: no deadline, or none any more */
    struct httpd_request *earlier, *later;
    struct event *timer;   /* holds the answer back */
    int64_t delay_us;      /* 0: not held back, or not any more */
    bool settle;           /* the answer waits for the next turn at least */
    bool waiting;          /* for the timer */
    struct buf headers;    /* the handler's, as they are written */
    char content_type[64]; /* "": the default */
    const char *body;      /* small, owned_body, or constant */
    size_t body_len;
    char *owned_body;
    bool constant; /* what it is answered with */
    char small[384];
};

/* The row of the request's route; NULL when there is none. */
static inline const struct httpd_route *http_route(const struct httpd_request *req)
{
    return req->path->routes[req->method];
}

/* The thread that runs now, NULL outside of the server. */
struct http_thread *http_current_thread(void);
/* Hands an answer over to the request's thread. */
void http_post(struct httpd_request *req);

/* httpd_accept.c */
int http_accept_bind(struct httpd *h, struct err *err);
void http_accept_clamp(struct httpd *h, int64_t beside); /* max_connections, to what is there */
int http_accept_start(struct http_thread *t, struct err *err);
void http_accept_taken(struct http_thread *t); /* one more */
void http_accept_crowd(evutil_socket_t fd, short what, void *thread);

/* httpd_conn.c */
struct bufferevent *http_conn_new(struct event_base *base, void *thread); /* evhttp's bevcb */
struct http_conn *http_conn_of(struct http_thread *t, struct evhttp_connection *evcon);
void http_conn_set_state(struct http_conn *c, enum http_conn_state state);
void http_conn_write(struct http_conn *c); /* an answer lies in the output: in this turn */
void http_conn_written(struct http_conn *c);
void http_conn_end_linger(struct http_conn *c);
void http_conn_schedule(struct http_conn *c); /* look at it at the end of this turn of the loop */
void http_conn_act(evutil_socket_t fd, short what, void *thread);
void http_conn_sweep(evutil_socket_t fd, short what, void *thread);
void http_conn_drain(struct http_thread *t);
void http_conn_forget_timers(struct http_thread *t); /* the loop has ended */
void http_conn_free_all(struct http_thread *t);      /* evhttp is gone */

/* httpd_page.c */
void http_page_rewrite(struct http_conn *c); /* what evhttp says lies in the output */
/* Says that the request, of which the rest is still to come, takes too much memory. False: the
 * client waits for no such answer, or could not be told. */
bool http_page_overloaded(struct http_conn *c);

/* httpd_peer.c */
void http_peer_note(struct http_conn *c);  /* evcon is there */
bool http_peer_enter(struct http_conn *c); /* false: its address has as many as it may */
void http_peer_leave(struct http_conn *c);
void http_peer_proxied(struct http_conn *c);         /* the wire has read who the client is */
void http_peer_forwarded(struct httpd_request *req); /* ... what proxies of ours say */

/* httpd_memory.c */
void http_memory_plan(struct httpd *h);       /* the settings are known */
void http_memory_count(struct http_conn *c);  /* what it holds has changed */
void http_memory_forget(struct http_conn *c); /* it goes */
void http_memory_make_room(struct http_thread *t);

/* httpd_wire.c: the last n bytes of in are new; leaves of them what evhttp may see. */
void http_wire_take(struct http_wire *w, struct evbuffer *in, size_t n);
/* Whether evhttp, having found so many requests and left so many bytes unread, sees requests begin
 * and end where the wire does. */
bool http_wire_agrees(const struct http_wire *w, uint64_t taken, size_t unread);

/* httpd_check.c */
enum http_once { /* headers that make no sense twice */
                 HTTP_ONCE_HOST,
                 HTTP_ONCE_EXPECT,
                 HTTP_ONCE_ORIGIN,
                 HTTP_ONCE_TYPE,
                 HTTP_ONCE_AUTHORIZATION,
                 HTTP_ONCE_API_KEY,
                 HTTP_ONCE_KEY,
                 HTTP_ONCES
};
struct http_facts {
    const char *once[HTTP_ONCES];      /* NULL: absent */
    const char *traceparent;           /* NULL: absent or repeated */
    const struct evkeyval *tracestate; /* the first one */
    unsigned tracestates;
    const char *request_id; /* NULL: absent */
    bool close;             /* the client asks for it in a way that evhttp misses */
    bool fetched;           /* by a page: a browser says Sec-Fetch-... */
    const char *field;      /* the header to blame; NULL: none */
};
/* NULL when the request may be handled, else a sentence that says what is wrong with it. */
const char *http_check(struct evhttp_request *ev, struct http_facts *facts);
/* Whether a body of this type may be taken for JSON. */
bool http_check_type(const struct http_facts *facts);
/* Whether the request is for one of these hosts, comma-separated. */
bool http_check_host(const char *hosts, const struct http_facts *facts);
bool http_check_hosts_setting(const char *value, char *why, size_t size);
bool http_check_authority(const char *s); /* a name or an address with or without a port, or "" */

/* httpd_request.c */
void http_on_request(struct evhttp_request *ev, void *thread);
void http_request_finish(struct httpd_request *req); /* the answer or reset, on its thread */
void http_request_free(struct httpd_request *req);
enum http_method http_method_parse(const char *name);
const char *http_method_name(enum http_method method);

/* httpd_answer.c */
void http_answer_send(struct httpd_request *req, const char *body, size_t n); /* frees req */
void http_answer_put_header(struct buf *b, const char *name, const char *value);
const char *http_phrase(int status);

/* httpd_cors.c: path NULL: there is none. True: it was a browser's question, and is answered. */
bool http_cors(struct httpd_request *req, const struct http_path *path,
               const struct http_facts *facts);
bool http_cors_check(const char *value, char *why, size_t size);

/* httpd_deadline.c */
void http_deadline_pass(evutil_socket_t fd, short what, void *thread);
void http_deadline_forget(struct httpd_request *req); /* on its thread */
void http_deadline_let_go(struct httpd_request *req); /* frees it, as soon as nobody has it */

/* httpd_input.c */
/* Room for a string of n bytes that goes with the request; NULL when memory is out. */
char *http_input_text(struct httpd_request *req, size_t n);
void http_input_path(struct httpd_request *req);
#define HTTP_NUL_IN_TARGET "The request target must not hold %00."
bool http_input_query(struct httpd_request *req); /* false: a parameter is wrong; answered */
void http_input_trace(struct httpd_request *req, const struct http_facts *facts);
void http_input_id(struct httpd_request *req,
                   const struct http_facts *facts); /* behind the trace */

/* httpd_span.c */
bool http_span_wanted(const struct httpd_request *req);
void http_span_answer(const struct httpd_request *req);

/* httpd_stats.c */
void http_stats_register(struct httpd *h);
void http_stats_answer(struct http_thread *t, const struct http_path *path, enum http_method method,
                       int status, int64_t start_us, const struct trace_context *trace);
void http_stats_held(int change);
void http_stats_connections(int change);
void http_stats_handshake(bool done);
void http_stats_dropped(enum http_drop why);
void http_stats_paused(bool descriptors);
void http_stats_memory(struct http_thread *t);

#endif
