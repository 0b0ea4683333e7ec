/*
 * What the keys of a section make together: requests, and whether they fit each other. Part of
 * operator_file.c.
 */

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libcommon/base/must.h"
#include "libcommon/domain/operator_keys.h"

static const char token_chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "!#$%&'*+-.^_`|~";

/* Headers that say how the request is framed, or are the transport's own. */
static const char *const ours[] = {
    "Host",       "Content-Length", "Transfer-Encoding", "Connection",
    "Expect",     "Upgrade",        "Trailer",           "TE",
    "User-Agent", "Accept",         "traceparent",       "tracestate"};

/* The parts of one request. */
struct maker {
    struct operator_draft *d;
    const struct operator_request_draft *from;
    struct operator_request *to;
    const char *prefix; /* of its keys: "" or "lookup." */
    enum operator_place body_place;
    bool has_type;
};

static void key_name(const struct maker *m, const char *key, char out[64])
{
    snprintf(out, 64, "%s%s", m->prefix, key);
}

static bool compile(struct maker *m, const char *key, const struct operator_text *text,
                    enum operator_place place, struct operator_template *out)
{
    char name[64];

    key_name(m, key, name);
    return operator_draft_compile(m->d, name, text, place, OPERATOR_SENDING, out);
}

static void fault(struct maker *m, const char *key, const struct operator_text *text,
                  const char *why)
{
    char name[64];

    key_name(m, key, name);
    operator_draft_fault(m->d, name, text->line, "%s", why);
}

/* ---- URLs ---- */

static const struct operator_values nobody = {
    .text = "", .to = "", .reference = "", .type = "", .receipt_url = "", .signed_reference = ""};

/* Scheme, host and port into out; the template's rest is what the request line names. */
static bool split_url(struct maker *m, char out[OPERATOR_URL_MAX + 1])
{
    const struct operator_text *url = &m->from->url;
    struct operator_template host = {0};
    struct operator_text part = {.line = url->line};
    struct buf whole = {0};
    char *copy = must_strdup(url->value);
    char *authority = strstr(copy, "://");
    char *rest;
    bool known, ok = false;

    authority = authority ? authority + 3 : copy + strlen(copy);
    rest = authority + strcspn(authority, "/?#");
    buf_put(&whole, copy, (size_t)(authority - copy));
    part.value = *rest ? rest : "/";
    if (*rest == '?' || *rest == '#')
        fault(m, "url", url, "needs a path: http://host/path?query");
    else
        compile(m, "url", &part, OPERATOR_IN_URL, &m->to->target);
    *rest = '\0';
    part.value = authority;
    known = compile(m, "url", &part, OPERATOR_IN_HOST, &host);
    operator_template_put(&host, &nobody, &whole);
    if (known && !operator_url_ok(whole.data ? whole.data : "", whole.len))
        fault(m, "url", url, "must be http:// or https:// with a host, without user or fragment");
    else
        ok = known;
    if (ok && whole.data)
        memcpy(out, whole.data, whole.len + 1);
    operator_template_free(&host);
    buf_free(&whole);
    free(copy);
    return ok;
}

/* ---- headers ---- */

static bool is_ours(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
        if (strlen(ours[i]) == n && !strncasecmp(name, ours[i], n))
            return true;
    return false;
}

static bool begins(const char *s, const char *with)
{
    return !strncasecmp(s, with, strlen(with));
}

/* Where a body of this type puts its values. */
static enum operator_place place_of(const char *type)
{
    size_t n = strcspn(type, "; ");
    bool json = begins(type, "application/json") || (n > 5 && begins(type + n - 5, "+json"));
    bool xml = begins(type, "application/xml") || begins(type, "text/xml") ||
               (n > 4 && begins(type + n - 4, "+xml"));

    if (begins(type, "application/x-www-form-urlencoded"))
        return OPERATOR_IN_FORM;
    return json ? OPERATOR_IN_JSON : xml ? OPERATOR_IN_XML : OPERATOR_IN_PLAIN;
}

