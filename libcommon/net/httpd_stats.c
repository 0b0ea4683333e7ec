#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/net/httpd_internal.h"

/* The statuses that have a label of their own; any other shares its class's. */
static const short statuses[] = {200, 201, 202, 204, 301, 302, 304, 307, 400, 401, 402,
                                 403, 404, 405, 406, 408, 409, 410, 411, 412, 413, 414,
                                 415, 417, 418, 421, 422, 423, 425, 426, 428, 429, 431,
                                 451, 500, 501, 502, 503, 504, 505, 507, 508, 511};
#define KNOWN (sizeof(statuses) / sizeof(statuses[0]))
_Static_assert(KNOWN + 6 <= HTTP_STATUS_SLOTS, "a slot for each status and each class");

static unsigned char slot_of_status[600];

static _Atomic int64_t connections, held, bytes;
static struct {
    struct metric *connections, *held, *bytes, *dropped[HTTP_DROPS], *paused_connections,
        *paused_descriptors, *handshakes_done, *handshakes_failed;
} m;

static struct metric *register_seconds(const struct http_path *path, enum http_method method)
{
    struct buf labels = {0};
    struct metric *seconds;

    buf_printf(&labels, "path=\"%s\",method=\"%s\"", path->pattern, http_method_name(method));
    seconds = metrics_latency("http_request_duration_seconds",
                              "Time from a request's last byte to its answer.",
                              labels.failed ? "" : labels.data);
    buf_free(&labels);
    return seconds;
}

static struct metric *register_answers(const struct http_path *path, enum http_method method,
                                       unsigned slot)
{
    struct buf labels = {0};
    struct metric *answers;

    buf_printf(&labels, "path=\"%s\",method=\"%s\",status=\"", path->pattern,
               http_method_name(method));
    if (slot < KNOWN)
        buf_printf(&labels, "%d\"", statuses[slot]);
    else
        buf_printf(&labels, "%uxx\"", slot - (unsigned)KNOWN);
    answers = metrics_counter("http_requests_total", "Answered requests.",
                              labels.failed ? "" : labels.data);
    buf_free(&labels);
    return answers;
}

static void register_dropped(void)
{
    static const char *const reasons[HTTP_DROPS] = {
        [HTTP_DROP_HANDSHAKE_TIMEOUT] = "reason=\"handshake_timeout\"",
        [HTTP_DROP_READ_TIMEOUT] = "reason=\"read_timeout\"",
        [HTTP_DROP_IDLE_TIMEOUT] = "reason=\"idle_timeout\"",
        [HTTP_DROP_WRITE_TIMEOUT] = "reason=\"write_timeout\"",
        [HTTP_DROP_BAD_REQUEST] = "reason=\"bad_request\"",
        [HTTP_DROP_RESET] = "reason=\"reset\"",
        [HTTP_DROP_CROWDED] = "reason=\"crowded\"",
        [HTTP_DROP_ADDRESS] = "reason=\"address_limit\"",
        [HTTP_DROP_MEMORY] = "reason=\"memory\"",
    };

    for (int i = 0; i < HTTP_DROPS; i++)
        m.dropped[i] = metrics_counter("http_connections_dropped_total",
                                       "Connections that the server ended.", reasons[i]);
}

static pthread_once_t shared_once = PTHREAD_ONCE_INIT;

