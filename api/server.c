#include "api/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/admission.h"
#include "api/audit_watch.h"
#include "api/auth.h"
#include "api/commit.h"
#include "api/entrance.h"
#include "api/housekeeping.h"
#include "api/key_ring.h"
#include "api/migrate.h"
#include "api/moves.h"
#include "api/pressure.h"
#include "api/query.h"
#include "api/reads.h"
#include "api/receipt_route.h"
#include "api/settings.h"
#include "api/swagger.h"
#include "api/webhook_routes.h"
#include "libcommon/base/clock.h"
#include "libcommon/daemon/daemon.h"
#include "libcommon/domain/doorbell.h"
#include "libcommon/domain/ledger.h"
#include "libcommon/domain/webhook_watch.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define OVERLOAD_MESSAGE "The system is temporarily overloaded. Please retry later."
#define RETRY_AFTER_SEC 1
#define OTHER_DESCRIPTORS 16 /* database and broker, beside committers and readers; traces */

struct server {
    struct entrance *entrance;
    struct commit *commit;
    struct reads *reads;
    struct swagger *swagger;
    struct migrator *migrator;
    struct pressure *pressure;
    struct doorbell *doorbell;
    struct audit_watch *audit;
    struct janitor *janitor;
    struct moves *moves;
    struct admission *admission;
    struct metric *pressed;
    struct metric *key_replayed, *key_reused;
};

static struct server server;

static void reply_overloaded(struct httpd_request *req)
{
    metrics_add(server.pressed, 1);
    httpd_reply_retry(req, 503, "system_overloaded", OVERLOAD_MESSAGE, RETRY_AFTER_SEC);
}

static void reply_unavailable(struct httpd_request *req)
{
    httpd_reply_retry(req, 503, "unavailable", "The database is not available. Please retry later.",
                      RETRY_AFTER_SEC);
}

static void reply_too_late(struct httpd_request *req)
{
    httpd_reply_retry(
        req, 503, "unavailable",
        "The database did not answer in time, and nothing was done. Please retry later.",
        RETRY_AFTER_SEC);
}

/* With a key, it may be its own first request that has the row. */
static void reply_held(struct httpd_request *req, bool has_key)
{
    if (has_key)
        httpd_reply_retry(req, 409, "idempotency_in_progress",
                          "A request with this Idempotency-Key may still be running. Please retry.",
                          RETRY_AFTER_SEC);
    else
        httpd_reply_retry(
            req, 503, "unavailable",
            "Another transaction holds this customer's balance, and nothing was done. "
            "Please retry later.",
            RETRY_AFTER_SEC);
}

static void reply_unknown(struct httpd_request *req)
{
    httpd_reply_retry(req, 503, "outcome_unknown",
                      "It is not known whether the request was carried out. Retry with the same "
                      "Idempotency-Key, or "
                      "look at the history.",
                      RETRY_AFTER_SEC);
}

static const char key_header[] = "Idempotency-Key";

static bool enter_stage(struct operation *op, enum operation_stage stage)
{
    return httpd_mark(op->request, stage);
}

/* The deadline has come first: runs on the request's thread, and has nothing but the request. */
static void answer_late_operation(struct httpd_request *req, unsigned stage)
{
    if (stage == STAGE_BEGUN)
        reply_unknown(req);
    else if (stage == STAGE_HELD)
        reply_held(req, httpd_header(req, key_header));
    else
        reply_too_late(req);
}

static void answer_late_read(struct httpd_request *req, unsigned stage)
{
    if (stage == STAGE_BEGUN)
        reply_unknown(req);
    else
        reply_too_late(req);
}

static bool begin_read(const struct read_job *job)
{
    return httpd_mark(job->request, STAGE_BEGUN);
}

static void reply_too_high(struct httpd_request *req)
{
    char text[80];

    snprintf(text, sizeof(text), "A top-up may not lift a balance above %lld.",
             (long long)LEDGER_TOPUP_MAX);
    httpd_reply_error(req, 400, "invalid_input", text, "balance");
}

