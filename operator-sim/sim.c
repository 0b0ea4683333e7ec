#include "operator-sim/sim.h"

#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/must.h"
#include "operator-sim/door.h"
#include "operator-sim/fault.h"
#include "operator-sim/hash.h"
#include "operator-sim/ledger.h"

#define PAGE_DEFAULT 1000
#define PAGE_MAX 5000
#define SCAN_MAX 100000 /* positions looked at for one page, accepted or not */
#define ID_SIZE 64
#define CONTROL_THREADS 1

enum result {
    RESULT_ACCEPTED,
    RESULT_DUPLICATE,
    RESULT_REJECTED,
    RESULT_INVALID,
    RESULT_STATUS,
    RESULT_RESET,
    RESULT_HANG,
    RESULT_FULL,
    RESULT_FOUND,
    RESULT_NOT_FOUND,
    RESULTS
};

static const char *const result_names[RESULTS] = {
    [RESULT_ACCEPTED] = "accepted", [RESULT_DUPLICATE] = "duplicate",
    [RESULT_REJECTED] = "rejected", [RESULT_INVALID] = "invalid",
    [RESULT_STATUS] = "status",     [RESULT_RESET] = "reset",
    [RESULT_HANG] = "hang",         [RESULT_FULL] = "full",
    [RESULT_FOUND] = "found",       [RESULT_NOT_FOUND] = "not_found",
};

struct sim {
    const struct sim_settings *settings;
    pthread_mutex_t lock; /* over ledger and faults */
    struct ledger *ledger;
    struct fault_set faults;
    struct hash_key id_key;
    struct door *door;
    struct httpd *control; /* NULL: none */
    struct httpd_settings control_settings;
    struct metric *sends[RESULTS], *lookups[RESULTS];
    struct metric *references;
};

/* What becomes of a request: decided under the lock, carried out after it. */
struct verdict {
    enum result result;
    int status;
    int64_t delay_us;
    int64_t retry_after; /* -1: none */
};

/* A body that has been read; the strings belong to json. */
struct order {
    json_t *json;
    const char *reference, *to, *text;
    size_t text_len;
    enum message_type type;
};

static bool reference_ok(const char *s)
{
    size_t n = s ? strlen(s) : 0;

    if (!n || n > LEDGER_REFERENCE_MAX)
        return false;
    return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == n;
}

static const char *text_of(const json_t *object, const char *name, size_t *n)
{
    const json_t *value = json_object_get(object, name);

    *n = json_string_length(value);
    return json_string_value(value);
}

/* NULL when the order is whole, else the field to blame. */
static const char *read_order(struct httpd_request *req, struct order *order)
{
    const char *key = httpd_header(req, "Idempotency-Key");
    const char *body;
    const char *type;
    size_t n;

    body = httpd_body(req, &n);
    order->json = json_loadb(body, n, JSON_REJECT_DUPLICATES, NULL);
    if (!order->json)
        return "body";
    order->reference = text_of(order->json, "reference", &n);
    if (!reference_ok(order->reference))
        return "reference";
    order->to = text_of(order->json, "to", &n);
    if (!order->to || !message_recipient_ok(order->to, n))
        return "to";
    order->text = text_of(order->json, "text", &order->text_len);
    if (!order->text || !message_text_ok(order->text, order->text_len))
        return "text";
    type = text_of(order->json, "type", &n);
    if (!type || !message_type_parse(type, &order->type))
        return "type";
    if (key && strcmp(key, order->reference) != 0)
        return "Idempotency-Key";
    return NULL;
}

/* The same reference has the same id at one operator, even when the simulator forgot it between. */
static void put_id(const struct sim *sim, const char *reference, char id[ID_SIZE])
{
    snprintf(id, ID_SIZE, "%s-%016" PRIx64, sim->settings->name,
             hash_bytes(sim->id_key, reference, strlen(reference)));
}

static void reply_id(struct sim *sim, struct httpd_request *req, const char *reference)
{
    char id[ID_SIZE];
    char body[ID_SIZE + 64];
    int n;

    put_id(sim, reference, id);
    n = snprintf(body, sizeof(body), "{\"id\":\"%s\",\"status\":\"accepted\"}", id);
    httpd_reply(req, 200, body, (size_t)n);
}

