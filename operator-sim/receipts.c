#include "operator-sim/receipts.h"

#include <curl/curl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define TIMEOUT_MS 10000L
#define RETRY_MAX_US 30000000
#define ANSWER_MAX 65536
#define IDLE_MS 60000
#define BURST_US 100000 /* what was not sent in time may be sent together, so much of it */
#define FIRST_ROOM 1024
#define FORGED_WITH "somebody else's"

enum outcome { TAKEN, GIVEN_UP, AGAIN, FORGED_TAKEN, FORGED_REFUSED, DROPPED, OUTCOMES };

static const char *const outcome_names[OUTCOMES] = {
    [TAKEN] = "taken",
    [GIVEN_UP] = "given_up",
    [AGAIN] = "again",
    [FORGED_TAKEN] = "forged_taken",
    [FORGED_REFUSED] = "forged_refused",
    [DROPPED] = "dropped",
};

/* A message; goes with the last of its receipts. */
struct subject {
    size_t receipts;
    uint64_t number;
    bool delivered;
    const char *echo, *url; /* url NULL: the plan's */
    char reference[];
};

struct receipt {
    int64_t due_us;
    struct subject *subject;
    struct receipt_planned planned;
    uint32_t tries;
};

/* A request: one receipt, or several in a list. */
struct exchange {
    CURL *easy;
    struct curl_slist *headers;
    struct buf url, body;
    struct receipt *batch[RECEIPT_BATCH_MAX];
    size_t n;
    size_t answer_bytes;
};

struct receipts {
    struct receipts_config config;
    pthread_mutex_t lock;
    struct receipt_plan plan;
    _Atomic bool has_url; /* these three: of the plan, for who takes no lock */
    _Atomic unsigned answer_id, answer_parts;
    struct receipt **heap; /* the next one first */
    size_t waiting, room;
    size_t held; /* waiting or under way */
    uint64_t counts[OUTCOMES];
    bool stopping;
    int64_t pace_us; /* the next one may go then */

    pthread_t thread;
    bool running;
    CURLM *multi;
    struct exchange *exchanges, **idle;
    size_t idle_count;
    bool failing; /* as logged last */
    struct metric *metrics[OUTCOMES], *waiting_metric;
};

/* ---- what waits (the lock is held) ---- */

static void sift_up(struct receipts *r, size_t i)
{
    while (i && r->heap[(i - 1) / 2]->due_us > r->heap[i]->due_us) {
        struct receipt *above = r->heap[(i - 1) / 2];

        r->heap[(i - 1) / 2] = r->heap[i];
        r->heap[i] = above;
        i = (i - 1) / 2;
    }
}

static void sift_down(struct receipts *r, size_t i)
{
    for (;;) {
        size_t least = i;
        struct receipt *here = r->heap[i];

        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < r->waiting; child++)
            if (r->heap[child]->due_us < r->heap[least]->due_us)
                least = child;
        if (least == i)
            return;
        r->heap[i] = r->heap[least];
        r->heap[least] = here;
        i = least;
    }
}

static bool make_room(struct receipts *r)
{
    size_t room = r->room ? r->room * 2 : FIRST_ROOM;
    struct receipt **heap;

    if (r->waiting < r->room)
        return true;
    heap = realloc(r->heap, room * sizeof(struct receipt *));
    if (!heap)
        return false;
    r->heap = heap;
    r->room = room;
    return true;
}

static bool push(struct receipts *r, struct receipt *receipt)
{
    if (!make_room(r))
        return false;
    r->heap[r->waiting] = receipt;
    sift_up(r, r->waiting++);
    return true;
}

static struct receipt *pop(struct receipts *r)
{
    struct receipt *first = r->heap[0];

    r->heap[0] = r->heap[--r->waiting];
    if (r->waiting)
        sift_down(r, 0);
    return first;
}

static void count(struct receipts *r, enum outcome outcome)
{
    r->counts[outcome]++;
    metrics_add(r->metrics[outcome], 1);
}

static void release(struct receipts *r, struct receipt *receipt)
{
    if (!--receipt->subject->receipts)
        free(receipt->subject);
    free(receipt);
    r->held--;
}

