#include "outboxd/payload.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A reader of JSON text that the database has stored in a JSON column. It checks what it needs to
 * find its way and no more: the consumer parses the message, and refuses what is not one. */
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

/* From an opening quote to behind the closing one. */
static bool skip_string(struct scan *s)
{
    for (s->at++; s->at < s->end; s->at++) {
        if (*s->at == '\\') {
            if (++s->at == s->end)
                return false;
        } else if (*s->at == '"') {
            s->at++;
            return true;
        }
    }
    return false;
}

/* An object or array: only strings can hide brackets. */
static bool skip_container(struct scan *s)
{
    size_t depth = 0;

    while (s->at < s->end) {
        char c = *s->at;

        if (c == '"') {
            if (!skip_string(s))
                return false;
            continue;
        }
        if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']')
            depth--;
        s->at++;
        if (!depth)
            return true;
    }
    return false;
}

static bool skip_value(struct scan *s)
{
    const char *start = s->at;

    if (s->at == s->end)
        return false;
    if (*s->at == '"')
        return skip_string(s);
    if (*s->at == '{' || *s->at == '[')
        return skip_container(s);
    while (s->at < s->end && !strchr(",}] \t\r\n", *s->at))
        s->at++;
    return s->at > start;
}

/* A JSON string with its quotes into to; false when it is none, too long or holds a NUL. */
static bool copy_string(const char *text, size_t n, char *to, size_t size)
{
    json_t *value = NULL;
    bool ok = false;

    if (n < 2 || text[0] != '"')
        return false;
    if (!memchr(text, '\\', n)) {
        if (n - 2 >= size)
            return false;
        memcpy(to, text + 1, n - 2);
        to[n - 2] = '\0';
        return !memchr(to, '\0', n - 2);
    }
    value = json_loadb(text, n, JSON_DECODE_ANY, NULL);
    if (json_is_string(value) && json_string_length(value) < size) {
        memcpy(to, json_string_value(value), json_string_length(value) + 1);
        ok = true;
    }
    json_decref(value);
    return ok;
}

static int64_t copy_number(const char *text, size_t n)
{
    int64_t value = 0;

    if (!n || n > 18)
        return 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return 0;
        value = value * 10 + (text[i] - '0');
    }
    return value;
}

static bool is_key(const char *key, size_t n, const char *name)
{
    return n == strlen(name) + 2 && !memcmp(key + 1, name, n - 2);
}

/* One member of the payload; a reason when it makes the row unpublishable. */
static const char *take_member(const char *key, size_t key_len, const char *value, size_t n,
                               struct payload *p)
{
    if (is_key(key, key_len, "exchange")) {
        if (!copy_string(value, n, p->exchange, sizeof(p->exchange)) || !*p->exchange)
            return "exchange is not a name";
    } else if (is_key(key, key_len, "routing_key")) {
        if (!copy_string(value, n, p->routing_key, sizeof(p->routing_key)) || !*p->routing_key)
            return "routing_key is not a name";
    } else if (is_key(key, key_len, "message")) {
        if (*value != '{')
            return "message is not an object";
        p->body = value;
        p->body_len = n;
    } else if (is_key(key, key_len, "traceparent")) {
        struct trace_context ignored;

        if (!copy_string(value, n, p->traceparent, sizeof(p->traceparent)) ||
            !trace_parse(p->traceparent, &ignored))
            p->traceparent[0] = '\0';
    } else if (is_key(key, key_len, "tracestate")) {
        if (!copy_string(value, n, p->tracestate, sizeof(p->tracestate)) ||
            !trace_state_ok(p->tracestate, strlen(p->tracestate)))
            p->tracestate[0] = '\0';
    } else if (is_key(key, key_len, "accepted_us")) {
        p->accepted_us = copy_number(value, n);
    }
    return NULL;
}

static const char *take_members(struct scan *s, struct payload *p)
{
    do {
        const char *key, *value, *wrong;
        size_t key_len;

        skip_blanks(s);
        key = s->at;
        if (s->at == s->end || *s->at != '"' || !skip_string(s))
            return "the payload is not a JSON object";
        key_len = (size_t)(s->at - key);
        if (!take(s, ':'))
            return "the payload is not a JSON object";
        skip_blanks(s);
        value = s->at;
        if (!skip_value(s))
            return "the payload is not a JSON object";
        wrong = take_member(key, key_len, value, (size_t)(s->at - value), p);
        if (wrong)
            return wrong;
    } while (take(s, ','));
    return take(s, '}') ? NULL : "the payload is not a JSON object";
}

int payload_parse(const char *json, size_t n, struct payload *out, struct err *err)
{
    struct scan s = {json, json + n};
    const char *wrong;

    out->exchange[0] = out->routing_key[0] = out->traceparent[0] = out->tracestate[0] = '\0';
    out->accepted_us = 0;
    out->body = NULL;
    out->body_len = 0;
    if (!take(&s, '{'))
        return err_set(err, ERR_PERMANENT, 0, "the payload is not a JSON object");
    wrong = take(&s, '}') ? NULL : take_members(&s, out);
    if (!wrong)
        wrong = !*out->exchange      ? "exchange is missing"
                : !*out->routing_key ? "routing_key is missing"
                : !out->body         ? "message is missing"
                                     : NULL;
    return wrong ? err_set(err, ERR_PERMANENT, 0, "%s", wrong) : 0;
}