static void carry_out(struct sim *sim, struct httpd_request *req, const struct verdict *v,
                      const char *reference)
{
    if (v->delay_us)
        httpd_delay(req, v->delay_us);
    if (v->retry_after >= 0) {
        char seconds[24];

        snprintf(seconds, sizeof(seconds), "%" PRId64, v->retry_after);
        httpd_set_header(req, "Retry-After", seconds);
    }
    switch (v->result) {
    case RESULT_ACCEPTED:
    case RESULT_DUPLICATE:
    case RESULT_FOUND:
        reply_id(sim, req, reference);
        break;
    case RESULT_RESET:
    case RESULT_HANG:
        httpd_reset(req);
        break;
    case RESULT_REJECTED:
        httpd_reply_error(req, v->status, "rejected", "The recipient is not served.", "to");
        break;
    case RESULT_FULL:
        httpd_reply_error(req, 503, "ledger_full", "The ledger takes no more.", NULL);
        break;
    case RESULT_NOT_FOUND:
        httpd_reply_error(req, 404, "not_found", "The reference is not known.", NULL);
        break;
    default:
        httpd_reply_error(req, v->status, "fault", "As it was told to.", NULL);
        break;
    }
}

static bool accept_order(struct sim *sim, struct httpd_request *req, const struct order *order,
                         struct ledger_entry *e)
{
    const char *parent = httpd_header(req, "traceparent");
    struct trace_context trace;
    struct ledger_message m = {
        .to = order->to,
        .text = order->text,
        .text_len = order->text_len,
        .type = order->type,
        .has_key = httpd_header(req, "Idempotency-Key") != NULL,
        .trace = parent && trace_parse(parent, &trace) ? &trace : NULL,
    };
    struct err err;

    if (!ledger_accept(sim->ledger, e, &m, &err))
        return true;
    log_error("ledger.failed", L_ERR(&err));
    return false;
}

static bool struck(struct sim *sim, enum fault_kind kind, const char *reference, uint32_t attempt)
{
    return fault_strikes(&sim->faults, kind, (uint64_t)sim->settings->seed, reference, attempt);
}

/* The lock is held. */
static void decide_send(struct sim *sim, struct httpd_request *req, const struct order *order,
                        struct verdict *v)
{
    struct ledger_entry *e = ledger_request(sim->ledger, order->reference);
    const char *prefix = sim->faults.reject_prefix;
    int64_t hang_us = sim->settings->hang_ms * 1000;
    uint32_t n;

    if (!e) {
        v->result = RESULT_FULL;
        return;
    }
    n = e->requests;
    v->delay_us =
        fault_latency_us(&sim->faults, (uint64_t)sim->settings->seed, order->reference, n);
    v->result = e->accepted_us ? RESULT_DUPLICATE : RESULT_ACCEPTED;
    if (struck(sim, FAULT_HANG, order->reference, n)) {
        v->result = RESULT_HANG;
        v->delay_us = hang_us;
        return;
    }
    if (struck(sim, FAULT_RESET, order->reference, n)) {
        v->result = RESULT_RESET;
        return;
    }
    if (struck(sim, FAULT_STATUS, order->reference, n)) {
        v->result = RESULT_STATUS;
        v->status = (int)sim->faults.status;
        v->retry_after = sim->faults.retry_after;
        return;
    }
    if (!e->accepted_us && *prefix && !strncmp(order->to, prefix, strlen(prefix)) &&
        struck(sim, FAULT_REJECT, order->reference, n)) {
        v->result = RESULT_REJECTED;
        v->status = (int)sim->faults.reject_status;
        return;
    }
    if (!e->accepted_us && !accept_order(sim, req, order, e)) {
        v->result = RESULT_FULL;
        return;
    }
    if (struck(sim, FAULT_ACCEPT_THEN_HANG, order->reference, n)) {
        v->result = RESULT_HANG;
        v->delay_us = hang_us;
    } else if (struck(sim, FAULT_ACCEPT_THEN_RESET, order->reference, n)) {
        v->result = RESULT_RESET;
    }
}

