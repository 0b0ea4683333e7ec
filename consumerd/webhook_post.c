#include "consumerd/webhook_post.h"

#include <curl/curl.h>
#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "consumerd/webhook_body.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/daemon/daemon.h"

#define uthash_fatal(what) must_fail(what, __FILE__, __LINE__)
#include <uthash.h>

#define ANSWER_MAX (64 * 1024) /* nobody reads it: who sends more is cut off */
#define CONNECTION_IDLE_SEC 60L
#define TARGET_IDLE_MS 60000 /* its connections are closed then */
#define SWEEP_SEC 5
#define REST_MAX_SEC 86400
#define USER_AGENT "distributed-messaging-platform/" PROJECT_VERSION

/* An endpoint's connections. */
struct webhook_target {
    uint64_t id;
    struct webhook_post *post;
    CURLM *multi;
    struct event *timer;
    unsigned rounds;
    int64_t
        window; /* calls that may be out: one more with each that succeeds, one after a failure */
    int64_t idle_since_ms;
    UT_hash_handle hh;
};

struct call {
    TAILQ_ENTRY(call) link; /* of those that are out, or of the idle ones */
    struct webhook_post *post;
    struct webhook_round *round;
    size_t first, n;
    CURL *easy;
    struct curl_slist *headers;
    struct buf body;
    size_t received;
    int64_t began_us;
    bool blocked;
};
TAILQ_HEAD(call_list, call);

struct webhook_post {
    struct webhook_post_config config;
    pthread_t thread;
    struct event_base *base;
    struct event *wake, *sweep;
    struct daemon_beat *beat;
    int wake_fd;

    pthread_mutex_t lock; /* over what the threads hand each other */
    struct webhook_rounds given;
    struct webhook_posted_list over;
    _Atomic bool draining, stopping;
    _Atomic int64_t until_ms;

    /* Of the loop. */
    struct webhook_target *targets;
    struct webhook_rounds rounds;
    struct call_list out, idle;
    int64_t active, weak_active;
    struct webhook_posted_list news; /* not handed over yet */
};

static const char *const names[WEBHOOK_RESULTS] = {
    [WEBHOOK_OK] = "delivered",        [WEBHOOK_GONE] = "gone",
    [WEBHOOK_THROTTLED] = "throttled", [WEBHOOK_REDIRECT] = "redirect",
    [WEBHOOK_REFUSED] = "refused",     [WEBHOOK_ERROR] = "error",
    [WEBHOOK_TIMEOUT] = "timeout",     [WEBHOOK_UNREACHABLE] = "unreachable",
    [WEBHOOK_BLOCKED] = "blocked",
};

const char *webhook_result_name(enum webhook_result result)
{
    return names[result];
}

enum webhook_result webhook_result_of(long status)
{
    if (status == 410)
        return WEBHOOK_GONE;
    if (status == 429)
        return WEBHOOK_THROTTLED;
    switch (status / 100) {
    case 2:
        return WEBHOOK_OK;
    case 3:
        return WEBHOOK_REDIRECT;
    case 4:
        return WEBHOOK_REFUSED;
    default:
        return WEBHOOK_ERROR;
    }
}

/* ---- what curl asks ---- */

static bool read_address(const struct curl_sockaddr *from, struct address *out)
{
    static const unsigned char v4[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

    if (from->family == AF_INET) {
        memcpy(out->b, v4, sizeof(v4));
        memcpy(out->b + 12, &((const struct sockaddr_in *)(const void *)&from->addr)->sin_addr, 4);
        return true;
    }
    if (from->family != AF_INET6)
        return false;
    memcpy(out->b, &((const struct sockaddr_in6 *)(const void *)&from->addr)->sin6_addr, 16);
    return true;
}

/* The last moment before a connection: curl connects to what is looked at here, and nothing else.
 */
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *to)
{
    struct call *c = arg;
    struct address address;

    (void)purpose;
    if (!read_address(to, &address) || !webhook_guard_allows(&c->post->config.guard, &address)) {
        c->blocked = true;
        return CURL_SOCKET_BAD;
    }
    return socket(to->family, to->socktype | SOCK_CLOEXEC, to->protocol);
}

/* Of the head and the body. */
static size_t on_answer(char *data, size_t one, size_t n, void *arg) /* NOLINT: libcurl's type */
{
    struct call *c = arg;

    (void)data;
    (void)one;
    c->received += n;
    return c->received > ANSWER_MAX ? 0 : n;
}

/* ---- a call ---- */