/* Once: a process may open a server while another one's threads count. */
static void register_shared(void)
{
    for (size_t i = 0; i < 600; i++)
        slot_of_status[i] = (unsigned char)(KNOWN + i / 100);
    for (size_t i = 0; i < KNOWN; i++)
        slot_of_status[statuses[i]] = (unsigned char)i;
    m.connections = metrics_gauge("http_connections", "Open connections.", "");
    m.held = metrics_gauge("http_requests_in_flight", "Requests not answered yet.", "");
    m.bytes = metrics_gauge("http_memory_bytes", "Memory that connections take, about.", "");
    m.paused_connections = metrics_counter(
        "http_accept_pauses_total", "Times that accepting was paused.", "reason=\"connections\"");
    m.paused_descriptors = metrics_counter(
        "http_accept_pauses_total", "Times that accepting was paused.", "reason=\"descriptors\"");
    m.handshakes_done =
        metrics_counter("http_tls_handshakes_total", "TLS handshakes.", "result=\"done\"");
    m.handshakes_failed =
        metrics_counter("http_tls_handshakes_total", "TLS handshakes.", "result=\"failed\"");
    register_dropped();
}

/* What a route may be expected to answer has its counter from the start: a rate misses what came
 * before its series did. */
static void register_expected(const struct http_path *path, enum http_method method)
{
    static const short expected[] = {200, 400, 402, 409, 422, 429, 500, 503};
    size_t n =
        path->routes[method]->words & HTTPD_EXPECT_200 ? 1 : sizeof(expected) / sizeof(expected[0]);

    for (size_t i = 0; i < n; i++)
        register_answers(path, method, slot_of_status[expected[i]]);
}

static bool is_counted(const struct httpd_route *route)
{
    return route && !(route->words & HTTPD_NO_METRIC);
}

void http_stats_register(struct httpd *h)
{
    pthread_once(&shared_once, register_shared);
    for (size_t i = 0; i < h->path_count; i++)
        for (int method = 0; method < HTTP_METHODS; method++)
            /* HEAD, unless it is a route of its own, is counted when it first comes */
            if (is_counted(h->paths[i].routes[method]) &&
                (method != HTTP_HEAD ||
                 h->paths[i].routes[HTTP_HEAD] != h->paths[i].routes[HTTP_GET])) {
                h->paths[i].seconds[method] =
                    register_seconds(&h->paths[i], (enum http_method)method);
                register_expected(&h->paths[i], (enum http_method)method);
            }
    h->paths[h->path_count].seconds[HTTP_OTHER] =
        register_seconds(&h->paths[h->path_count], HTTP_OTHER);
}

void http_stats_answer(struct http_thread *t, const struct http_path *path, enum http_method method,
                       int status, int64_t start_us, const struct trace_context *trace)
{
    unsigned slot = slot_of_status[status >= 100 && status < 600 ? status : 599];
    struct metric **answers = &t->answers[path - t->server->paths][method][slot];
    struct metric *seconds = path->seconds[method];

    if (path->routes[method] && !is_counted(path->routes[method]))
        return;
    if (!*answers)
        *answers = register_answers(path, method, slot);
    metrics_add(*answers, 1);
    if (path == &t->server->paths[t->server->path_count])
        seconds = path->seconds[HTTP_OTHER];
    if (seconds && start_us)
        metrics_observe_traced(seconds, clock_mono_us() - start_us, trace);
}

void http_stats_held(int change)
{
    metrics_set(m.held, atomic_fetch_add_explicit(&held, change, memory_order_relaxed) + change);
}

void http_stats_connections(int change)
{
    metrics_set(m.connections,
                atomic_fetch_add_explicit(&connections, change, memory_order_relaxed) + change);
}

void http_stats_handshake(bool done)
{
    metrics_add(done ? m.handshakes_done : m.handshakes_failed, 1);
}

/* Now and then, not with each request. */
void http_stats_memory(struct http_thread *t)
{
    int64_t change = (int64_t)t->bytes - t->told_bytes;

    t->told_bytes = (int64_t)t->bytes;
    metrics_set(m.bytes, atomic_fetch_add_explicit(&bytes, change, memory_order_relaxed) + change);
}

void http_stats_dropped(enum http_drop why)
{
    metrics_add(m.dropped[why], 1);
}

void http_stats_paused(bool descriptors)
{
    metrics_add(descriptors ? m.paused_descriptors : m.paused_connections, 1);
}