/* ---- a message comes in ---- */

static struct subject *new_subject(const struct receipts_message *m)
{
    size_t n = strlen(m->reference) + 1;
    size_t echo_n = m->echo ? strlen(m->echo) + 1 : 0;
    size_t url_n = m->url ? strlen(m->url) + 1 : 0;
    struct subject *s = calloc(1, sizeof(*s) + n + echo_n + url_n);

    if (!s)
        return NULL;
    s->number = m->number;
    s->echo = memcpy(s->reference, m->reference, n);
    if (m->echo)
        s->echo = memcpy(s->reference + n, m->echo, echo_n);
    if (m->url)
        s->url = memcpy(s->reference + n + echo_n, m->url, url_n);
    return s;
}

/* False when there is no room for it. */
static bool add_one(struct receipts *r, struct subject *s, const struct receipt_planned *planned,
                    int64_t now_us)
{
    struct receipt *receipt = r->held < r->config.max ? calloc(1, sizeof(*receipt)) : NULL;

    if (!receipt)
        return false;
    receipt->due_us = now_us + planned->delay_us;
    receipt->subject = s;
    receipt->planned = *planned;
    if (!push(r, receipt)) {
        free(receipt);
        return false;
    }
    s->receipts++;
    r->held++;
    return true;
}

int64_t receipts_add(struct receipts *r, const struct receipts_message *m)
{
    struct receipt_planned planned[RECEIPT_PLANNED_MAX];
    int64_t now_us = clock_mono_us();
    int64_t later_us = 0;
    struct subject *s;
    size_t n;

    if (!m->url && !atomic_load_explicit(&r->has_url, memory_order_relaxed))
        return 0;
    pthread_mutex_lock(&r->lock);
    n = receipt_plan_make(&r->plan, r->config.seed, m->reference, planned);
    s = n ? new_subject(m) : NULL;
    if (n && receipt_plan_before_answer(&r->plan, r->config.seed, m->reference))
        later_us = r->plan.answer_after_ms * 1000;
    if (s)
        s->delivered = receipt_plan_delivers(&r->plan, r->config.seed, m->reference);
    for (size_t i = 0; i < n; i++)
        if (!s || !add_one(r, s, &planned[i], now_us))
            count(r, DROPPED);
    if (s && !s->receipts)
        free(s);
    metrics_set(r->waiting_metric, (int64_t)r->waiting);
    pthread_mutex_unlock(&r->lock);
    if (n)
        curl_multi_wakeup(r->multi);
    return later_us;
}

/* ---- a request goes out ---- */

static size_t on_answer(const char *data, size_t one, size_t n, void *arg)
{
    struct exchange *x = arg;

    (void)data;
    x->answer_bytes += one * n;
    return x->answer_bytes > ANSWER_MAX ? 0 : one * n;
}

/* Whether another receipt may go in the same request. The lock is held. */
static bool goes_with(const struct receipts *r, const struct exchange *x, int64_t now_us)
{
    const struct receipt *first = x->batch[0];
    const struct receipt *next = r->waiting ? r->heap[0] : NULL;

    return next && next->due_us <= now_us && x->n < (size_t)r->plan.batch && !first->subject->url &&
           !next->subject->url && first->planned.forged == next->planned.forged;
}

/* What is due into the exchange; the number of µs until something will be, 0 when there is. The
 * lock is held. */
static int64_t take_due(struct receipts *r, struct exchange *x)
{
    int64_t now_us = clock_mono_us();

    x->n = 0;
    if (!r->waiting || r->plan.hold)
        return IDLE_MS * 1000;
    if (r->heap[0]->due_us > now_us)
        return r->heap[0]->due_us - now_us;
    if (r->plan.per_second && r->pace_us > now_us)
        return r->pace_us - now_us;
    x->batch[x->n++] = pop(r);
    while (goes_with(r, x, now_us))
        x->batch[x->n++] = pop(r);
    if (r->plan.per_second) {
        if (r->pace_us < now_us - BURST_US)
            r->pace_us = now_us - BURST_US;
        r->pace_us += (int64_t)x->n * 1000000 / r->plan.per_second;
    }
    return 0;
}