static bool add_header(struct call *c, const char *name, const char *value)
{
    struct buf line = {0};
    struct curl_slist *more = NULL;

    buf_printf(&line, "%s: %s", name, value);
    if (!line.failed)
        more = curl_slist_append(c->headers, line.data);
    buf_free(&line);
    if (more)
        c->headers = more;
    return more;
}

static bool set_headers(struct call *c)
{
    const struct webhook_page *page = &c->round->page;
    int64_t now_sec = clock_wall_us() / 1000000;
    char id[WEBHOOK_REQUEST_ID_SIZE];
    struct buf signature = {0};
    struct buf timestamp = {0};
    bool ok;

    buf_put_int(&timestamp, now_sec);
    ok = webhook_body_id(id, page->batch, page->events + c->first, c->n) && !timestamp.failed &&
         webhook_body_sign(&signature, page->secrets, id, now_sec, &c->body) &&
         add_header(c, "Content-Type", "application/json") && add_header(c, "webhook-id", id) &&
         add_header(c, "webhook-timestamp", timestamp.data) &&
         add_header(c, "webhook-signature", signature.data);
    buf_free(&signature);
    buf_free(&timestamp);
    return ok;
}

static bool set_options(struct call *c)
{
    const struct webhook_post_config *config = &c->post->config;
    CURL *e = c->easy;
    bool ok = true;

    ok &= !curl_easy_setopt(e, CURLOPT_URL, c->round->page.url);
    ok &= !curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    ok &= !curl_easy_setopt(e, CURLOPT_PROXY, "");
    ok &= !curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    ok &= !curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    ok &= !curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, c);
    ok &= !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    ok &= !curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L); /* never waits for a name server */
    ok &= !curl_easy_setopt(e, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    ok &= !curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (*config->tls_ca)
        ok &= !curl_easy_setopt(e, CURLOPT_CAINFO, config->tls_ca);
    ok &= !curl_easy_setopt(e, CURLOPT_USERAGENT, USER_AGENT);
    ok &= !curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)config->timeout_ms);
    ok &= !curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)config->timeout_ms);
    ok &= !curl_easy_setopt(e, CURLOPT_MAXAGE_CONN, CONNECTION_IDLE_SEC);
    ok &= !curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_answer);
    ok &= !curl_easy_setopt(e, CURLOPT_WRITEDATA, c);
    ok &= !curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_answer);
    ok &= !curl_easy_setopt(e, CURLOPT_HEADERDATA, c);
    ok &= !curl_easy_setopt(e, CURLOPT_HTTPHEADER, c->headers);
    ok &= !curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->body.len);
    ok &= !curl_easy_setopt(e, CURLOPT_POSTFIELDS, c->body.data);
    ok &= !curl_easy_setopt(e, CURLOPT_PRIVATE, c);
    return ok;
}

static struct call *take_call(struct webhook_post *p)
{
    struct call *c = TAILQ_FIRST(&p->idle);

    if (c) {
        TAILQ_REMOVE(&p->idle, c, link);
        return c;
    }
    c = must_alloc(1, sizeof(*c));
    c->post = p;
    c->easy = curl_easy_init();
    MUST(c->easy != NULL);
    return c;
}

/* Nothing of the round's is left in it. */
static void put_back(struct call *c)
{
    curl_easy_reset(c->easy);
    curl_slist_free_all(c->headers);
    c->headers = NULL;
    buf_reset(&c->body);
    c->round = NULL;
    TAILQ_INSERT_HEAD(&c->post->idle, c, link);
}

static void free_call(struct call *c)
{
    curl_easy_cleanup(c->easy);
    curl_slist_free_all(c->headers);
    buf_free(&c->body);
    free(c);
}

static struct webhook_posted *tell(struct webhook_post *p, struct webhook_round *round)
{
    struct webhook_posted *news = must_alloc(1, sizeof(*news));

    news->round = round;
    TAILQ_INSERT_TAIL(&p->news, news, link);
    return news;
}

/* Nothing that was sent there lately has been taken. */
static bool is_weak(const struct webhook_target *t)
{
    return t->window == 1;
}

static void count_active(struct webhook_post *p, struct webhook_round *round, int by)
{
    p->active += by;
    if (is_weak(round->target))
        p->weak_active += by;
    round->active += (unsigned)by;
}

static void set_window(struct webhook_post *p, struct webhook_round *round, int64_t window)
{
    bool was_weak = is_weak(round->target);

    round->target->window = window < p->config.in_flight_each ? window : p->config.in_flight_each;
    if (is_weak(round->target) != was_weak)
        p->weak_active += was_weak ? -(int64_t)round->active : (int64_t)round->active;
}

