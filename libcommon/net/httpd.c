#include "libcommon/net/httpd.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/net/httpd_internal.h"
#include "libcommon/telemetry/log.h"

#define PATIENCE_MS 100 /* how often a wait looks whether it was given up */
/* How long a thread works off what it knows of before it looks at its sockets again. A request
 * behind another one on its connection goes to the end of what is known by then: those who send
 * many at once wait for those who send one. */
#define TURN_MS 2

const struct setting httpd_settings_rows[] = {
    SETTING_INT_ROW(httpd_settings, threads, "HTTP_THREADS", "2", 1, 64,
                    "Threads that serve HTTP, each with a listener of its own."),
    SETTING_INT_ROW(httpd_settings, max_connections, "HTTP_MAX_CONNECTIONS", "8192", 16, 1000000,
                    "Most connections held at once; further ones wait to be accepted, and idle "
                    "ones are closed."),
    SETTING_INT_ROW(httpd_settings, address_connections, "HTTP_MAX_CONNECTIONS_PER_ADDRESS", "0", 0,
                    1000000,
                    "Most of them from one IPv4 address or IPv6 /64 network; further ones are "
                    "closed. 0: no limit. TRUSTED_PROXIES have none."),
    SETTING_INT_ROW(httpd_settings, connection_requests, "HTTP_MAX_REQUESTS_PER_CONNECTION",
                    "10000", 0, 1000000000,
                    "Requests after which a connection is closed with its answer; 0: no limit."),
    SETTING_TEXT_ROW(httpd_settings, trusted_proxies, SETTING_STRING, "TRUSTED_PROXIES", "", 4096,
                     networks_check,
                     "Networks and addresses of proxies before the server, comma-separated: the "
                     "client is the rightmost address in their X-Forwarded-For that is none of "
                     "them. Empty: none."),
    SETTING_BOOL_ROW(httpd_settings, proxy_protocol, "HTTP_PROXY_PROTOCOL", "false",
                     "Connections from TRUSTED_PROXIES begin with a PROXY header (version 1 or 2), "
                     "which says who the client is."),
    SETTING_INT_ROW(httpd_settings, memory_bytes, "HTTP_MEMORY_BYTES", "0", 0, INT64_C(1) << 40,
                    "Memory that connections may take together, for what has been read and what "
                    "is not written yet; beyond it slow clients are cut. 0: 8192 for each of "
                    "HTTP_MAX_CONNECTIONS. There are no more connections than have room in it: "
                    "each needs 8192, and 32768 more over TLS."),
    SETTING_INT_ROW(httpd_settings, max_header_bytes, "HTTP_MAX_HEADER_BYTES", "16384", 1024,
                    1048576, "Largest request line and headers together."),
    SETTING_INT_ROW(httpd_settings, max_headers, "HTTP_MAX_HEADERS", "100", 10, 10000,
                    "Most headers of a request; one with more is answered with 400."),
    SETTING_INT_ROW(httpd_settings, read_timeout_ms, "HTTP_READ_TIMEOUT_MS", "10000", 100, 600000,
                    "Longest time from the first byte of a request to its last."),
    SETTING_INT_ROW(httpd_settings, idle_timeout_ms, "HTTP_IDLE_TIMEOUT_MS", "60000", 100, 3600000,
                    "Longest time a connection is kept between requests."),
    SETTING_INT_ROW(httpd_settings, write_timeout_ms, "HTTP_WRITE_TIMEOUT_MS", "10000", 100, 600000,
                    "Longest time a client may take to read its answer."),
    SETTING_TEXT_ROW(
        httpd_settings, cors_origins, SETTING_STRING, "HTTP_CORS_ORIGINS", "", 4096,
        http_cors_check,
        "Origins (https://app.example) whose pages may call the server from a browser, "
        "comma-separated. Empty: none."),
    SETTING_TEXT_ROW(httpd_settings, hosts, SETTING_STRING, "HTTP_HOSTS", "", 4096,
                     http_check_hosts_setting,
                     "Names and addresses that clients may call the server by in Host, without "
                     "port, comma-separated; others are answered with 421, but for /healthz and "
                     "/readyz. Empty: any."),
    SETTING_TEXT_ROW(httpd_settings, tls_cert_file, SETTING_STRING, "HTTP_TLS_CERT_FILE", "", 4096,
                     NULL,
                     "PEM file of the certificate to show, followed by those between it and its "
                     "authority; with its key: HTTPS takes HTTP's place. The files are read again "
                     "when they change, and on SIGHUP."),
    SETTING_TEXT_ROW(httpd_settings, tls_key_file, SETTING_STRING, "HTTP_TLS_KEY_FILE", "", 4096,
                     NULL, "PEM file of that certificate's key, not encrypted."),
    SETTING_CHOICE_ROW(httpd_settings, tls_min_version, "HTTP_TLS_MIN_VERSION", "1.2", "1.2 1.3",
                       "Lowest version of TLS that clients may use."),
    SETTING_TEXT_ROW(httpd_settings, tls_client_ca_file, SETTING_STRING, "HTTP_TLS_CLIENT_CA_FILE",
                     "", 4096, NULL,
                     "PEM file of the authorities of clients' certificates; empty: clients are "
                     "asked for none."),
    SETTING_CHOICE_ROW(httpd_settings, tls_client_auth, "HTTP_TLS_CLIENT_AUTH", "required",
                       "optional required",
                       "Whether a client may come without a certificate where "
                       "HTTP_TLS_CLIENT_CA_FILE is set; to /healthz and /readyz each may."),
    SETTINGS_END};