static void put_body(struct receipts *r, const struct receipt_plan *plan, struct exchange *x)
{
    if (plan->batch)
        buf_puts(&x->body, "{\"receipts\":[");
    for (size_t i = 0; i < x->n; i++) {
        const struct subject *s = x->batch[i]->subject;
        struct receipt_about about = {.name = r->config.name,
                                      .reference = s->echo,
                                      .number = s->number,
                                      .at_us = clock_wall_us()};

        if (i)
            buf_putc(&x->body, ',');
        receipt_put(&x->body, plan, &x->batch[i]->planned, &about);
    }
    if (plan->batch)
        buf_puts(&x->body, "]}");
}

static void add_header(struct exchange *x, const char *line)
{
    struct curl_slist *more = curl_slist_append(x->headers, line);

    MUST(more);
    x->headers = more;
}

static void sign(struct receipts *r, const struct receipt_plan *plan, struct exchange *x,
                 const char *what, size_t n)
{
    const char *key = x->batch[0]->planned.forged ? FORGED_WITH : r->config.key;
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned mac_len = 0;
    struct buf line = {0};

    if (!*r->config.key)
        return;
    MUST(HMAC(EVP_sha256(), key, (int)strlen(key), (const unsigned char *)what, n, mac, &mac_len));
    buf_printf(&line, "%s: ", plan->signature_header);
    buf_put_hex(&line, mac, mac_len);
    MUST(!line.failed);
    add_header(x, line.data);
    buf_free(&line);
}

/* False when memory is out. */
static bool write_request(struct receipts *r, const struct receipt_plan *plan, struct exchange *x)
{
    const char *url = x->batch[0]->subject->url ? x->batch[0]->subject->url : plan->url;

    buf_reset(&x->url);
    buf_reset(&x->body);
    curl_slist_free_all(x->headers);
    x->headers = NULL;
    buf_puts(&x->url, url);
    put_body(r, plan, x);
    if (plan->form == RECEIPT_QUERY) {
        buf_putc(&x->url, strchr(url, '?') ? '&' : '?');
        buf_put(&x->url, x->body.data, x->body.len);
    }
    if (x->url.failed || x->body.failed || !*url)
        return false;
    if (plan->form == RECEIPT_QUERY) {
        sign(r, plan, x, x->url.data, x->url.len);
        return true;
    }
    add_header(x, plan->form == RECEIPT_JSON ? "Content-Type: application/json"
                                             : "Content-Type: application/x-www-form-urlencoded");
    add_header(x, "Expect:");
    sign(r, plan, x, x->body.data, x->body.len);
    return true;
}

static void start(struct receipts *r, const struct receipt_plan *plan, struct exchange *x)
{
    CURL *e = x->easy;

    x->answer_bytes = 0;
    curl_easy_setopt(e, CURLOPT_URL, x->url.data);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, x->headers);
    if (plan->form == RECEIPT_QUERY) {
        curl_easy_setopt(e, CURLOPT_HTTPGET, 1L);
    } else {
        curl_easy_setopt(e, CURLOPT_POSTFIELDS, x->body.data);
        curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE, (long)x->body.len);
    }
    MUST(curl_multi_add_handle(r->multi, e) == CURLM_OK);
}

/* ---- a request comes back ---- */

/* The lock is held. */
static void settle(struct receipts *r, struct receipt *receipt, bool taken)
{
    int64_t wait_us = r->plan.retry_ms * 1000;

    if (receipt->planned.forged) {
        count(r, taken ? FORGED_TAKEN : FORGED_REFUSED);
    } else if (taken) {
        count(r, TAKEN);
    } else if (++receipt->tries < r->plan.tries) {
        for (uint32_t i = 1; i < receipt->tries && wait_us < RETRY_MAX_US; i++)
            wait_us *= 2;
        receipt->due_us = clock_mono_us() + (wait_us < RETRY_MAX_US ? wait_us : RETRY_MAX_US);
        count(r, AGAIN);
        if (push(r, receipt))
            return;
        count(r, DROPPED);
    } else {
        count(r, GIVEN_UP);
    }
    release(r, receipt);
}

