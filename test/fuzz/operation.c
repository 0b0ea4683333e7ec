/*
 * A body of POST /messages/send and of POST /balance/add: what is accepted is what jansson reads
 * out of the same bytes, what is refused is refused in words that fit into an answer, and an
 * accepted send goes through outbox, broker and bundle as it is.
 */

#include <jansson.h>
#include <stdlib.h>

#include "api/operation.h"
#include "libcommon/base/utf8.h"
#include "libcommon/domain/bundle.h"
#include "libcommon/domain/ledger.h"
#include "outboxd/payload.h"
#include "test/fuzz/fuzz.h"

#define MAX_RECIPIENTS 50
#define BOUND 7
#define TRACEPARENT "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

static const struct price_settings prices = {.of = {[MESSAGE_NORMAL] = 1, [MESSAGE_EXPRESS] = 3}};
static const struct operation_limits limits = {.max_recipients = MAX_RECIPIENTS, .prices = &prices};

/* ---- what jansson says ---- */

static bool is_number(const json_t *v)
{
    return json_is_integer(v) && json_integer_value(v) > 0;
}

static bool is_type(const json_t *v)
{
    const char *s = json_string_value(v);

    return !v || (s && strlen(s) == json_string_length(v) &&
                  (!strcmp(s, "normal") || !strcmp(s, "express")));
}

static bool is_send(const json_t *root)
{
    const json_t *text = json_object_get(root, "text");
    const json_t *list = json_object_get(root, "recipients");
    size_t i;
    json_t *v;

    if (!is_number(json_object_get(root, "customer_id")) || !json_is_string(text) ||
        !message_text_ok(json_string_value(text), json_string_length(text)) ||
        !is_type(json_object_get(root, "type")) || !json_is_array(list) ||
        json_array_size(list) < 1 || json_array_size(list) > MAX_RECIPIENTS)
        return false;
    json_array_foreach(list, i, v) if (!json_is_string(v) ||
                                       !message_recipient_ok(json_string_value(v),
                                                             json_string_length(v))) return false;
    return true;
}

static bool is_topup(const json_t *root)
{
    const json_t *v = json_object_get(root, "description");
    const json_t *amount = json_object_get(root, "balance");

    return is_number(json_object_get(root, "user_id")) && is_number(amount) &&
           json_integer_value(amount) <= LEDGER_TOPUP_MAX &&
           (!v || json_is_null(v) ||
            (json_is_string(v) && json_string_length(v) <= OPERATION_DESCRIPTION_MAX &&
             strlen(json_string_value(v)) == json_string_length(v)));
}

/* ---- what is refused ---- */

static void check_fault(const struct operation_fault *fault)
{
    MUST(fault->code && *fault->code && *fault->message);
    MUST(utf8_ok(fault->message, strlen(fault->message)));
    MUST(!fault->field || strlen(fault->field) < sizeof(fault->named));
}

/* ---- what is accepted ---- */

static bool check_member(const struct bundle_member *m, void *arg)
{
    MUST(m->message && !m->why && m->accepted_us == 7);
    fuzz_same_message(arg, m->message);
    return true;
}

static void check_journey(struct message *m)
{
    struct buf row = {0};
    struct buf bundle = {0};
    struct bundle_entry entry = {.traceparent = TRACEPARENT, .tracestate = "a=b", .accepted_us = 7};
    struct payload payload;
    struct message read;
    struct err err;

    message_put_payload(&row, m, "exchange", "key", TRACEPARENT, "a=b", 7);
    MUST(!payload_parse(row.data, row.len, &payload, &err));
    MUST(!message_decode(payload.body, payload.body_len, &read, &err));
    fuzz_same_message(m, &read);
    message_free(&read);
    entry.body = payload.body;
    entry.body_len = payload.body_len;
    MUST(bundle_takes(&entry));
    bundle_begin(&bundle);
    bundle_add(&bundle, &entry);
    bundle_end(&bundle);
    MUST(!bundle_read(BUNDLE_VERSION, bundle.data, bundle.len, check_member, m, &err));
    buf_free(&bundle);
    buf_free(&row);
}

static void check_send(const struct operation *op, const json_t *root)
{
    const json_t *list = json_object_get(root, "recipients");
    const json_t *text = json_object_get(root, "text");
    struct message m = op->message;

    MUST(m.customer_id == json_integer_value(json_object_get(root, "customer_id")));
    MUST(m.text_len == json_string_length(text));
    MUST(!memcmp(m.text, json_string_value(text), m.text_len));
    MUST(m.recipient_count >= 1 && m.recipient_count <= json_array_size(list));
    for (size_t i = 0, k = 0; i < m.recipient_count; i++, k++) {
        while (strcmp(m.recipients[i], json_string_value(json_array_get(list, k))) != 0)
            MUST(++k < json_array_size(list)); /* one that is there twice */
        for (size_t j = 0; j < i; j++)
            MUST(strcmp(m.recipients[i], m.recipients[j]) != 0);
    }
    MUST(op->total == (int64_t)m.recipient_count * (m.type == MESSAGE_EXPRESS ? 3 : 1));
    check_journey(&m);
}

static void try_send(const char *body, size_t n, const json_t *root)
{
    struct operation_fault fault;
    struct operation *op = operation_parse_send(body, n, &limits, &fault);

    MUST(!op == !(root && is_send(root)));
    if (op)
        check_send(op, root);
    else
        check_fault(&fault);
    if (op)
        MUST(!operation_set_key(op, "key", &fault));
    operation_free(op);
}

static void try_topup(const char *body, size_t n, const json_t *root)
{
    struct operation_fault fault;
    struct operation *op = operation_parse_topup(body, n, 0, &fault);

    MUST(!op == !(root && is_topup(root)));
    if (op)
        MUST(op->amount == json_integer_value(json_object_get(root, "balance")) &&
             op->customer_id == json_integer_value(json_object_get(root, "user_id")));
    else
        check_fault(&fault);
    operation_free(op);
}

static int64_t customer_of(const json_t *root, const char *field)
{
    const json_t *v = json_object_get(root, field);

    return v ? json_integer_value(v) : BOUND;
}

/* Of a customer's own key: the body need not say whose it is; whom it names is compared later. */
static void try_bound(const char *body, size_t n, const json_t *root)
{
    struct operation_limits bound = limits;
    struct operation_fault fault;
    struct operation *op;

    bound.customer_id = BOUND;
    op = operation_parse_send(body, n, &bound, &fault);
    MUST(!op || (op->customer_id == customer_of(root, "customer_id") &&
                 op->message.customer_id == op->customer_id));
    operation_free(op);
    op = operation_parse_topup(body, n, BOUND, &fault);
    MUST(!op || op->customer_id == customer_of(root, "user_id"));
    operation_free(op);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *body = (const char *)data;
    json_t *root = json_loadb(body, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);

    try_send(body, size, root);
    try_topup(body, size, root);
    try_bound(body, size, root);
    json_decref(root);
    return 0;
}