const struct setting httpd_body_rows[] = {
    SETTING_INT_ROW(httpd_settings, max_body_bytes, "HTTP_MAX_BODY_BYTES", "0", 0, 67108864,
                    "Largest request body, where more is wanted than the program has a use for; a "
                    "larger one is answered with 413."),
    SETTINGS_END};

static size_t fault(bool wrong, struct buf *errors, const char *sentence)
{
    if (wrong)
        buf_printf(errors, "%s\n", sentence);
    return wrong;
}

size_t httpd_settings_check(const struct httpd_settings *s, struct buf *errors)
{
    return settings_check_order("HTTP_THREADS", s->threads, "HTTP_MAX_CONNECTIONS",
                                s->max_connections, errors) +
           fault(*s->tls_cert_file && !*s->tls_key_file, errors,
                 "HTTP_TLS_KEY_FILE is missing: HTTP_TLS_CERT_FILE is set") +
           fault(*s->tls_key_file && !*s->tls_cert_file, errors,
                 "HTTP_TLS_CERT_FILE is missing: HTTP_TLS_KEY_FILE is set") +
           fault(*s->tls_client_ca_file && !*s->tls_cert_file, errors,
                 "HTTP_TLS_CERT_FILE is missing: HTTP_TLS_CLIENT_CA_FILE is set") +
           fault(s->proxy_protocol && !*s->trusted_proxies, errors,
                 "HTTP_PROXY_PROTOCOL needs TRUSTED_PROXIES: nobody else may speak it") +
           fault(s->proxy_protocol && *s->tls_cert_file, errors,
                 "HTTP_PROXY_PROTOCOL is for HTTP alone: HTTP_TLS_CERT_FILE is set");
}

static _Thread_local struct http_thread *current;
static _Atomic bool given_up;

struct http_thread *http_current_thread(void)
{
    return current;
}

uint16_t httpd_port(const struct httpd *h)
{
    return h->port;
}