static void handle_send(struct httpd_request *req, void *arg)
{
    struct sim *sim = arg;
    struct verdict v = {.retry_after = -1};
    struct order order = {0};
    const char *blame = read_order(req, &order);

    if (blame) {
        metrics_add(sim->sends[RESULT_INVALID], 1);
        httpd_reply_error(req, 400, "invalid_input", "The request is not as the protocol has it.",
                          blame);
        json_decref(order.json);
        return;
    }
    pthread_mutex_lock(&sim->lock);
    decide_send(sim, req, &order, &v);
    metrics_set(sim->references, (int64_t)ledger_counts(sim->ledger).seen);
    pthread_mutex_unlock(&sim->lock);
    metrics_add(sim->sends[v.result], 1);
    carry_out(sim, req, &v, order.reference);
    json_decref(order.json);
}

static void decide_lookup(struct sim *sim, const char *reference, struct verdict *v)
{
    struct ledger_entry *e = ledger_find(sim->ledger, reference);
    uint32_t n;

    ledger_count_lookup(sim->ledger, e);
    n = e ? e->lookups : (uint32_t)ledger_counts(sim->ledger).lookups;
    v->delay_us = fault_latency_us(&sim->faults, (uint64_t)sim->settings->seed, reference, n);
    v->result = e && e->accepted_us ? RESULT_FOUND : RESULT_NOT_FOUND;
    if (struck(sim, FAULT_LOOKUP_HANG, reference, n)) {
        v->result = RESULT_HANG;
        v->delay_us = sim->settings->hang_ms * 1000;
    } else if (struck(sim, FAULT_LOOKUP_STATUS, reference, n)) {
        v->result = RESULT_STATUS;
        v->status = (int)sim->faults.lookup_status;
        v->retry_after = sim->faults.retry_after;
    }
}

static void handle_lookup(struct httpd_request *req, void *arg)
{
    struct sim *sim = arg;
    const char *reference = httpd_path(req) + strlen("/messages/");
    struct verdict v = {.retry_after = -1, .result = RESULT_NOT_FOUND};

    if (reference_ok(reference)) {
        pthread_mutex_lock(&sim->lock);
        decide_lookup(sim, reference, &v);
        pthread_mutex_unlock(&sim->lock);
    }
    metrics_add(sim->lookups[v.result], 1);
    carry_out(sim, req, &v, reference);
}

static void put_entry(struct buf *out, const struct sim *sim, const struct ledger_entry *e)
{
    char id[ID_SIZE];

    put_id(sim, e->reference, id);
    buf_printf(out,
               "{\"reference\":\"%s\",\"id\":\"%s\",\"to\":\"%s\",\"type\":\"%s\","
               "\"text_bytes\":%u,\"text_crc32\":%u,\"accepted_at\":\"",
               e->reference, id, e->to, message_type_name((enum message_type)e->type),
               e->text_bytes, e->text_crc32);
    clock_put_rfc3339(out, e->accepted_us);
    buf_printf(out, "\",\"requests\":%u,\"lookups\":%u,\"idempotency_key\":%s,\"traceparent\":",
               e->requests, e->lookups, e->has_key ? "true" : "false");
    if (e->has_trace) {
        char trace[TRACE_PARENT_SIZE];

        trace_format(&e->trace, trace);
        buf_printf(out, "\"%s\"}", trace);
    } else {
        buf_puts(out, "null}");
    }
}

static void reply_buf(struct httpd_request *req, struct buf *body)
{
    if (body->failed)
        httpd_reply_error(req, 503, "unavailable", "Out of memory.", NULL);
    else
        httpd_reply(req, 200, body->data, body->len);
    buf_free(body);
}

/* A query's number, initial when it is absent; -1 when it is none. */
static int64_t query_number(const struct httpd_request *req, const char *name, int64_t initial)
{
    const char *text = httpd_query(req, name);
    size_t n = text ? strlen(text) : 0;

    if (!text)
        return initial;
    return n && n < 16 && strspn(text, "0123456789") == n ? strtoll(text, NULL, 10) : -1;
}

