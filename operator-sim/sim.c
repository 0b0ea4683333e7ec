#include "operator-sim/sim.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/telemetry/log.h"
#include "operator-sim/order.h"
#include "operator-sim/sim_internal.h"

#define CONTROL_THREADS 1
#define BODY_MAX (1 << 20) /* of an audit that asks for many at once */

static const char *const result_names[RESULTS] = {
    [RESULT_ACCEPTED] = "accepted", [RESULT_DUPLICATE] = "duplicate",
    [RESULT_REJECTED] = "rejected", [RESULT_INVALID] = "invalid",
    [RESULT_STATUS] = "status",     [RESULT_RESET] = "reset",
    [RESULT_HANG] = "hang",         [RESULT_FULL] = "full",
    [RESULT_FOUND] = "found",       [RESULT_NOT_FOUND] = "not_found",
};

/* What becomes of a request: decided under the lock, carried out after it. */
struct verdict {
    enum result result;
    int status;
    int64_t delay_us;
    int64_t retry_after; /* -1: none */
};

/* NULL when the order is whole, else what to blame. */
static const char *read_request(struct httpd_request *req, const char *key, struct order *order)
{
    size_t n;
    const char *body = httpd_body(req, &n);
    const char *blame = order_read(body, n, order);

    return blame || !key || !strcmp(key, order->reference) ? blame : "Idempotency-Key";
}

static uint64_t number_of(const struct sim *sim, const char *reference)
{
    return hash_bytes(sim->id_key, reference, strlen(reference));
}

void sim_put_id(const struct sim *sim, const char *reference, char id[RECEIPT_ID_SIZE])
{
    receipt_put_id(receipts_answer(sim->receipts).id, sim->settings->name,
                   number_of(sim, reference), id);
}