/* The paths of the routing table, each with its methods, and one entry for all others. */
static void build_paths(struct httpd *h, const struct httpd_config *config)
{
    h->paths = must_alloc(config->route_count + 1, sizeof(*h->paths));
    for (size_t i = 0; i < config->route_count; i++) {
        const struct httpd_route *route = &config->routes[i];
        enum http_method method = http_method_parse(route->method);
        struct http_path *path = h->paths;

        MUST(method != HTTP_OTHER && *route->path);
        while (path < h->paths + h->path_count && strcmp(path->pattern, route->path) != 0)
            path++;
        if (path == h->paths + h->path_count) {
            path->pattern = route->path;
            path->len = strlen(route->path);
            path->prefix = route->path[path->len - 1] == '*';
            path->len -= path->prefix;
            h->path_count++;
        }
        path->routes[method] = route;
        if (method == HTTP_GET && !path->routes[HTTP_HEAD])
            path->routes[HTTP_HEAD] = route;
    }
    h->paths[h->path_count].pattern = "other";
    for (size_t i = 0; i < h->path_count; i++) {
        struct http_path *path = &h->paths[i];
        size_t at = 0;

        for (int m = 0; m < HTTP_METHODS; m++)
            if (path->routes[m])
                at += (size_t)snprintf(path->allow + at, sizeof(path->allow) - at, "%s%s",
                                       at ? ", " : "", http_method_name((enum http_method)m));
    }
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct http_thread *t = arg;
    struct httpd_request *taken;
    struct httpd_request *in_order = NULL;
    uint64_t count;

    (void)what;
    if (read(fd, &count, sizeof(count)) < 0)
        MUST(errno == EAGAIN || errno == EINTR);
    taken = atomic_exchange_explicit(&t->mailbox, NULL, memory_order_acquire);
    while (taken) {
        struct httpd_request *next = taken->next;

        taken->next = in_order;
        in_order = taken;
        taken = next;
    }
    while (in_order) {
        struct httpd_request *next = in_order->next;

        http_request_finish(in_order);
        in_order = next;
    }
    if (atomic_load(&t->server->draining) && !t->draining_since_ms) {
        struct timeval now = {0, 0};

        t->draining_since_ms = clock_mono_ms();
        /* After what waits to be accepted has been: timers run behind sockets of the same turn. */
        evtimer_add(t->stop_accepting, &now);
        http_conn_drain(t);
    }
    if (atomic_load(&t->server->stopping))
        event_base_loopbreak(t->base);
}

static void wake(struct http_thread *t)
{
    uint64_t one = 1;

    while (write(t->wake_fd, &one, sizeof(one)) < 0)
        MUST(errno == EINTR);
}

void http_post(struct httpd_request *req)
{
    struct http_thread *t = req->thread;
    struct httpd_request *head = atomic_load_explicit(&t->mailbox, memory_order_relaxed);

    do
        req->next = head;
    while (!atomic_compare_exchange_weak_explicit(&t->mailbox, &head, req, memory_order_release,
                                                  memory_order_relaxed));
    if (!head)
        wake(t);
}

static void on_stop_accepting(evutil_socket_t fd, short what, void *arg)
{
    struct http_thread *t = arg;

    (void)fd;
    (void)what;
    if (t->bound)
        evhttp_del_accept_socket(t->http, t->bound); /* closes the socket */
    t->bound = NULL;
    t->listener = NULL;
    http_stats_connections(0);
    pthread_mutex_lock(&t->server->lock);
    t->listen_fd = -1;
    pthread_cond_broadcast(&t->server->drained);
    pthread_mutex_unlock(&t->server->lock);
}

/* Gathering changes saves a fifth of the CPU time of a request. A gathered removal may reach the
 * kernel when the descriptor is closed and has a new owner on another thread; it then finds nothing
 * to remove, but ThreadSanitizer takes it for a race. */
#if defined(__SANITIZE_THREAD__)
#define GATHER_CHANGES 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define GATHER_CHANGES 0
#endif
#endif
#ifndef GATHER_CHANGES
#define GATHER_CHANGES EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST
#endif

static struct event_base *new_base(void)
{
    struct event_config *config = event_config_new();
    const struct timeval turn = {0, TURN_MS * 1000};
    struct event_base *base;