static void make_header(struct maker *m, const struct operator_text *text)
{
    const char *colon = strchr(text->value, ':');
    size_t n = colon ? (size_t)(colon - text->value) : 0;
    struct operator_template value = {0};
    struct operator_text part = {.line = text->line};

    if (!n || strspn(text->value, token_chars) != n) {
        fault(m, "header", text, "must be Name: value");
        return;
    }
    if (is_ours(text->value, n)) {
        fault(m, "header", text, "is one that every request has already");
        return;
    }
    part.value = colon + 1 + strspn(colon + 1, " \t");
    if (n == 12 && begins(text->value, "Content-Type")) {
        m->has_type = true;
        m->body_place = place_of(part.value);
    }
    compile(m, "header", &part, OPERATOR_IN_HEADER, &value);
    operator_template_add(&m->to->head, text->value, n, false);
    operator_template_add(&m->to->head, ": ", 2, false);
    operator_template_append(&m->to->head, &value);
    operator_template_add(&m->to->head, "\r\n", 2, false);
}

static void put_base64(struct buf *out, const char *s, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < n; i += 3) {
        uint32_t bits = 0;
        size_t have = n - i < 3 ? n - i : 3;

        for (size_t k = 0; k < 3; k++)
            bits = bits << 8 | (k < have ? (unsigned char)s[i + k] : 0);
        for (size_t k = 0; k < 4; k++)
            buf_putc(out, k <= have ? digits[bits >> (18 - 6 * k) & 63] : '=');
    }
}

static void make_credentials(struct maker *m)
{
    struct operator_draft *d = m->d;
    const struct operator_text *text = d->basic.value ? &d->basic : &d->bearer;
    const char *key = d->basic.value ? "basic" : "bearer";
    struct operator_template value = {0};
    struct buf plain = {0}, line = {0};

    if (!text->value || (m->to == &d->op->lookup && d->faults)) /* said already */
        return;
    operator_draft_compile(d, key, text, OPERATOR_IN_HEADER, OPERATOR_SENDING, &value);
    if (!operator_template_is_constant(&value)) {
        operator_draft_fault(d, key, text->line, "must be the same for every message");
    } else {
        operator_template_put(&value, &nobody, &plain);
        if (d->basic.value && !strchr(text->value, ':'))
            operator_draft_fault(d, key, text->line, "must be user:password");
        if (d->basic.value)
            put_base64(&line, plain.data ? plain.data : "", plain.len);
        else
            buf_put(&line, plain.data ? plain.data : "", plain.len);
        operator_template_add(&m->to->head,
                              d->basic.value ? "Authorization: Basic " : "Authorization: Bearer ",
                              d->basic.value ? 21 : 22, false);
        operator_template_add(&m->to->head, line.data ? line.data : "", line.len, true);
        operator_template_add(&m->to->head, "\r\n", 2, false);
    }
    if (plain.data)
        explicit_bzero(plain.data, plain.cap);
    if (line.data)
        explicit_bzero(line.data, line.cap);
    buf_free(&plain);
    buf_free(&line);
    operator_template_free(&value);
}

/* ---- bodies ---- */

/* With values that break out of every place but the inside of a string. */
static bool is_json_with(const struct operator_template *body, const char *hostile)
{
    const struct operator_values values = {.text = hostile,
                                           .text_len = strlen(hostile),
                                           .to = "+123456",
                                           .reference = "018f-1",
                                           .type = "normal",
                                           .receipt_url = hostile,
                                           .signed_reference = "018f-1.00"};
    struct buf rendered = {0};
    json_t *json;

    operator_template_put(body, &values, &rendered);
    json = json_loadb(rendered.data ? rendered.data : "", rendered.len,
                      JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, NULL);
    if (rendered.data)
        explicit_bzero(rendered.data, rendered.cap);
    buf_free(&rendered);
    json_decref(json);
    return json != NULL;
}

static void make_body(struct maker *m)
{
    const struct operator_text *text = &m->from->body;

    if (!text->value)
        return;
    m->to->has_body = true;
    if (!m->has_type) {
        fault(m, "body", text, "needs a header Content-Type");
        return;
    }
    compile(m, "body", text, m->body_place, &m->to->body);
    if (m->body_place == OPERATOR_IN_JSON && m->to->body.count &&
        !(is_json_with(&m->to->body, "a\"b\\") && is_json_with(&m->to->body, ",{}[]")))
        fault(m, "body", text, "is no JSON once its values are filled in");
}

static void make_method(struct maker *m)
{
    static const char *const methods[] = {"GET", "POST", "PUT"};
    const struct operator_text *text = &m->from->method;

    m->to->method = m->from->body.value ? "POST" : "GET";
    if (!text->value)
        return;
    for (size_t i = 0; i < 3; i++)
        if (!strcmp(text->value, methods[i])) {
            m->to->method = methods[i];
            if (!i && m->from->body.value)
                fault(m, "method", text, "must not be GET where there is a body");
            return;
        }
    fault(m, "method", text, "must be GET, POST or PUT");
}