static void say_change(struct receipts *r, bool failing, CURLcode code, long status)
{
    if (r->failing == failing)
        return;
    r->failing = failing;
    if (!failing)
        log_info("receipts.flow", L_MSG("receipts are taken again"));
    else
        log_warn("receipts.stuck", L_STR("why", code ? curl_easy_strerror(code) : "its status"),
                 L_INT("status", status));
}

static void finish(struct receipts *r, struct exchange *x, CURLcode code)
{
    long status = 0;
    bool taken;

    curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &status);
    taken = code == CURLE_OK && status >= 200 && status < 300;
    if (!x->batch[0]->planned.forged)
        say_change(r, !taken, code, status);
    for (size_t i = 0; taken && i < x->n; i++) {
        const struct receipt *receipt = x->batch[i];

        if (!receipt->planned.forged && receipt_is_final(&receipt->planned))
            r->config.taken(r->config.arg, receipt->subject->reference,
                            receipt->subject->delivered);
    }
    pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i < x->n; i++)
        settle(r, x->batch[i], taken);
    pthread_mutex_unlock(&r->lock);
    r->idle[r->idle_count++] = x;
}

/* ---- the thread ---- */

/* Starts what is due; how long the thread may wait, in ms. */
static int start_due(struct receipts *r)
{
    int64_t wait_us = 0;

    while (r->idle_count && !wait_us) {
        struct exchange *x = r->idle[r->idle_count - 1];
        struct receipt_plan plan;

        pthread_mutex_lock(&r->lock);
        wait_us = take_due(r, x);
        plan = r->plan;
        metrics_set(r->waiting_metric, (int64_t)r->waiting);
        pthread_mutex_unlock(&r->lock);
        if (wait_us)
            break;
        r->idle_count--;
        if (write_request(r, &plan, x))
            start(r, &plan, x);
        else
            finish(r, x, CURLE_OUT_OF_MEMORY);
    }
    if (!wait_us || wait_us > IDLE_MS * 1000)
        return IDLE_MS;
    return (int)((wait_us + 999) / 1000);
}

static bool stopping(struct receipts *r)
{
    bool is;

    pthread_mutex_lock(&r->lock);
    is = r->stopping;
    pthread_mutex_unlock(&r->lock);
    return is;
}

static void *receipts_main(void *arg)
{
    struct receipts *r = arg;

    while (!stopping(r)) {
        int wait_ms = start_due(r);
        int running;
        int left;
        CURLMsg *m;

        MUST(curl_multi_perform(r->multi, &running) == CURLM_OK);
        while ((m = curl_multi_info_read(r->multi, &left)) != NULL) {
            struct exchange *x = NULL;
            CURLcode code = m->data.result;

            curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&x);
            curl_multi_remove_handle(r->multi, x->easy);
            finish(r, x, code);
            wait_ms = 0;
        }
        if (wait_ms)
            curl_multi_poll(r->multi, NULL, 0, wait_ms, NULL);
    }
    return NULL;
}

static CURL *new_easy(struct exchange *x)
{
    CURL *e = curl_easy_init();

    MUST(e);
    curl_easy_setopt(e, CURLOPT_PRIVATE, x);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_PROXY, "");
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, TIMEOUT_MS);
    curl_easy_setopt(e, CURLOPT_USERAGENT, "operator-sim/" PROJECT_VERSION);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, x);
    return e;
}

static void register_metrics(struct receipts *r)
{
    for (int i = 0; i < OUTCOMES; i++) {
        char labels[64];

        snprintf(labels, sizeof(labels), "result=\"%s\"", outcome_names[i]);
        r->metrics[i] =
            metrics_counter("sim_receipts_total", "Receipts, by what became of them.", labels);
    }
    r->waiting_metric = metrics_gauge("sim_receipts_waiting", "Receipts that are not due yet.", "");
}