static void handle_ledger(struct httpd_request *req, void *arg)
{
    struct sim *sim = arg;
    int64_t limit = query_number(req, "limit", PAGE_DEFAULT);
    int64_t cursor = query_number(req, "cursor", 0);
    const struct ledger_entry *e = NULL;
    struct buf body = {0};
    int64_t found = 0;
    size_t at;
    size_t end;

    if (limit < 1 || limit > PAGE_MAX || cursor < 0) {
        httpd_reply_error(req, 400, "invalid_input", "limit is 1 to 5,000, cursor as it was given.",
                          limit < 1 || limit > PAGE_MAX ? "limit" : "cursor");
        return;
    }
    at = (size_t)cursor;
    end = at + SCAN_MAX;
    buf_puts(&body, "{\"ledger\":[");
    pthread_mutex_lock(&sim->lock);
    while (at < end && found < limit && (e = ledger_at(sim->ledger, at))) {
        at++;
        if (!e->accepted_us)
            continue;
        if (found++)
            buf_putc(&body, ',');
        put_entry(&body, sim, e);
    }
    e = ledger_at(sim->ledger, at);
    pthread_mutex_unlock(&sim->lock);
    if (e)
        buf_printf(&body, "],\"next_cursor\":\"%zu\"}", at);
    else
        buf_puts(&body, "],\"next_cursor\":null}");
    reply_buf(req, &body);
}

static void handle_ledger_count(struct httpd_request *req, void *arg)
{
    struct sim *sim = arg;
    struct ledger_counts c;
    struct buf body = {0};

    pthread_mutex_lock(&sim->lock);
    c = ledger_counts(sim->ledger);
    pthread_mutex_unlock(&sim->lock);
    buf_printf(&body,
               "{\"accepted\":%" PRIu64 ",\"duplicates\":%" PRIu64 ",\"requests\":%" PRIu64
               ",\"lookups\":%" PRIu64 ",\"seen\":%" PRIu64 "}",
               c.accepted, c.duplicates, c.requests, c.lookups, c.seen);
    reply_buf(req, &body);
}

static void handle_ledger_entry(struct httpd_request *req, void *arg)
{
    struct sim *sim = arg;
    const char *reference = httpd_path(req) + strlen("/ledger/");
    const struct ledger_entry *e;
    struct buf body = {0};

    pthread_mutex_lock(&sim->lock);
    e = ledger_find(sim->ledger, reference);
    if (e && e->accepted_us)
        put_entry(&body, sim, e);
    pthread_mutex_unlock(&sim->lock);
    if (body.len || body.failed)
        reply_buf(req, &body);
    else
        httpd_reply_error(req, 404, "not_found", "The reference is not accepted.", NULL);
}

static void reply_faults(struct sim *sim, struct httpd_request *req)
{
    bool refusing = door_is_refusing(sim->door);
    struct fault_set set;
    struct buf body = {0};

    pthread_mutex_lock(&sim->lock);
    set = sim->faults;
    pthread_mutex_unlock(&sim->lock);
    set.refuse = refusing;
    fault_put_json(&body, &set);
    reply_buf(req, &body);
}

static void set_faults(struct sim *sim, const struct fault_set *set)
{
    struct buf text = {0};

    pthread_mutex_lock(&sim->lock);
    sim->faults = *set;
    pthread_mutex_unlock(&sim->lock);
    door_refuse(sim->door, set->refuse, set->refuse_ms);
    fault_put_json(&text, set);
    log_info("faults.set", L_STR("faults", text.failed ? "" : text.data));
    buf_free(&text);
}

static void handle_get_faults(struct httpd_request *req, void *arg)
{
    reply_faults(arg, req);
}

static void handle_put_faults(struct httpd_request *req, void *arg)
{
    struct sim *sim = arg;
    struct fault_set set;
    char why[200];
    size_t n;
    const char *body = httpd_body(req, &n);

    if (!fault_parse(body, n, &set, why, sizeof(why))) {
        httpd_reply_error(req, 400, "invalid_input", why, NULL);
    } else if (set.refuse && !set.refuse_ms && !sim->control) {
        httpd_reply_error(req, 400, "invalid_input",
                          "Without CONTROL_ADDR nobody could lift refuse; use refuse_ms.",
                          "refuse");
    } else {
        set_faults(sim, &set);
        reply_faults(sim, req);
    }
}

static void handle_delete_faults(struct httpd_request *req, void *arg)
{
    struct sim *sim = arg;
    struct fault_set none;

    fault_none(&none);
    set_faults(sim, &none);
    reply_faults(sim, req);
}