static void reply_outcome(struct operation *op)
{
    struct httpd_request *req = op->request;

    switch (op->outcome) {
    case OUTCOME_DONE:
        httpd_reply(req, 200, op->response.data, op->response.len);
        break;
    case OUTCOME_REPLAYED:
        metrics_add(server.key_replayed, 1);
        httpd_set_header(req, "Idempotency-Replayed", "true");
        httpd_reply(req, 200, op->response.data, op->response.len);
        break;
    case OUTCOME_KEY_REUSED:
        metrics_add(server.key_reused, 1);
        httpd_reply_error(req, 422, "idempotency_key_reused",
                          "This Idempotency-Key was used before with another body.", key_header);
        break;
    case OUTCOME_INSUFFICIENT:
        httpd_reply_error(req, 402, "insufficient_balance",
                          "The balance does not cover this message.", NULL);
        break;
    case OUTCOME_BALANCE_TOO_HIGH:
        reply_too_high(req);
        break;
    case OUTCOME_TOO_LARGE:
        httpd_reply_error(req, 413, "body_too_large",
                          "The message with all its recipients is more than the database takes at "
                          "once. Send it to fewer recipients at a time.",
                          op->kind == OPERATION_SEND ? "recipients" : NULL);
        break;
    case OUTCOME_FENCED:
        moves_reply(server.moves, req, op->customer_id);
        break;
    case OUTCOME_OVERLOADED:
        reply_overloaded(req);
        break;
    case OUTCOME_LOCKED_TOO_LONG:
        reply_held(req, op->key);
        break;
    case OUTCOME_UNAVAILABLE:
        reply_unavailable(req);
        break;
    case OUTCOME_TOO_LATE:
        reply_too_late(req);
        break;
    case OUTCOME_UNKNOWN:
        reply_unknown(req);
        break;
    default:
        httpd_reply_error(req, 500, "internal_error",
                          "Something went wrong. The request was not carried out.", NULL);
    }
}

/* Who has added money, and from where. */
static void note_topup(const struct operation *op)
{
    bool done = op->outcome == OUTCOME_DONE;

    if (op->key_id && (done || op->outcome == OUTCOME_UNKNOWN))
        log_info("admin.topup", L_INT("key_id", op->key_id), L_STR("peer", op->peer),
                 L_INT("customer_id", op->customer_id), L_INT("amount", op->amount),
                 L_STR("transaction_id", op->message.transaction_id),
                 L_STR("result", done ? "done" : "unknown"));
}

/* A committer has decided: runs on its thread. */
static void answer_operation(struct operation *op)
{
    if (op->kind == OPERATION_TOPUP)
        note_topup(op);
    if (op->outcome == OUTCOME_DONE && op->kind == OPERATION_SEND) {
        pressure_accepted(server.pressure, 1);
        doorbell_ring(server.doorbell, DOORBELL_FRESH(op->message.type));
    }
    if (op->outcome != OUTCOME_EXPIRED && httpd_take(op->request))
        reply_outcome(op);
    operation_free(op);
}

static void reply_fault(struct httpd_request *req, const struct operation_fault *fault)
{
    if (!fault->code) /* memory is out: refuse new work, keep what was accepted */
        httpd_reply_retry(req, 503, "system_overloaded", OVERLOAD_MESSAGE, RETRY_AFTER_SEC);
    else
        httpd_reply_error(req, 400, fault->code, fault->message, fault->field);
}

/* The body has named its customer. False: answered. */
static bool take_customer(struct httpd_request *req, struct operation *op)
{
    if (admission_name(server.admission, req, op->customer_id))
        return true;
    operation_free(op);
    return false;
}

/* Reads the key, if any. False: answered. */
static bool take_key(struct httpd_request *req, struct operation *op)
{
    const char *key = httpd_header(req, key_header);
    struct operation_fault fault;

    if (!key || operation_set_key(op, key, &fault) == 0)
        return true;
    reply_fault(req, &fault);
    operation_free(op);
    return false;
}

static void submit(struct httpd_request *req, struct operation *op)
{
    httpd_drop_body(req);
    op->request = req;
    op->deadline_ms = clock_mono_ms() + api_settings.request_deadline_ms;
    httpd_set_deadline(req, op->deadline_ms, answer_late_operation);
    if (commit_submit(server.commit, op))
        return;
    operation_free(op);
    if (httpd_take(req))
        reply_overloaded(req);
}