static void take_plan(struct receipts *r, const struct receipt_plan *plan)
{
    r->plan = *plan;
    atomic_store_explicit(&r->has_url, *plan->url != '\0', memory_order_relaxed);
    atomic_store_explicit(&r->answer_id, plan->answer_id, memory_order_relaxed);
    atomic_store_explicit(&r->answer_parts, (unsigned)plan->parts, memory_order_relaxed);
}

struct receipts_answer receipts_answer(const struct receipts *r)
{
    return (struct receipts_answer){
        (enum receipt_id)atomic_load_explicit(&r->answer_id, memory_order_relaxed),
        atomic_load_explicit(&r->answer_parts, memory_order_relaxed)};
}

struct receipts *receipts_new(const struct receipts_config *config, const struct receipt_plan *plan)
{
    struct receipts *r = must_alloc(1, sizeof(*r));
    sigset_t all;
    sigset_t before;

    r->config = *config;
    take_plan(r, plan);
    pthread_mutex_init(&r->lock, NULL);
    register_metrics(r);
    MUST(curl_global_init(CURL_GLOBAL_DEFAULT) == 0);
    r->multi = curl_multi_init();
    MUST(r->multi);
    curl_multi_setopt(r->multi, CURLMOPT_MAXCONNECTS, (long)config->in_flight);
    r->exchanges = must_alloc(config->in_flight, sizeof(*r->exchanges));
    r->idle = must_alloc(config->in_flight, sizeof(struct exchange *));
    for (size_t i = 0; i < config->in_flight; i++) {
        r->exchanges[i].easy = new_easy(&r->exchanges[i]);
        r->idle[r->idle_count++] = &r->exchanges[i];
    }
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    MUST(pthread_create(&r->thread, NULL, receipts_main, r) == 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    r->running = true;
    return r;
}

void receipts_set(struct receipts *r, const struct receipt_plan *plan)
{
    pthread_mutex_lock(&r->lock);
    take_plan(r, plan);
    r->pace_us = 0;
    pthread_mutex_unlock(&r->lock);
    curl_multi_wakeup(r->multi);
}

void receipts_get(struct receipts *r, struct receipt_plan *plan)
{
    pthread_mutex_lock(&r->lock);
    *plan = r->plan;
    pthread_mutex_unlock(&r->lock);
}

struct receipts_counts receipts_counts(struct receipts *r)
{
    struct receipts_counts c;

    pthread_mutex_lock(&r->lock);
    c = (struct receipts_counts){
        .waiting = r->waiting,
        .in_flight = r->held - r->waiting,
        .taken = r->counts[TAKEN],
        .given_up = r->counts[GIVEN_UP],
        .again = r->counts[AGAIN],
        .forged_taken = r->counts[FORGED_TAKEN],
        .forged_refused = r->counts[FORGED_REFUSED],
        .dropped = r->counts[DROPPED],
    };
    pthread_mutex_unlock(&r->lock);
    return c;
}

void receipts_stop(struct receipts *r)
{
    if (!r->running)
        return;
    pthread_mutex_lock(&r->lock);
    r->stopping = true;
    pthread_mutex_unlock(&r->lock);
    curl_multi_wakeup(r->multi);
    pthread_join(r->thread, NULL);
    r->running = false;
}

void receipts_free(struct receipts *r)
{
    if (!r)
        return;
    receipts_stop(r);
    for (size_t i = 0; i < r->idle_count; i++)
        r->idle[i]->n = 0;
    for (size_t i = 0; i < r->config.in_flight; i++) {
        struct exchange *x = &r->exchanges[i];

        curl_multi_remove_handle(r->multi, x->easy);
        curl_easy_cleanup(x->easy);
        curl_slist_free_all(x->headers);
        buf_free(&x->url);
        buf_free(&x->body);
        for (size_t j = 0; j < x->n; j++)
            release(r, x->batch[j]);
    }
    curl_multi_cleanup(r->multi);
    curl_global_cleanup();
    while (r->waiting)
        release(r, pop(r));
    free(r->heap);
    free(r->exchanges);
    free(r->idle);
    pthread_mutex_destroy(&r->lock);
    free(r);
}