/* clang-format off */
#define CONTROL_ROUTES                                        \
    {"GET", "/ledger", handle_ledger, true},                  \
    {"GET", "/ledger/count", handle_ledger_count, true},      \
    {"GET", "/ledger/*", handle_ledger_entry, true},          \
    {"GET", "/faults", handle_get_faults, true},              \
    {"PUT", "/faults", handle_put_faults, true},              \
    {"DELETE", "/faults", handle_delete_faults, true},        \
    DAEMON_ROUTES
/* clang-format on */

static const struct httpd_route main_routes[] = {
    {"POST", "/messages", handle_send, true},
    {"GET", "/messages/*", handle_lookup, true},
    CONTROL_ROUTES,
};
static const struct httpd_route control_routes[] = {CONTROL_ROUTES};

static void register_metrics(struct sim *sim)
{
    for (int i = 0; i < RESULTS; i++) {
        char labels[64];

        snprintf(labels, sizeof(labels), "result=\"%s\"", result_names[i]);
        if (i < RESULT_FOUND)
            sim->sends[i] = metrics_counter("sim_requests_total", "Messages offered.", labels);
        if (i >= RESULT_FOUND || i == RESULT_STATUS || i == RESULT_HANG)
            sim->lookups[i] = metrics_counter("sim_lookups_total", "References asked for.", labels);
    }
    sim->references = metrics_gauge("sim_references", "References in the ledger.", "");
}

static int start_control(struct sim *sim, struct err *err)
{
    struct httpd_config config = {
        .settings = &sim->control_settings,
        .routes = control_routes,
        .route_count = sizeof(control_routes) / sizeof(control_routes[0]),
        .arg = sim,
    };

    if (!*sim->settings->control_addr)
        return 0;
    sim->control_settings = sim->settings->http;
    sim->control_settings.listen_addr = sim->settings->control_addr;
    sim->control_settings.threads = CONTROL_THREADS;
    sim->control = httpd_new(&config, err);
    return sim->control ? httpd_start(sim->control, err) : -1;
}

static int start_main(struct sim *sim, struct err *err)
{
    struct httpd_config config = {
        .settings = &sim->settings->http,
        .routes = main_routes,
        .route_count = sizeof(main_routes) / sizeof(main_routes[0]),
        .arg = sim,
    };

    if (sim->faults.refuse && !sim->faults.refuse_ms && !*sim->settings->control_addr)
        return err_set(err, ERR_PERMANENT, 0,
                       "SIM_FAULTS: refuse needs CONTROL_ADDR, or refuse_ms in its place");
    sim->door = door_new(&config, sim->faults.refuse, sim->faults.refuse_ms, err);
    return sim->door ? 0 : -1;
}

struct sim *sim_start(const struct sim_settings *settings, struct err *err)
{
    struct sim *sim = must_alloc(1, sizeof(*sim));
    char why[200];

    json_object_seed(0); /* before threads */
    sim->settings = settings;
    pthread_mutex_init(&sim->lock, NULL);
    sim->id_key = (struct hash_key){hash_crc32(settings->name, strlen(settings->name)), 0};
    register_metrics(sim);
    sim->ledger = ledger_open((size_t)settings->ledger_max, settings->ledger_file, err);
    if (!sim->ledger)
        goto fail;
    MUST(fault_parse(settings->faults, strlen(settings->faults), &sim->faults, why, sizeof(why)));
    metrics_set(sim->references, (int64_t)ledger_counts(sim->ledger).seen);
    /* The door first: a handler of the control server asks it. */
    if (start_main(sim, err) || start_control(sim, err))
        goto fail;
    return sim;
fail:
    sim_stop(sim);
    return NULL;
}

void sim_stop(struct sim *sim)
{
    if (!sim)
        return;
    if (sim->control)
        httpd_drain(sim->control);
    if (sim->door)
        door_drain(sim->door, daemon_drain_left_ms());
    if (sim->control)
        httpd_wait_drained(sim->control, daemon_drain_left_ms());
    httpd_free(sim->control);
    door_free(sim->door);
    ledger_close(sim->ledger);
    pthread_mutex_destroy(&sim->lock);
    free(sim);
}