static void handle_send(struct httpd_request *req, void *arg)
{
    const struct operation_limits limits = {
        .max_recipients = api_settings.max_recipients,
        .prices = &api_settings.prices,
        .customer_id = admission_identity(req)->key.customer_id,
    };
    struct operation_fault fault;
    struct operation *op;
    const char *body;
    size_t n;

    (void)arg;
    body = httpd_body(req, &n);
    op = operation_parse_send(body, n, &limits, &fault);
    if (!op) {
        reply_fault(req, &fault);
        return;
    }
    if (!take_customer(req, op) || !take_key(req, op))
        return;
    if (pressure_high(server.pressure)) {
        if (!op->key) {
            operation_free(op);
            reply_overloaded(req);
            return;
        }
        op->replay_only = true;
    }
    op->accepted_us = clock_wall_us();
    trace_format(httpd_trace(req), op->traceparent);
    if (*httpd_tracestate(req))
        operation_set_tracestate(op, httpd_tracestate(req));
    submit(req, op);
}

static void handle_topup(struct httpd_request *req, void *arg)
{
    const struct key_grant *key = &admission_identity(req)->key;
    struct operation_fault fault;
    struct operation *op;
    const char *body;
    size_t n;

    (void)arg;
    body = httpd_body(req, &n);
    op = operation_parse_topup(body, n, key->customer_id, &fault);
    if (!op) {
        reply_fault(req, &fault);
        return;
    }
    op->key_id = key->key_id;
    snprintf(op->peer, sizeof(op->peer), "%s", httpd_peer(req));
    if (take_customer(req, op) && take_key(req, op))
        submit(req, op);
}

static void reply_absent(const struct read_job *job)
{
    if (job->kind == READ_WEBHOOK)
        httpd_reply_error(job->request, 404, "not_found", "There is no such webhook.", NULL);
    else
        auth_reply_absent(job->request);
}

static void reply_full(struct httpd_request *req)
{
    char text[80];

    snprintf(text, sizeof(text), "A customer has at most %lld webhooks.",
             (long long)api_settings.webhooks_per_customer);
    httpd_reply_error(req, 409, "too_many_webhooks", text, NULL);
}

static void answer_read(const struct read_job *job, enum read_outcome outcome,
                        const struct buf *body)
{
    if (!httpd_take(job->request))
        return;
    if (outcome == READ_OK)
        httpd_reply(job->request, 200, body->data, body->len);
    else if (outcome == READ_UNAVAILABLE)
        reply_unavailable(job->request);
    else if (outcome == READ_TOO_LATE)
        reply_too_late(job->request);
    else if (outcome == READ_ABSENT)
        reply_absent(job);
    else if (outcome == READ_FULL)
        reply_full(job->request);
    else if (outcome == READ_UNKNOWN)
        reply_unknown(job->request);
    else
        httpd_reply_error(job->request, 500, "internal_error", "Something went wrong.", NULL);
}

static bool take_page(struct httpd_request *req, struct read_job *job)
{
    return query_number(req, "limit", 1, api_settings.page_max, api_settings.page_default,
                        &job->limit) &&
           query_number(req, "cursor", 1, INT64_MAX, INT64_MAX, &job->before);
}

static void reply_unknown_state(struct httpd_request *req)
{
    struct buf sentence = {0};

    buf_puts(&sentence, "Must be ");
    recipient_put_sentence(&sentence);
    buf_putc(&sentence, '.');
    httpd_reply_error(req, 400, "invalid_input", sentence.failed ? "" : sentence.data, "status");
    buf_free(&sentence);
}

static bool take_filters(struct httpd_request *req, struct read_job *job)
{
    const char *state = httpd_query(req, "status");

    job->by_state = state && *state;
    if (job->by_state && !recipient_state_parse_shown(state, &job->state)) {
        reply_unknown_state(req);
        return false;
    }
    return query_ascii(req, "message_identifier", job->message_id, sizeof(job->message_id));
}

