#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/telemetry/log.h"
#include "operator-sim/sim_internal.h"

#define PAGE_DEFAULT 1000
#define PAGE_MAX 5000
#define SCAN_MAX 100000 /* positions looked at for one page, accepted or not */

static void put_entry(struct buf *out, const struct sim *sim, const struct ledger_entry *e)
{
    static const char *const receipts[] = {
        [LEDGER_NO_RECEIPT] = "null",
        [LEDGER_DELIVERED] = "\"delivered\"",
        [LEDGER_UNDELIVERED] = "\"undelivered\"",
    };
    char id[RECEIPT_ID_SIZE];

    sim_put_id(sim, e->reference, id);
    buf_printf(out,
               "{\"reference\":\"%s\",\"id\":\"%s\",\"to\":\"%s\",\"type\":\"%s\","
               "\"text_bytes\":%u,\"text_crc32\":%u,\"accepted_at\":\"",
               e->reference, id, e->to, message_type_name((enum message_type)e->type),
               e->text_bytes, e->text_crc32);
    clock_put_rfc3339(out, e->accepted_us);
    buf_printf(out,
               "\",\"requests\":%u,\"lookups\":%u,\"receipt\":%s,\"idempotency_key\":%s,"
               "\"traceparent\":",
               e->requests, e->lookups, receipts[e->receipt], e->has_key ? "true" : "false");
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

void control_ledger(struct httpd_request *req, void *arg)
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

void control_ledger_count(struct httpd_request *req, void *arg)
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

/* The entries of those of the references that are accepted. */
static void put_found(struct buf *out, struct sim *sim, const json_t *references)
{
    const char *comma = "";
    const json_t *reference;
    size_t i;

    buf_puts(out, "{\"ledger\":[");
    pthread_mutex_lock(&sim->lock);
    json_array_foreach(references, i, reference)
    {
        const char *text = json_string_value(reference);
        const struct ledger_entry *e = text ? ledger_find(sim->ledger, text) : NULL;

        if (!e || !e->accepted_us)
            continue;
        buf_puts(out, comma);
        put_entry(out, sim, e);
        comma = ",";
    }
    pthread_mutex_unlock(&sim->lock);
    buf_puts(out, "]}");
}

void control_ledger_find(struct httpd_request *req, void *arg)
{
    struct buf body = {0};
    size_t n;
    const char *text = httpd_body(req, &n);
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
    const json_t *references = json_object_get(root, "references");

    if (!json_is_array(references) || json_array_size(references) > PAGE_MAX) {
        httpd_reply_error(req, 400, "invalid_input", "references is a list of up to 5,000.",
                          "references");
    } else {
        put_found(&body, arg, references);
        reply_buf(req, &body);
    }
    json_decref(root);
}

void control_ledger_entry(struct httpd_request *req, void *arg)
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

void control_get_faults(struct httpd_request *req, void *arg)
{
    reply_faults(arg, req);
}

void control_put_faults(struct httpd_request *req, void *arg)
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

void control_delete_faults(struct httpd_request *req, void *arg)
{
    struct sim *sim = arg;
    struct fault_set none;

    fault_none(&none);
    set_faults(sim, &none);
    reply_faults(sim, req);
}

static void reply_receipts(struct sim *sim, struct httpd_request *req)
{
    struct receipt_plan plan;
    struct buf body = {0};

    receipts_get(sim->receipts, &plan);
    receipt_plan_put_json(&body, &plan);
    reply_buf(req, &body);
}

/* Where receipts go may have a secret in its path or query: it is not logged. */
static void set_receipts(struct sim *sim, const struct receipt_plan *plan)
{
    struct receipt_plan shown = *plan;
    struct buf text = {0};

    receipts_set(sim->receipts, plan);
    if (*shown.url)
        snprintf(shown.url, sizeof(shown.url), "***");
    receipt_plan_put_json(&text, &shown);
    log_info("receipts.set", L_STR("receipts", text.failed ? "" : text.data));
    buf_free(&text);
}

void control_get_receipts(struct httpd_request *req, void *arg)
{
    reply_receipts(arg, req);
}

void control_put_receipts(struct httpd_request *req, void *arg)
{
    struct sim *sim = arg;
    struct receipt_plan plan;
    char why[200];
    size_t n;
    const char *body = httpd_body(req, &n);

    if (receipt_plan_parse(body, n, &plan, why, sizeof(why))) {
        set_receipts(sim, &plan);
        reply_receipts(sim, req);
    } else {
        httpd_reply_error(req, 400, "invalid_input", why, NULL);
    }
}

void control_delete_receipts(struct httpd_request *req, void *arg)
{
    struct sim *sim = arg;
    struct receipt_plan none;

    receipt_plan_none(&none);
    set_receipts(sim, &none);
    reply_receipts(sim, req);
}

void control_receipts_count(struct httpd_request *req, void *arg)
{
    struct sim *sim = arg;
    struct receipts_counts c = receipts_counts(sim->receipts);
    struct buf body = {0};

    buf_printf(&body,
               "{\"waiting\":%" PRIu64 ",\"in_flight\":%" PRIu64 ",\"taken\":%" PRIu64
               ",\"given_up\":%" PRIu64 ",\"again\":%" PRIu64 ",\"forged_taken\":%" PRIu64
               ",\"forged_refused\":%" PRIu64 ",\"dropped\":%" PRIu64 "}",
               c.waiting, c.in_flight, c.taken, c.given_up, c.again, c.forged_taken,
               c.forged_refused, c.dropped);
    reply_buf(req, &body);
}