/* The round is told, and what it may still do follows. */
static void note_result(struct webhook_post *p, struct call *c, const struct webhook_posted *result)
{
    struct webhook_round *round = c->round;
    struct webhook_posted *news = tell(p, round);
    bool ok = result->result == WEBHOOK_OK;

    news->first = c->first;
    news->n = c->n;
    news->result = result->result;
    news->status = result->status;
    news->rest_ms = result->rest_ms;
    news->ended_ms = clock_mono_ms();
    news->took_us = clock_mono_us() - c->began_us;
    count_active(p, round, -1);
    set_window(p, round, ok ? round->target->window + 1 : 1);
    round->failures = ok ? 0 : round->failures + 1;
    if (result->rest_ms || round->failures >= WEBHOOK_PAUSE_AFTER || result->result == WEBHOOK_GONE)
        round->stopped = true;
}

static void judge(struct call *c, CURLcode code, struct webhook_posted *out)
{
    curl_off_t rest_sec = 0;
    long status = 0;

    *out = (struct webhook_posted){.result = WEBHOOK_UNREACHABLE};
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 200 && status <= 999) { /* whatever becomes of the body: it is not for us */
        out->result = webhook_result_of(status);
        out->status = (unsigned)status;
        curl_easy_getinfo(c->easy, CURLINFO_RETRY_AFTER, &rest_sec);
    } else if (c->blocked) {
        out->result = WEBHOOK_BLOCKED;
    } else if (code == CURLE_OPERATION_TIMEDOUT) {
        out->result = WEBHOOK_TIMEOUT;
    }
    if (out->result != WEBHOOK_OK && rest_sec > 0)
        out->rest_ms = (rest_sec < REST_MAX_SEC ? (int64_t)rest_sec : REST_MAX_SEC) * 1000;
}

static void end_call(struct call *c, const struct webhook_posted *result)
{
    struct webhook_post *p = c->post;

    TAILQ_REMOVE(&p->out, c, link);
    note_result(p, c, result);
    put_back(c);
}

static void collect(struct webhook_target *t)
{
    const CURLMsg *m;
    int left;

    while ((m = curl_multi_info_read(t->multi, &left)) != NULL) {
        struct webhook_posted result;
        char *private = NULL;
        struct call *c;

        if (m->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &private);
        c = (struct call *)(void *)private;
        judge(c, m->data.result, &result);
        curl_multi_remove_handle(t->multi, c->easy);
        end_call(c, &result);
    }
}

/* ---- what may begin ---- */

/* Those that are weak have one each, and no more than half of all together; of the others none has
 * more than a quarter of what is free, so that whoever comes next finds something. */
static bool may_begin(const struct webhook_post *p, const struct webhook_round *r)
{
    int64_t free_ones = p->config.in_flight - p->active;

    if (r->stopped || r->next == r->page.n || free_ones <= 0)
        return false;
    if (!r->active)
        return !is_weak(r->target) || p->weak_active < (p->config.in_flight + 1) / 2;
    return r->active < r->target->window && r->active < free_ones / 4;
}

static size_t events_of_a_call(const struct webhook_round *r)
{
    size_t left = r->page.n - r->next;

    return left < r->page.batch ? left : r->page.batch ? r->page.batch : 1;
}

/* Out of memory, or a URL that curl does not take: as if nobody could be reached. */
static void fail_to_begin(struct webhook_post *p, struct call *c)
{
    const struct webhook_posted result = {.result = WEBHOOK_UNREACHABLE};

    TAILQ_INSERT_TAIL(&p->out, c, link);
    end_call(c, &result);
}

static void begin_call(struct webhook_post *p, struct webhook_round *r)
{
    struct call *c = take_call(p);

    c->round = r;
    c->first = r->next;
    c->n = events_of_a_call(r);
    c->began_us = clock_mono_us();
    c->received = 0;
    c->blocked = false;
    r->next += c->n;
    count_active(p, r, 1);
    if (!webhook_body_put(&c->body, r->page.batch, r->page.events + c->first, c->n) ||
        !set_headers(c) || !set_options(c) || curl_multi_add_handle(r->target->multi, c->easy)) {
        fail_to_begin(p, c);
        return;
    }
    TAILQ_INSERT_TAIL(&p->out, c, link);
}

static bool is_over(const struct webhook_round *r)
{
    return !r->active && (r->stopped || r->next == r->page.n);
}

static void end_rounds(struct webhook_post *p, bool none_begins)
{
    struct webhook_round *r = TAILQ_FIRST(&p->rounds);

    while (r) {
        struct webhook_round *next = TAILQ_NEXT(r, link);

        r->stopped |= none_begins;
        if (is_over(r)) {
            TAILQ_REMOVE(&p->rounds, r, link);
            r->target->rounds--;
            r->target->idle_since_ms = clock_mono_ms();
            tell(p, r);
        }
        r = next;
    }
}