static void submit_read(struct httpd_request *req, struct read_job *job)
{
    job->user_id = admission_identity(req)->customer_id;
    job->for_itself = admission_identity(req)->key.customer_id;
    job->request = req;
    job->deadline_ms = clock_mono_ms() + api_settings.request_deadline_ms;
    httpd_set_deadline(req, job->deadline_ms, answer_late_read);
    if (reads_submit(server.reads, job))
        return;
    free(job->task);
    if (httpd_take(req))
        httpd_reply_retry(req, 503, "system_overloaded", OVERLOAD_MESSAGE, RETRY_AFTER_SEC);
}

static void handle_history(struct httpd_request *req, void *arg)
{
    struct read_job job = {.kind = READ_HISTORY};

    (void)arg;
    if (take_page(req, &job) && take_filters(req, &job))
        submit_read(req, &job);
}

static void handle_message(struct httpd_request *req, void *arg)
{
    const char *id = httpd_path(req) + strlen("/messages/");
    struct read_job job = {.kind = READ_MESSAGE};

    (void)arg;
    if (!*id || strlen(id) > MESSAGE_ID_MAX || strchr(id, '/')) {
        httpd_reply_error(req, 404, "not_found", "There is nothing at this path.", NULL);
        return;
    }
    memcpy(job.message_id, id, strlen(id) + 1);
    if (take_page(req, &job))
        submit_read(req, &job);
}

static void handle_balance(struct httpd_request *req, void *arg)
{
    struct read_job job = {.kind = READ_BALANCE};

    (void)arg;
    if (take_page(req, &job))
        submit_read(req, &job);
}

static void handle_swagger(struct httpd_request *req, void *arg)
{
    (void)arg;
    swagger_answer(server.swagger, req);
}

static void open_swagger(void)
{
    const char *dir = api_settings.swagger_dir;
    struct err err = {0};

    server.swagger = swagger_open(dir, &err);
    if (!swagger_complete(server.swagger))
        LOG_EVENT(*dir ? LOG_WARN : LOG_INFO, "swagger.absent", L_ERR(&err));
}

static const struct admission_needs send_needs = {
    .scope = KEY_SEND, .subject = SUBJECT_IN_BODY, .customer_limit = true};
static const struct admission_needs topup_needs = {.scope = KEY_TOPUP, .subject = SUBJECT_IN_BODY};
static const struct admission_needs read_needs = {
    .scope = KEY_READ, .subject = SUBJECT_IN_QUERY, .read_limit = true};
static const struct admission_needs webhook_body_needs = {
    .scope = KEY_WEBHOOKS, .subject = SUBJECT_IN_BODY, .read_limit = true};
static const struct admission_needs webhook_needs = {
    .scope = KEY_WEBHOOKS, .subject = SUBJECT_IN_QUERY, .read_limit = true};
static const struct admission_needs page_needs = {.group = GROUP_SWAGGER};
static const struct admission_needs metrics_needs = {
    .group = GROUP_METRICS, .scope = KEY_METRICS, .no_limit = true};
static const struct admission_needs status_needs = {
    .group = GROUP_STATUS, .scope = KEY_METRICS, .no_limit = true};

#define RECEIPT_ROUTES 2
#define RECEIPT_WORDS (HTTPD_NO_LIMIT | HTTPD_NO_SPAN | HTTPD_RAW_QUERY)

static const struct httpd_route routes[] = {
    {"POST", RECEIPT_PATH, receipt_route_handle, RECEIPT_WORDS, NULL},
    {"GET", RECEIPT_PATH, receipt_route_handle, RECEIPT_WORDS, NULL},
    {"POST", "/messages/send", handle_send, 0, &send_needs},
    {"GET", "/messages/history", handle_history, 0, &read_needs},
    {"GET", "/messages/*", handle_message, 0, &read_needs},
    {"GET", "/balance", handle_balance, 0, &read_needs},
    {"POST", "/balance/add", handle_topup, 0, &topup_needs},
    {"POST", "/webhooks", webhook_handle_create, 0, &webhook_body_needs},
    {"GET", "/webhooks", webhook_handle_list, 0, &webhook_needs},
    {"GET", "/webhooks/*", webhook_handle_get, 0, &webhook_needs},
    {"POST", "/webhooks/*", webhook_handle_post, 0, &webhook_needs},
    {"DELETE", "/webhooks/*", webhook_handle_delete, 0, &webhook_needs},
    {"GET", "/swagger", handle_swagger, 0, &page_needs},
    {"GET", "/swagger/*", handle_swagger, 0, &page_needs},
    DAEMON_HEALTH_ROUTES,
    DAEMON_WATCH_ROUTES(DAEMON_ROUTE_WORDS & ~HTTPD_NO_LIMIT, &metrics_needs, &status_needs),
};