static bool asks(const struct operator_template *t)
{
    return operator_template_uses(t, "receipt_url") ||
           operator_template_uses(t, "signed_reference");
}

static bool make_request(struct maker *m, char url[OPERATOR_URL_MAX + 1])
{
    bool ok = split_url(m, url);

    make_method(m);
    for (size_t i = 0; i < m->from->header_count; i++)
        make_header(m, &m->from->headers[i]);
    make_credentials(m);
    make_body(m);
    m->to->asks_for_receipts = asks(&m->to->target) || asks(&m->to->head) || asks(&m->to->body);
    return ok;
}

/* ---- a section ---- */

static bool has_rule(const struct operator_config *op, enum verdict verdict)
{
    for (size_t i = 0; i < op->rule_count; i++)
        if (op->rules[i].verdict == verdict)
            return true;
    return false;
}

static bool finds(const struct operator_config *op)
{
    for (size_t i = 0; i < op->lookup_rule_count; i++)
        if (op->lookup_rules[i].answer == LOOKUP_FOUND)
            return true;
    return false;
}

static void check_answers(struct operator_draft *d)
{
    struct operator_config *op = d->op;

    if (op->gives_id && !op->id)
        operator_draft_fault(d, NULL, op->line, "needs id, or gives_id = false");
    if (!op->gives_id && op->id)
        operator_draft_fault(d, NULL, op->line, "has both id and gives_id = false");
    if (!op->gives_id && !has_rule(op, VERDICT_ACCEPTED))
        operator_draft_fault(d, NULL, op->line,
                             "needs a rule accepted: without an id nothing else says so");
    if (op->properties.remaining_low && !op->remaining)
        operator_draft_fault(d, NULL, op->line, "has remaining_low, and no remaining");
}

static void finish_lookup(struct operator_draft *d)
{
    struct operator_config *op = d->op;
    struct maker m = {.d = d, .from = &d->lookup, .to = &op->lookup, .prefix = "lookup."};
    const struct operator_request_draft *l = &d->lookup;
    char url[OPERATOR_URL_MAX + 1];

    if (!l->url.value) {
        if (l->method.value || l->body.value || l->header_count || op->lookup_rule_count ||
            op->lookup_id)
            operator_draft_fault(d, NULL, op->line, "has keys lookup.*, and no lookup.url");
        if (d->says_lookup && op->properties.can_lookup)
            operator_draft_fault(d, NULL, op->line, "has can_lookup = true, and no lookup.url");
        return;
    }
    if (!d->says_lookup)
        op->properties.can_lookup = true;
    if (make_request(&m, url) && *op->url && strcmp(url, op->url) != 0)
        operator_draft_fault(d, "lookup.url", l->url.line, "must be at the same host as url");
    if (!finds(op))
        operator_draft_fault(d, NULL, op->line, "needs a rule lookup.found for its lookup.url");
}

static void finish_http(struct operator_draft *d)
{
    struct operator_config *op = d->op;
    struct maker m = {.d = d, .from = &d->submit, .to = &op->submit, .prefix = ""};
    char url[OPERATOR_URL_MAX + 1];

    if (d->basic.value && d->bearer.value)
        operator_draft_fault(d, NULL, op->line, "has both basic and bearer");
    if (make_request(&m, url))
        memcpy(op->url, url, sizeof(url));
    check_answers(d);
    finish_lookup(d);
}

static void finish_native(struct operator_draft *d)
{
    const struct operator_text *url = &d->submit.url;
    size_t n = strlen(url->value);

    while (n && url->value[n - 1] == '/')
        n--;
    if (!operator_url_ok(url->value, n)) {
        operator_draft_fault(d, "url", url->line,
                             "must be http:// or https:// with at most %d characters, without "
                             "user, query or fragment",
                             OPERATOR_URL_MAX);
        return;
    }
    memcpy(d->op->url, url->value, n);
    d->op->url[n] = '\0';
}

void operator_draft_finish(struct operator_draft *d)
{
    if (!d->submit.url.value)
        operator_draft_fault(d, NULL, d->op->line, "needs url");
    else if (d->op->kind == OPERATOR_HTTP)
        finish_http(d);
    else
        finish_native(d);
    operator_receipts_finish(d);
}
