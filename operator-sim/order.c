#include "operator-sim/order.h"

#include <string.h>

#include "operator-sim/receipt_plan.h"

static bool word_ok(const char *s, size_t n, size_t most)
{
    static const char others[] = "-_.";

    for (size_t i = 0; i < n; i++)
        if ((unsigned)((s[i] | 0x20) - 'a') >= 26 && (unsigned)(s[i] - '0') >= 10 &&
            !memchr(others, s[i], sizeof(others) - 1))
            return false;
    return n && n <= most;
}

bool order_reference_ok(const char *s, size_t n)
{
    return word_ok(s, n, LEDGER_REFERENCE_MAX);
}

/* Each of the four says whether the field is as it must be. */

static bool take_reference(struct order *o, const char *s, size_t n)
{
    if (!s || !order_reference_ok(s, n))
        return false;
    memcpy(o->reference, s, n);
    o->reference[n] = '\0';
    return true;
}

static bool take_to(struct order *o, const char *s, size_t n)
{
    if (!s || !message_recipient_ok(s, n))
        return false;
    memcpy(o->to, s, n);
    o->to[n] = '\0';
    return true;
}

static bool take_text(struct order *o, const char *s, size_t n)
{
    o->text = s;
    o->text_len = n;
    return s && message_text_ok(s, n);
}

static bool take_type(struct order *o, const char *s, size_t n)
{
    char name[16];

    if (!s || n >= sizeof(name))
        return false;
    memcpy(name, s, n);
    name[n] = '\0';
    return message_type_parse(name, &o->type);
}

static const struct field {
    const char *name;
    size_t len;
    bool (*take)(struct order *o, const char *s, size_t n);
} fields[] = {
    {"reference", 9, take_reference},
    {"to", 2, take_to},
    {"text", 4, take_text},
    {"type", 4, take_type},
};
#define FIELDS (sizeof(fields) / sizeof(fields[0]))

/* ---- in one look ---- */

struct scan {
    const char *at, *end;
};

static void skip_blanks(struct scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
}

static bool take(struct scan *s, char c)
{
    skip_blanks(s);
    if (s->at == s->end || *s->at != c)
        return false;
    s->at++;
    return true;
}

/* A string in which nothing is escaped; what is in it besides is for the fields to judge. */
static bool plain_string(struct scan *s, const char **text, size_t *n)
{
    if (!take(s, '"'))
        return false;
    *text = s->at;
    while (s->at < s->end && *s->at != '"' && *s->at != '\\' && (unsigned char)*s->at >= ' ')
        s->at++;
    *n = (size_t)(s->at - *text);
    return s->at < s->end && *s->at++ == '"';
}

static const struct field *find_field(const char *name, size_t n)
{
    for (size_t i = 0; i < FIELDS; i++)
        if (fields[i].len == n && !memcmp(fields[i].name, name, n))
            return &fields[i];
    return NULL;
}

bool order_look(const char *body, size_t n, struct order *o)
{
    struct scan s = {body, body + n};
    unsigned seen = 0;

    o->json = NULL;
    o->receipt_url = o->receipt_reference = NULL;
    if (!take(&s, '{'))
        return false;
    do {
        const struct field *field;
        const char *text;
        size_t len;

        if (!plain_string(&s, &text, &len))
            return false;
        field = find_field(text, len);
        if (!field || seen & 1u << (field - fields) || !take(&s, ':') ||
            !plain_string(&s, &text, &len) || !field->take(o, text, len))
            return false;
        seen |= 1u << (field - fields);
    } while (take(&s, ','));
    if (!take(&s, '}'))
        return false;
    skip_blanks(&s);
    return s.at == s.end && seen == (1u << FIELDS) - 1;
}

/* ---- as JSON ---- */

/* NULL: each is as it must be, or not there. */
static const char *take_receipt_fields(struct order *o)
{
    const json_t *url = json_object_get(o->json, "receipt_url");
    const json_t *reference = json_object_get(o->json, "receipt_reference");

    o->receipt_url = json_string_value(url);
    if (url && (!o->receipt_url || strlen(o->receipt_url) != json_string_length(url) ||
                !receipt_url_ok(o->receipt_url)))
        return "receipt_url";
    o->receipt_reference = json_string_value(reference);
    if (reference &&
        (!o->receipt_reference ||
         !word_ok(o->receipt_reference, json_string_length(reference), RECEIPT_REFERENCE_MAX)))
        return "receipt_reference";
    return NULL;
}

const char *order_parse(const char *body, size_t n, struct order *o)
{
    o->json = json_loadb(body, n, JSON_REJECT_DUPLICATES, NULL);
    if (!o->json)
        return "body";
    for (size_t i = 0; i < FIELDS; i++) {
        const json_t *value = json_object_get(o->json, fields[i].name);

        if (!fields[i].take(o, json_string_value(value), json_string_length(value)))
            return fields[i].name;
    }
    return take_receipt_fields(o);
}

const char *order_read(const char *body, size_t n, struct order *o)
{
    return order_look(body, n, o) ? NULL : order_parse(body, n, o);
}

void order_free(struct order *o)
{
    json_decref(o->json);
    o->json = NULL;
}