static void reply_id(struct sim *sim, struct httpd_request *req, const char *reference)
{
    unsigned parts = receipts_answer(sim->receipts).parts;
    char id[RECEIPT_ID_SIZE];
    char body[RECEIPT_ID_SIZE + 64];
    char *end;

    sim_put_id(sim, reference, id);
    end = stpcpy(stpcpy(stpcpy(body, "{\"id\":\""), id), "\",\"status\":\"accepted\"");
    if (parts > 1)
        end += snprintf(end, sizeof(body) - (size_t)(end - body), ",\"parts\":%u", parts);
    end = stpcpy(end, "}");
    httpd_reply(req, 200, body, (size_t)(end - body));
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
                         bool has_key, struct ledger_entry *e)
{
    const char *parent = httpd_header(req, "traceparent");
    struct trace_context trace;
    struct ledger_message m = {
        .to = order->to,
        .text = order->text,
        .text_len = order->text_len,
        .type = order->type,
        .has_key = has_key,
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

/* Of what was just accepted; how much later it is answered, so that they come first. */
static int64_t send_receipts(struct sim *sim, const struct order *order)
{
    struct receipts_message m = {.reference = order->reference,
                                 .echo = order->receipt_reference,
                                 .url = order->receipt_url,
                                 .number = number_of(sim, order->reference)};

    return receipts_add(sim->receipts, &m);
}

/* The lock is held. */
static void decide_send(struct sim *sim, struct httpd_request *req, const struct order *order,
                        bool has_key, struct verdict *v)
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
    if (!e->accepted_us) {
        if (!accept_order(sim, req, order, has_key, e)) {
            v->result = RESULT_FULL;
            return;
        }
        v->delay_us += send_receipts(sim, order);
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
    const char *key = httpd_header(req, "Idempotency-Key");
    struct order order;
    const char *blame = read_request(req, key, &order);

    if (blame) {
        metrics_add(sim->sends[RESULT_INVALID], 1);
        httpd_reply_error(req, 400, "invalid_input", "The request is not as the protocol has it.",
                          blame);
        order_free(&order);
        return;
    }
    pthread_mutex_lock(&sim->lock);
    decide_send(sim, req, &order, key != NULL, &v);
    metrics_set(sim->references, (int64_t)ledger_counts(sim->ledger).seen);
    pthread_mutex_unlock(&sim->lock);
    metrics_add(sim->sends[v.result], 1);
    carry_out(sim, req, &v, order.reference);
    order_free(&order);
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

    if (order_reference_ok(reference, strlen(reference))) {
        pthread_mutex_lock(&sim->lock);
        decide_lookup(sim, reference, &v);
        pthread_mutex_unlock(&sim->lock);
    }
    metrics_add(sim->lookups[v.result], 1);
    carry_out(sim, req, &v, reference);
}

#define ROUTE_WORDS (HTTPD_NO_SPAN | HTTPD_EXPECT_200)

/* clang-format off */
#define CONTROL_ROUTES                                                 \
    {"GET", "/ledger", control_ledger, ROUTE_WORDS, NULL},             \
    {"GET", "/ledger/count", control_ledger_count, ROUTE_WORDS, NULL}, \
    {"POST", "/ledger/find", control_ledger_find, ROUTE_WORDS, NULL},  \
    {"GET", "/ledger/*", control_ledger_entry, ROUTE_WORDS, NULL},     \
    {"GET", "/faults", control_get_faults, ROUTE_WORDS, NULL},         \
    {"PUT", "/faults", control_put_faults, ROUTE_WORDS, NULL},         \
    {"DELETE", "/faults", control_delete_faults, ROUTE_WORDS, NULL},   \
    {"GET", "/receipts", control_get_receipts, ROUTE_WORDS, NULL},     \
    {"PUT", "/receipts", control_put_receipts, ROUTE_WORDS, NULL},     \
    {"DELETE", "/receipts", control_delete_receipts, ROUTE_WORDS, NULL}, \
    {"GET", "/receipts/count", control_receipts_count, ROUTE_WORDS, NULL}, \
    DAEMON_ROUTES
/* clang-format on */

static const struct httpd_route main_routes[] = {
    {"POST", "/messages", handle_send, ROUTE_WORDS, NULL},
    {"GET", "/messages/*", handle_lookup, ROUTE_WORDS, NULL},
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

static void note_receipt(void *arg, const char *reference, bool delivered)
{
    struct sim *sim = arg;
    struct ledger_entry *e;

    pthread_mutex_lock(&sim->lock);
    e = ledger_find(sim->ledger, reference);
    if (e)
        e->receipt = delivered ? LEDGER_DELIVERED : LEDGER_UNDELIVERED;
    pthread_mutex_unlock(&sim->lock);
}

static void start_receipts(struct sim *sim)
{
    const struct sim_settings *s = sim->settings;
    struct receipts_config config = {
        .name = s->name,
        .key = s->receipt_key,
        .seed = (uint64_t)s->seed,
        .max = (size_t)s->receipts_max,
        .in_flight = (size_t)s->receipts_in_flight,
        .taken = note_receipt,
        .arg = sim,
    };
    struct receipt_plan plan;
    char why[200];

    MUST(receipt_plan_parse(s->receipts, strlen(s->receipts), &plan, why, sizeof(why)));
    sim->receipts = receipts_new(&config, &plan);
}

static int start_control(struct sim *sim, struct err *err)
{
    struct httpd_config config = {
        .settings = &sim->control_settings,
        .routes = control_routes,
        .route_count = sizeof(control_routes) / sizeof(control_routes[0]),
        .arg = sim,
        .body_bytes = BODY_MAX,
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
        .body_bytes = BODY_MAX,
    };

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
    start_receipts(sim);
    /* The door first: a handler of the control server asks it. */
    if (start_main(sim, err) || start_control(sim, err))
        goto fail;
    return sim;
fail:
    sim_drain(sim);
    sim_free(sim);
    return NULL;
}

void sim_drain(struct sim *sim)
{
    if (sim->control)
        httpd_drain(sim->control);
    if (sim->door)
        door_drain(sim->door, daemon_drain_left_ms());
    if (sim->control)
        httpd_wait_drained(sim->control, daemon_drain_left_ms());
    if (sim->receipts)
        receipts_stop(sim->receipts);
}

void sim_free(struct sim *sim)
{
    if (!sim)
        return;
    httpd_free(sim->control);
    door_free(sim->door);
    receipts_free(sim->receipts);
    ledger_close(sim->ledger);
    pthread_mutex_destroy(&sim->lock);
    free(sim);
}
