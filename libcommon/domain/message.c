#include "libcommon/domain/message.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/json_size.h"
#include "libcommon/base/utf8.h"
#include "libcommon/domain/message_internal.h"

#define VALUES_MAX (MESSAGE_RECIPIENTS_MAX + 64) /* of a message's document */

static const char *const type_names[] = {
    [MESSAGE_NORMAL] = "normal", [MESSAGE_EXPRESS] = "express"};

const char *message_type_name(enum message_type type)
{
    return type_names[type];
}

bool message_type_parse(const char *name, enum message_type *type)
{
    for (int i = 0; i < MESSAGE_LANES; i++)
        if (!strcmp(name, type_names[i]))
            return *type = (enum message_type)i, true;
    return false;
}

int message_priority(enum message_type type)
{
    return type == MESSAGE_EXPRESS ? 10 : 0;
}

bool message_text_ok(const char *s, size_t n)
{
    return n > 0 && n <= MESSAGE_TEXT_MAX && utf8_ok(s, n);
}

bool message_recipient_ok(const char *s, size_t n)
{
    size_t i = n && s[0] == '+' ? 1 : 0;

    if (n > MESSAGE_RECIPIENT_MAX || i == n)
        return false;
    for (; i < n; i++)
        if (s[i] < '0' || s[i] > '9')
            return false;
    return true;
}

void message_put_json(struct buf *out, const struct message *m)
{
    buf_puts(out, "{\"customer_id\":");
    buf_put_int(out, m->customer_id);
    buf_puts(out, ",\"text\":");
    buf_put_json(out, m->text, m->text_len);
    buf_puts(out, ",\"recipients\":[");
    for (size_t i = 0; i < m->recipient_count; i++) {
        if (i)
            buf_putc(out, ',');
        buf_put_json(out, m->recipients[i], strlen(m->recipients[i]));
    }
    buf_puts(out, "],\"type\":\"");
    buf_puts(out, message_type_name(m->type));
    buf_puts(out, "\",\"transaction_id\":\"");
    buf_puts(out, m->transaction_id);
    buf_puts(out, "\",\"message_identifier\":\"");
    buf_puts(out, m->id);
    buf_puts(out, "\"}");
}

/* What message_free releases: the parsed document, and the array that points into it. */
struct owned {
    json_t *root;
    const char *recipients[];
};

static bool copy_id(const json_t *value, char *out, size_t size)
{
    const char *s = json_string_value(value);
    size_t n = s ? json_string_length(value) : 0;

    if (!n || n >= size)
        return false;
    for (size_t i = 0; i < n; i++)
        if (s[i] <= 0x20 || s[i] > 0x7e || s[i] == '\'' || s[i] == '"' || s[i] == '\\')
            return false;
    memcpy(out, s, n + 1);
    return true;
}

static const char *take_fields(const json_t *root, struct message *m, struct owned *owned)
{
    const json_t *customer = json_object_get(root, "customer_id");
    const json_t *text = json_object_get(root, "text");
    const json_t *type = json_object_get(root, "type");
    const json_t *list = json_object_get(root, "recipients");

    if (!json_is_integer(customer) || json_integer_value(customer) <= 0)
        return "customer_id is not a positive number";
    m->customer_id = json_integer_value(customer);
    if (!json_is_string(text) ||
        !message_text_ok(json_string_value(text), json_string_length(text)))
        return "text is missing or malformed";
    m->text = json_string_value(text);
    m->text_len = json_string_length(text);
    if (!json_is_string(type) || !message_type_parse(json_string_value(type), &m->type))
        return "type is not known";
    if (!copy_id(json_object_get(root, "message_identifier"), m->id, sizeof(m->id)))
        return "message_identifier is missing or malformed";
    if (!copy_id(json_object_get(root, "transaction_id"), m->transaction_id,
                 sizeof(m->transaction_id)))
        return "transaction_id is missing or malformed";
    m->recipient_count = json_array_size(list);
    for (size_t i = 0; i < m->recipient_count; i++) {
        const json_t *r = json_array_get(list, i);

        if (!json_is_string(r) ||
            !message_recipient_ok(json_string_value(r), json_string_length(r)))
            return "a recipient is malformed";
        owned->recipients[i] = json_string_value(r);
    }
    m->recipients = owned->recipients;
    return NULL;
}

int message_from_json(json_t *root, struct message *out, struct err *err)
{
    size_t count = json_array_size(json_object_get(root, "recipients"));
    struct owned *owned;
    struct message m = {0};
    const char *wrong;

    if (!json_is_object(root) || count == 0 || count > MESSAGE_RECIPIENTS_MAX)
        return err_set(err, ERR_PERMANENT, 0, "no recipients");
    owned = malloc(sizeof(*owned) + count * sizeof(owned->recipients[0]));
    if (!owned)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    owned->root = json_incref(root);
    m.owned = owned;
    wrong = take_fields(root, &m, owned);
    if (wrong) {
        message_free(&m);
        return err_set(err, ERR_PERMANENT, 0, "%s", wrong);
    }
    *out = m;
    return 0;
}

json_t *message_load(const char *json, size_t n)
{
    if (n > MESSAGE_JSON_MAX || json_surplus(json, n, VALUES_MAX))
        return NULL;
    return json_loadb(json, n, JSON_REJECT_DUPLICATES, NULL);
}

int message_decode(const char *json, size_t n, struct message *out, struct err *err)
{
    json_t *root = message_load(json, n);
    int rc = root ? message_from_json(root, out, err) : err_set(err, ERR_PERMANENT, 0, "not JSON");

    json_decref(root);
    return rc;
}

void message_free(struct message *m)
{
    struct owned *owned = m->owned;

    if (owned)
        json_decref(owned->root);
    free(owned);
    *m = (struct message){0};
}

void message_put_payload(struct buf *out, const struct message *m, const char *exchange,
                         const char *routing_key, const char *traceparent, const char *tracestate,
                         int64_t accepted_us)
{
    buf_puts(out, "{\"exchange\":");
    buf_put_json(out, exchange, strlen(exchange));
    buf_puts(out, ",\"routing_key\":");
    buf_put_json(out, routing_key, strlen(routing_key));
    buf_puts(out, ",\"message\":");
    message_put_json(out, m);
    buf_puts(out, ",\"transaction_id\":\"");
    buf_puts(out, m->transaction_id);
    buf_puts(out, "\",\"traceparent\":");
    buf_put_json(out, traceparent, strlen(traceparent));
    buf_puts(out, ",\"tracestate\":");
    buf_put_json(out, tracestate, strlen(tracestate));
    buf_puts(out, ",\"accepted_us\":");
    buf_put_int(out, accepted_us);
    buf_putc(out, '}');
}
