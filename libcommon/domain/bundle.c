#include "libcommon/domain/bundle.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/domain/message_internal.h"

static const char head[] = "{\"messages\":[";
static const char tail[] = "]}";

/* ---- writing ---- */

void bundle_begin(struct buf *out)
{
    buf_reset(out);
    buf_puts(out, head);
}

/* Escaped, a byte takes six at most; around them stand the names. */
static size_t size_of(const struct bundle_entry *e)
{
    return e->body_len + 6 * (strlen(e->traceparent) + strlen(e->tracestate)) + 100;
}

/* What a member has of its own is written behind the body's last field. */
bool bundle_takes(const struct bundle_entry *e)
{
    return e->body_len > 2 && e->body[e->body_len - 1] == '}' &&
           sizeof(head) - 1 + size_of(e) <= BUNDLE_BYTES_MAX;
}

size_t bundle_size_with(const struct buf *out, const struct bundle_entry *e)
{
    return out->len + size_of(e);
}

void bundle_add(struct buf *out, const struct bundle_entry *e)
{
    MUST(e->body_len > 2 && e->body[e->body_len - 1] == '}');
    if (out->len > sizeof(head) - 1)
        buf_putc(out, ',');
    buf_put(out, e->body, e->body_len - 1);
    buf_puts(out, ",\"traceparent\":");
    buf_put_json(out, e->traceparent, strlen(e->traceparent));
    buf_puts(out, ",\"tracestate\":");
    buf_put_json(out, e->tracestate, strlen(e->tracestate));
    buf_puts(out, ",\"accepted_us\":");
    buf_put_int(out, e->accepted_us);
    buf_putc(out, '}');
}

void bundle_end(struct buf *out)
{
    buf_puts(out, tail);
}

/* ---- reading ---- */

struct text {
    const char *at, *end;
};

/* The end of the value that begins at s: where a comma or bracket stands that is not inside it. Cut
 * out as text, a member that is no JSON spoils none of its neighbours. */
static const char *end_of_value(const char *s, const char *end)
{
    bool quoted = false;
    int depth = 0;

    for (; s < end; s++) {
        if (quoted) {
            if (*s == '\\')
                s++;
            else if (*s == '"')
                quoted = false;
        } else if (*s == '"') {
            quoted = true;
        } else if (*s == '{' || *s == '[') {
            depth++;
        } else if ((*s == '}' || *s == ']') && depth) {
            depth--;
        } else if (!depth && (*s == ',' || *s == ']')) {
            return s;
        }
    }
    return end;
}

static bool open_list(struct text *t, const char *json, size_t n)
{
    size_t around = sizeof(head) + sizeof(tail) - 2;

    if (n <= around || memcmp(json, head, sizeof(head) - 1) != 0 ||
        memcmp(json + n - (sizeof(tail) - 1), tail, sizeof(tail) - 1) != 0)
        return false;
    *t = (struct text){json + sizeof(head) - 1, json + n - (sizeof(tail) - 1)};
    return true;
}

/* How many members there are; one more than there may be: too many. */
static size_t cut_members(const struct text *list, struct text members[BUNDLE_MESSAGES_MAX])
{
    const char *at = list->at;
    size_t n = 0;

    for (; at < list->end && n < BUNDLE_MESSAGES_MAX; n++) {
        members[n] = (struct text){at, end_of_value(at, list->end)};
        at = members[n].end + 1;
    }
    return at < list->end ? n + 1 : n;
}

static const char *text_of(const json_t *member, const char *name)
{
    const char *s = json_string_value(json_object_get(member, name));

    return s ? s : "";
}

static bool give_one(const struct text *text, bundle_member_fn *fn, void *arg)
{
    struct bundle_member m = {.json = text->at, .json_len = (size_t)(text->end - text->at)};
    json_t *root = message_load(m.json, m.json_len);
    struct message message;
    struct err err = {0};
    bool on;

    if (!root)
        m.why = "not JSON";
    else if (!message_from_json(root, &message, &err))
        m.message = &message;
    else if (err.kind == ERR_PERMANENT)
        m.why = err.msg;
    m.id = text_of(root, "message_identifier");
    m.traceparent = text_of(root, "traceparent");
    m.tracestate = text_of(root, "tracestate");
    m.accepted_us = json_integer_value(json_object_get(root, "accepted_us"));
    on = (m.message || m.why) && fn(&m, arg);
    if (m.message)
        message_free(&message);
    json_decref(root);
    return on;
}

int bundle_read(unsigned version, const char *json, size_t n, bundle_member_fn *fn, void *arg,
                struct err *err)
{
    struct text members[BUNDLE_MESSAGES_MAX];
    struct text list;
    size_t n_members;

    if (version != BUNDLE_VERSION)
        return err_set(err, ERR_PERMANENT, 0, "a bundle of version %u", version);
    if (!open_list(&list, json, n))
        return err_set(err, ERR_PERMANENT, 0, "not a bundle with members");
    n_members = cut_members(&list, members);
    if (n_members > BUNDLE_MESSAGES_MAX)
        return err_set(err, ERR_PERMANENT, 0, "a bundle of too many members");
    for (size_t i = 0; i < n_members; i++)
        if (!give_one(&members[i], fn, arg))
            return err_set(err, ERR_RETRY, 0, "a bundle's member could not be taken");
    return 0;
}

bool bundle_put_alone(struct buf *out, const char *json, size_t n)
{
    json_t *root = message_load(json, n);
    char *text = NULL;

    if (json_is_object(root)) {
        json_object_del(root, "traceparent");
        json_object_del(root, "tracestate");
        json_object_del(root, "accepted_us");
        text = json_dumps(root, JSON_COMPACT);
    }
    if (text)
        buf_puts(out, text);
    else
        buf_put(out, json, n);
    free(text);
    json_decref(root);
    return !out->failed;
}
