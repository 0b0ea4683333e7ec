#include "test/loadtest/load.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "test/loadtest/client.h"
#include "test/loadtest/pace.h"
#include "test/loadtest/zipf.h"

#define PROGRESS_US 1000000

struct load {
    const struct options *options;
    struct book *book;
    struct load_result *result;
    int64_t began_us;
    struct pace pace;     /* of an open loop */
    struct zipf *zipf;    /* NULL: customers take turns */
    uint64_t next, total; /* total 0: a closed loop */
    uint64_t progress_ok;
    int64_t progress_us;
    bool terminal;
    struct buf body;
};

/* Reproducible, and independent of the customer's turn (splitmix64). */
static double draw(uint64_t n)
{
    n += 0x9e3779b97f4a7c15u;
    n = (n ^ (n >> 30)) * 0xbf58476d1ce4e5b9u;
    n = (n ^ (n >> 27)) * 0x94d049bb133111ebu;
    return (double)((n ^ (n >> 31)) >> 11) / 9007199254740992.0;
}

static int64_t customer_of(const struct load *l, uint64_t n)
{
    const struct options *o = l->options;
    uint64_t users = (uint64_t)o->users;

    return o->user_start + (int64_t)(l->zipf ? zipf_at(l->zipf, draw(~n)) : n % users);
}

static void put_body(struct load *l, uint64_t n)
{
    const struct options *o = l->options;
    bool express = draw(n) < o->express_ratio;

    buf_reset(&l->body);
    buf_puts(&l->body, "{\"customer_id\":");
    buf_put_int(&l->body, customer_of(l, n));
    buf_puts(&l->body, ",\"text\":\"load test\",\"recipients\":[");
    for (uint64_t k = 0; k < (uint64_t)o->recipients; k++) {
        uint64_t number = 100000000 + (n * (uint64_t)o->recipients + k) % 100000000;

        buf_puts(&l->body, k ? ",\"091" : "\"091");
        buf_put_uint(&l->body, number);
        buf_putc(&l->body, '"');
    }
    buf_puts(&l->body, express ? "],\"type\":\"express\"}" : "],\"type\":\"normal\"}");
}

static enum client_turn next(void *arg, int64_t now_us, struct client_request *request,
                             int64_t *wake_us)
{
    struct load *l = arg;
    int64_t due_us = now_us;

    if (!l->total && now_us - l->began_us >= l->options->duration_us)
        return CLIENT_END;
    if (l->total) {
        if (l->next == l->total)
            return CLIENT_END;
        due_us = l->began_us + pace_due_us(&l->pace, l->next);
        if (due_us > now_us) {
            *wake_us = due_us;
            return CLIENT_LATER;
        }
        if (now_us - l->began_us > l->options->duration_us + l->options->timeout_us)
            return CLIENT_END;
    }
    put_body(l, l->next);
    *request = (struct client_request){
        .path = "/messages/send", .body = &l->body, .due_us = due_us, .number = l->next++};
    l->result->sent++;
    return CLIENT_SEND;
}

static void answered(void *arg, uint64_t number, const struct client_answer *a)
{
    static const char key[] = "\"message_identifier\":\"";
    struct load *l = arg;
    struct load_result *r = l->result;
    const char *id;

    (void)number;
    r->elapsed_us = clock_mono_us() - l->began_us;
    if (!a->status) {
        r->http_err++;
        return;
    }
    r->by_status[a->status < LOAD_STATUSES ? a->status : 0]++;
    if (a->status < 200 || a->status > 299) {
        r->non2xx++;
        return;
    }
    r->ok++;
    histogram_add(&r->latency, a->latency_us);
    if (!l->book)
        return;
    id = memmem(a->body, a->body_len, key, sizeof(key) - 1);
    if (!id || (size_t)(a->body + a->body_len - id) < sizeof(key) - 1 + BOOK_ID_CHARS ||
        !book_accept(l->book, id + sizeof(key) - 1, (unsigned)l->options->recipients))
        l->book->strange++;
}

static void progress(void *arg, int64_t now_us)
{
    struct load *l = arg;
    const struct load_result *r = l->result;
    int64_t passed_us = now_us - l->progress_us;

    if (passed_us < (l->terminal ? PROGRESS_US : 10 * PROGRESS_US))
        return;
    fprintf(stderr, "%s%5.0fs ok=%llu (%.0f/s) non2xx=%llu http_err=%llu p50=%.2fms p99=%.2fms%s",
            l->terminal ? "\r" : "", (double)(now_us - l->began_us) / 1e6,
            (unsigned long long)r->ok, (double)(r->ok - l->progress_ok) * 1e6 / (double)passed_us,
            (unsigned long long)r->non2xx, (unsigned long long)r->http_err,
            (double)histogram_at(&r->latency, 0.5) / 1e3,
            (double)histogram_at(&r->latency, 0.99) / 1e3, l->terminal ? "\033[K" : "\n");
    fflush(stderr);
    l->progress_us = now_us;
    l->progress_ok = r->ok;
}

int load_run(const struct options *options, struct book *book, struct load_result *result,
             struct err *err)
{
    struct load load = {.options = options, .book = book, .result = result};
    const struct client_settings settings = {
        .base_url = options->base_url,
        .ca_file = options->ca_file,
        .api_key = options->api_key,
        .connections = (size_t)options->concurrency,
        .timeout_us = options->timeout_us,
        .rest = options->rps <= 0,
    };
    const struct client_work work = {
        .next = next, .answered = answered, .tick = progress, .arg = &load};
    struct client *client = client_new(&settings, err);

    if (!client)
        return -1;
    *result = (struct load_result){0};
    load.terminal = isatty(STDERR_FILENO);
    if (options->users_zipf > 0)
        load.zipf = zipf_new((size_t)options->users, options->users_zipf);
    if (options->rps > 0) {
        MUST(pace_init(&load.pace, options->rps, options->duration_us, options->rate_curve));
        load.total = pace_total(&load.pace);
    }
    load.began_us = load.progress_us = clock_mono_us();
    client_run(client, &work);
    if (load.terminal)
        fputs("\r\033[K", stderr);
    result->unsent = load.total ? load.total - load.next : 0;
    result->sent += result->unsent;
    result->http_err += result->unsent;
    zipf_free(load.zipf);
    buf_free(&load.body);
    client_free(client);
    return 0;
}