    MUST(config != NULL);
    event_config_set_flag(config,
                          EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_IGNORE_ENV | GATHER_CHANGES);
    MUST(event_config_set_max_dispatch_interval(config, &turn, INT_MAX, 0) == 0);
    base = event_base_new_with_config(config);
    event_config_free(config);
    MUST(base != NULL);
    return base;
}

static void build_thread(struct httpd *h, struct http_thread *t)
{
    const struct httpd_settings *s = &h->settings;

    t->server = h;
    t->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    MUST(t->wake_fd >= 0);
    t->base = new_base();
    t->http = evhttp_new(t->base);
    t->wake = event_new(t->base, t->wake_fd, EV_READ | EV_PERSIST, on_wake, t);
    t->sweep = event_new(t->base, -1, 0, http_conn_sweep, t);
    t->act = event_new(t->base, -1, 0, http_conn_act, t);
    t->stop_accepting = event_new(t->base, -1, 0, on_stop_accepting, t);
    t->deadline = event_new(t->base, -1, 0, http_deadline_pass, t);
    t->crowd = event_new(t->base, -1, 0, http_accept_crowd, t);
    MUST(t->http && t->wake && t->sweep && t->act && t->stop_accepting && t->deadline && t->crowd);
    TAILQ_INIT(&t->silent);
    TAILQ_INIT(&t->kept);
    TAILQ_INIT(&t->lingering);
    MUST(event_add(t->wake, NULL) == 0);
    t->answers = must_alloc(h->path_count + 1, sizeof(*t->answers));
    evhttp_set_bevcb(t->http, http_conn_new, t);
    evhttp_set_gencb(t->http, http_on_request, t);
    evhttp_set_allowed_methods(t->http, 0xffff); /* we answer for methods that nobody knows */
    evhttp_set_default_content_type(t->http, "application/json");
    evhttp_set_max_headers_size(t->http, (ev_ssize_t)s->max_header_bytes);
    evhttp_set_max_body_size(t->http, (ev_ssize_t)s->max_body_bytes);
}

static int64_t body_limit(const struct httpd_config *config)
{
    int64_t most = 0;

    for (size_t i = 0; i < config->route_count; i++)
        if (!strcmp(config->routes[i].method, "POST") || !strcmp(config->routes[i].method, "PUT"))
            most = (int64_t)config->body_bytes;
    return most && config->settings->max_body_bytes > most ? config->settings->max_body_bytes
                                                           : most;
}

struct httpd *httpd_new(const struct httpd_config *config, struct err *err)
{
    struct httpd *h = must_alloc(1, sizeof(*h));

    h->settings = *config->settings;
    h->settings.max_body_bytes = body_limit(config);
    h->arg = config->arg;
    h->admit = config->admit;
    h->thread_count = (unsigned)h->settings.threads;
    http_accept_clamp(h, config->beside);
    http_memory_plan(h);
    if (h->settings.trusted_proxies)
        h->proxies = networks_parse(h->settings.trusted_proxies, &h->proxy_count);
    h->threads = must_alloc(h->thread_count, sizeof(*h->threads));
    pthread_mutex_init(&h->lock, NULL);
    pthread_mutex_init(&h->crowds_lock, NULL);
    pause_cond_init(&h->drained);
    build_paths(h, config);
    for (unsigned i = 0; i < h->thread_count; i++)
        h->threads[i].listen_fd = -1;
    for (unsigned i = 0; i < h->thread_count; i++)
        build_thread(h, &h->threads[i]);
    if (http_tls_new(&h->settings, &h->tls, err) || http_accept_bind(h, err)) {
        httpd_free(h);
        return NULL;
    }
    http_stats_register(h);
    return h;
}

static void *thread_main(void *arg)
{
    struct http_thread *t = arg;

    current = t;
    event_base_loop(t->base, EVLOOP_NO_EXIT_ON_EMPTY);
    http_conn_forget_timers(t);
    current = NULL;
    return NULL;
}