static void register_metrics(void)
{
    static const char keys[] = "Requests whose Idempotency-Key was known.";

    server.pressed = metrics_counter("backpressure_rejections_total",
                                     "Sends refused because of backpressure.", "");
    server.key_replayed = metrics_counter("msg_idempotency_total", keys, "result=\"replayed\"");
    server.key_reused = metrics_counter("msg_idempotency_total", keys, "result=\"reused\"");
    key_ring_register();
}

/* Of sends, and of receipts where they come to the same listener. */
static size_t largest_body(void)
{
    size_t sends = operation_body_bytes(api_settings.max_recipients);
    bool both = receipt_route_is_used() && !*api_settings.receipts_listen_addr;

    return both && sends < RECEIPT_BODY_BYTES ? RECEIPT_BODY_BYTES : sends;
}

static struct entrance *open_entrance(struct err *err)
{
    const struct api_settings *s = &api_settings;
    const struct entrance_config config = {
        .routes = routes,
        .count = sizeof(routes) / sizeof(routes[0]),
        .receipts = RECEIPT_ROUTES,
        .operation = DAEMON_HEALTH_COUNT + DAEMON_WATCH_COUNT,
        .watch = DAEMON_WATCH_COUNT,
        .beside = s->committers + s->readers + s->receipt_workers + OTHER_DESCRIPTORS,
        .body_bytes = largest_body(),
        .moves = server.moves,
        .receipt_bytes = RECEIPT_BODY_BYTES,
    };

    return entrance_open(&config, err);
}

struct server *server_start(struct err *err)
{
    const struct api_settings *s = &api_settings;

    if (receipt_route_open(err))
        return NULL;
    server.moves = moves_start(&s->db);
    server.entrance = open_entrance(err);
    if (!server.entrance) {
        moves_free(server.moves);
        return NULL;
    }
    server.admission = entrance_admission(server.entrance);
    register_metrics();
    open_swagger();
    server.migrator = s->migrate_on_start ? migrator_start(&s->db) : NULL;
    server.pressure = pressure_start();
    server.audit = audit_watch_start();
    server.janitor = housekeeping_start();
    server.doorbell = doorbell_start(&s->broker);
    server.commit = commit_start(answer_operation, enter_stage);
    webhook_watch_start(&s->db);
    webhook_routes_open(server.admission, submit_read);
    server.reads = reads_start(answer_read, begin_read);
    receipt_route_start();
    if (entrance_start(server.entrance, err)) {
        server_drain(&server);
        server_free(&server);
        return NULL;
    }
    return &server;
}

void server_drain(struct server *s)
{
    janitor_begin_stop(s->janitor);
    if (!entrance_drain(s->entrance))
        log_warn("server.drain_cut_short", L_MSG("requests were still in hand at the deadline"));
    /* Each may have to wait for an answer of the database first: all at the same time. */
    migrator_begin_stop(s->migrator);
    pressure_begin_stop(s->pressure);
    audit_watch_begin_stop(s->audit);
    webhook_watch_begin_stop();
    moves_begin_stop(s->moves);
    /* Committers and readers first: they answer into the server. */
    commit_stop(s->commit);
    receipt_route_stop();
    doorbell_begin_stop(s->doorbell);
    reads_stop(s->reads);
    migrator_stop(s->migrator);
    pressure_stop(s->pressure);
    audit_watch_stop(s->audit);
    janitor_stop(s->janitor);
    doorbell_stop(s->doorbell);
    webhook_watch_stop();
}

void server_free(struct server *s)
{
    if (!s)
        return;
    entrance_free(s->entrance);
    moves_free(s->moves);
    swagger_close(s->swagger);
}