/* One call of each round in turn, until nobody may begin another. */
static void fill(struct webhook_post *p)
{
    bool none = atomic_load(&p->draining) || clock_mono_ms() >= atomic_load(&p->until_ms);
    bool any = !none;

    while (any) {
        any = false;
        for (struct webhook_round *r = TAILQ_FIRST(&p->rounds); r; r = TAILQ_NEXT(r, link)) {
            if (!may_begin(p, r))
                continue;
            begin_call(p, r);
            any = true;
        }
    }
    end_rounds(p, none);
    if (TAILQ_EMPTY(&p->news))
        return;
    pthread_mutex_lock(&p->lock);
    TAILQ_CONCAT(&p->over, &p->news, link);
    pthread_mutex_unlock(&p->lock);
    p->config.poke(p->config.arg);
}

/* ---- curl's sockets and timers on the loop ---- */

static void drive(struct webhook_target *t, curl_socket_t fd, int events)
{
    int running;

    curl_multi_socket_action(t->multi, fd, events, &running);
    collect(t);
    fill(t->post);
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
    drive(arg, fd,
          ((what & EV_READ) ? CURL_CSELECT_IN : 0) | ((what & EV_WRITE) ? CURL_CSELECT_OUT : 0));
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    drive(arg, CURL_SOCKET_TIMEOUT, 0);
}

static int on_socket_wanted(CURL *easy, curl_socket_t fd, int want, void *arg, void *socket_arg)
{
    struct webhook_target *t = arg;
    struct event *event = socket_arg;
    short events = (short)(((want & CURL_POLL_IN) ? EV_READ : 0) |
                           ((want & CURL_POLL_OUT) ? EV_WRITE : 0) | EV_PERSIST);

    (void)easy;
    if (event)
        event_free(event);
    event = want == CURL_POLL_REMOVE ? NULL : event_new(t->post->base, fd, events, on_socket, t);
    curl_multi_assign(t->multi, fd, event);
    if (want == CURL_POLL_REMOVE)
        return 0;
    return event && !event_add(event, NULL) ? 0 : -1;
}

static int on_timer_wanted(CURLM *multi, long timeout_ms, void *arg)
{
    struct webhook_target *t = arg;
    struct timeval tv = {timeout_ms / 1000, timeout_ms % 1000 * 1000};

    (void)multi;
    if (timeout_ms < 0)
        event_del(t->timer);
    else
        event_add(t->timer, &tv);
    return 0;
}

static struct webhook_target *target_of(struct webhook_post *p, uint64_t id)
{
    struct webhook_target *t;

    HASH_FIND(hh, p->targets, &id, sizeof(id), t);
    if (t)
        return t;
    t = must_alloc(1, sizeof(*t));
    t->id = id;
    t->post = p;
    t->window = 1;
    t->multi = curl_multi_init();
    t->timer = event_new(p->base, -1, 0, on_timer, t);
    MUST(t->multi && t->timer);
    curl_multi_setopt(t->multi, CURLMOPT_SOCKETFUNCTION, on_socket_wanted);
    curl_multi_setopt(t->multi, CURLMOPT_SOCKETDATA, t);
    curl_multi_setopt(t->multi, CURLMOPT_TIMERFUNCTION, on_timer_wanted);
    curl_multi_setopt(t->multi, CURLMOPT_TIMERDATA, t);
    curl_multi_setopt(t->multi, CURLMOPT_MAXCONNECTS, (long)p->config.in_flight_each);
    HASH_ADD(hh, p->targets, id, sizeof(t->id), t);
    return t;
}

static void free_target(struct webhook_post *p, struct webhook_target *t)
{
    HASH_DEL(p->targets, t); /* NOLINT: lost in the macros */
    curl_multi_cleanup(t->multi);
    event_free(t->timer);
    free(t);
}