int httpd_start(struct httpd *h, struct err *err)
{
    sigset_t all;
    sigset_t before;

    for (unsigned i = 0; i < h->thread_count; i++)
        if (http_accept_start(&h->threads[i], err))
            return -1;
    if (h->tls)
        http_tls_follow(h->tls, h->threads[0].base);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    for (unsigned i = 0; i < h->thread_count; i++) {
        char name[16];

        MUST(pthread_create(&h->threads[i].thread, NULL, thread_main, &h->threads[i]) == 0);
        snprintf(name, sizeof(name), "http-%u", i);
        pthread_setname_np(h->threads[i].thread, name);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    h->started = true;
    return 0;
}

void httpd_drain(struct httpd *h)
{
    if (atomic_exchange(&h->draining, true) || !h->started)
        return;
    for (unsigned i = 0; i < h->thread_count; i++)
        wake(&h->threads[i]);
}

bool httpd_draining(const struct httpd_request *req)
{
    return atomic_load_explicit(&req->thread->server->draining, memory_order_relaxed);
}

static bool is_drained(const struct httpd *h)
{
    for (unsigned i = 0; i < h->thread_count; i++)
        if (h->threads[i].listen_fd >= 0)
            return false;
    return atomic_load(&h->connections) == 0;
}

void httpd_give_up(void)
{
    atomic_store(&given_up, true);
}

bool httpd_wait_drained(struct httpd *h, int timeout_ms)
{
    int64_t until_ms = clock_mono_ms() + timeout_ms;
    bool done;

    if (!h->started)
        return true;
    pthread_mutex_lock(&h->lock);
    while (!(done = is_drained(h)) && !atomic_load(&given_up)) {
        int64_t left_ms = until_ms - clock_mono_ms();
        struct timespec next = pause_until(left_ms < PATIENCE_MS ? left_ms : PATIENCE_MS);

        if (left_ms <= 0)
            break;
        pause_cond_wait(&h->drained, &h->lock, &next);
    }
    pthread_mutex_unlock(&h->lock);
    return done;
}

static void drop_mailbox(struct http_thread *t)
{
    struct httpd_request *req = atomic_exchange(&t->mailbox, NULL);

    while (req) { /* answered after the thread had ended */
        struct httpd_request *next = req->next;

        http_request_free(req);
        req = next;
    }
}

static void free_event(struct event *event)
{
    if (event)
        event_free(event);
}

static void free_thread(struct http_thread *t)
{
    if (t->http)
        evhttp_free(t->http);
    http_conn_free_all(t);
    free_event(t->crowd);
    free_event(t->deadline);
    free_event(t->stop_accepting);
    free_event(t->act);
    free_event(t->sweep);
    free_event(t->wake);
    if (t->base) {
        event_base_loop(t->base, EVLOOP_NONBLOCK); /* bufferevents are freed by the loop */
        event_base_free(t->base);
    }
    if (t->wake_fd >= 0)
        close(t->wake_fd);
    if (!t->bound && !t->server->started && t->listen_fd >= 0)
        close(t->listen_fd);
    free(t->answers);
    buf_free(&t->answer);
}

void httpd_free(struct httpd *h)
{
    int64_t held;

    if (!h)
        return;
    atomic_store(&h->draining, true);
    atomic_store(&h->stopping, true);
    for (unsigned i = 0; h->started && i < h->thread_count; i++) {
        wake(&h->threads[i]);
        pthread_join(h->threads[i].thread, NULL);
    }
    for (unsigned i = 0; i < h->thread_count; i++)
        drop_mailbox(&h->threads[i]);
    held = atomic_load(&h->held);
    if (held > 0) {
        /* Whoever holds them may still answer: what that touches is left to the process's end. */
        log_warn("http.requests_abandoned", L_INT("requests", held));
        return;
    }
    http_tls_free(h->tls);
    for (unsigned i = 0; i < h->thread_count; i++)
        free_thread(&h->threads[i]);
    pthread_cond_destroy(&h->drained);
    pthread_mutex_destroy(&h->lock);
    pthread_mutex_destroy(&h->crowds_lock);
    free(h->proxies);
    free(h->threads);
    free(h->paths);
    free(h);
}