/* ---- the thread ---- */

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct webhook_post *p = arg;
    struct webhook_rounds given = TAILQ_HEAD_INITIALIZER(given);
    struct webhook_round *r;
    uint64_t times;

    (void)what;
    if (read(fd, &times, sizeof(times)) < 0)
        MUST(errno == EAGAIN || errno == EINTR);
    if (atomic_load(&p->stopping)) {
        event_base_loopbreak(p->base);
        return;
    }
    pthread_mutex_lock(&p->lock);
    TAILQ_CONCAT(&given, &p->given, link);
    pthread_mutex_unlock(&p->lock);
    for (r = TAILQ_FIRST(&given); r; r = TAILQ_NEXT(r, link)) {
        r->target = target_of(p, r->page.id);
        r->target->rounds++;
        r->failures = r->page.failures;
        if (r->failures)
            r->target->window = 1;
    }
    TAILQ_CONCAT(&p->rounds, &given, link);
    fill(p);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
    struct webhook_post *p = arg;
    struct webhook_target *t, *next;
    int64_t now_ms = clock_mono_ms();

    (void)fd;
    (void)what;
    daemon_beat(p->beat);
    HASH_ITER(hh, p->targets, t, next)
    {
        /* cppcheck-suppress uninitvar ; lost in the macros */
        if (!t->rounds && now_ms - t->idle_since_ms > TARGET_IDLE_MS)
            free_target(p, t);
    }
    fill(p); /* the lease may be over */
}

static void *loop(void *arg)
{
    struct webhook_post *p = arg;

    event_base_loop(p->base, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

static void make_events(struct webhook_post *p)
{
    const struct timeval every = {SWEEP_SEC, 0};
    struct event_config *config = event_config_new();

    MUST(config);
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
    p->base = event_base_new_with_config(config);
    event_config_free(config);
    MUST(p->base);
    p->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    MUST(p->wake_fd >= 0);
    p->wake = event_new(p->base, p->wake_fd, EV_READ | EV_PERSIST, on_wake, p);
    p->sweep = event_new(p->base, -1, EV_PERSIST, on_sweep, p);
    MUST(p->wake && p->sweep);
    event_add(p->wake, NULL);
    event_add(p->sweep, &every);
    p->beat = daemon_beat_new("webhook calls");
}

struct webhook_post *webhook_post_start(const struct webhook_post_config *config)
{
    struct webhook_post *p = must_alloc(1, sizeof(*p));

    MUST(curl_global_init(CURL_GLOBAL_DEFAULT) == 0);
    p->config = *config;
    pthread_mutex_init(&p->lock, NULL);
    TAILQ_INIT(&p->given);
    TAILQ_INIT(&p->over);
    TAILQ_INIT(&p->rounds);
    TAILQ_INIT(&p->out);
    TAILQ_INIT(&p->idle);
    TAILQ_INIT(&p->news);
    make_events(p);
    MUST(pthread_create(&p->thread, NULL, loop, p) == 0);
    pthread_setname_np(p->thread, "webhook calls");
    return p;
}

static void wake(struct webhook_post *p)
{
    const uint64_t one = 1;

    MUST(write(p->wake_fd, &one, sizeof(one)) == sizeof(one));
}

void webhook_post_allow_until(struct webhook_post *p, int64_t until_ms)
{
    atomic_store(&p->until_ms, until_ms);
}

void webhook_post_give(struct webhook_post *p, struct webhook_round *round)
{
    pthread_mutex_lock(&p->lock);
    TAILQ_INSERT_TAIL(&p->given, round, link);
    pthread_mutex_unlock(&p->lock);
    wake(p);
}

void webhook_post_take(struct webhook_post *p, struct webhook_posted_list *list)
{
    pthread_mutex_lock(&p->lock);
    TAILQ_CONCAT(list, &p->over, link);
    pthread_mutex_unlock(&p->lock);
}

void webhook_post_drain(struct webhook_post *p)
{
    atomic_store(&p->draining, true);
    wake(p);
}

static void free_news(struct webhook_posted_list *list)
{
    struct webhook_posted *news;

    while ((news = TAILQ_FIRST(list))) {
        TAILQ_REMOVE(list, news, link);
        free(news);
    }
}

void webhook_post_stop(struct webhook_post *p)
{
    struct webhook_target *t, *next;
    struct call *c;

    atomic_store(&p->stopping, true);
    wake(p);
    pthread_join(p->thread, NULL);
    while ((c = TAILQ_FIRST(&p->out))) {
        TAILQ_REMOVE(&p->out, c, link);
        curl_multi_remove_handle(c->round->target->multi, c->easy);
        free_call(c);
    }
    while ((c = TAILQ_FIRST(&p->idle))) {
        TAILQ_REMOVE(&p->idle, c, link);
        free_call(c);
    }
    HASH_ITER(hh, p->targets, t, next)
    {
        free_target(p, t);
    }
    free_news(&p->over);
    free_news(&p->news);
    event_free(p->wake);
    event_free(p->sweep);
    event_base_free(p->base);
    close(p->wake_fd);
    pthread_mutex_destroy(&p->lock);
    curl_global_cleanup();
    free(p);
}
