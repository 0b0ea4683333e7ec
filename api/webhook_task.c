#include "api/webhook_task.h"

#include <errno.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/domain/webhook_store.h"

#define REPLAY_CHUNK 5000
#define REPLAY_CHUNKS 20 /* in one request */

bool webhook_task_changes(const struct webhook_task *task)
{
    return task->act != WEBHOOK_LIST && task->act != WEBHOOK_SHOW && task->act != WEBHOOK_ATTEMPTS;
}

/* ---- reading ---- */

static bool refuse(struct webhook_fault *fault, const char *field, const char *message)
{
    *fault = (struct webhook_fault){"invalid_input", message, field};
    return false;
}

static bool take_customer(struct webhook_task *task, const json_t *root, int64_t otherwise,
                          struct webhook_fault *fault)
{
    const json_t *v = json_object_get(root, "user_id");

    if (!v && !otherwise)
        return refuse(fault, "user_id", "This field is required.");
    if (v && (!json_is_integer(v) || json_integer_value(v) <= 0))
        return refuse(fault, "user_id", "Must be a positive whole number.");
    task->customer_id = v ? json_integer_value(v) : otherwise;
    return true;
}

/* A NUL in a string ends no word. */
static const char *text_of(const json_t *v)
{
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
        return NULL;
    return json_string_value(v);
}

static bool take_url(struct webhook_task *task, const json_t *root, struct webhook_fault *fault)
{
    const json_t *v = json_object_get(root, "url");
    const char *url = text_of(v);
    const char *why = url ? webhook_url_fault(url) : "Must be a string.";

    if (!v)
        return refuse(fault, "url", "This field is required.");
    if (why)
        return refuse(fault, "url", why);
    memcpy(task->url, url, strlen(url) + 1);
    return true;
}

static bool take_events(struct webhook_task *task, const json_t *root, struct webhook_fault *fault)
{
    const json_t *v = json_object_get(root, "events");

    task->kinds = v ? 0 : WEBHOOK_CHOICES;
    for (size_t i = 0; v && i < json_array_size(v); i++) {
        const char *name = text_of(json_array_get(v, i));
        enum webhook_kind kind;

        if (!name || !webhook_kind_parse(name, &kind))
            return refuse(fault, "events",
                          "Must be a list of message.done, message.failed, message.delivered, "
                          "message.undelivered and balance.low.");
        task->kinds |= WEBHOOK_BIT(kind);
    }
    return task->kinds ? true : refuse(fault, "events", "Must be a list of at least one event.");
}

static bool take_batch(struct webhook_task *task, const json_t *root, struct webhook_fault *fault)
{
    const json_t *v = json_object_get(root, "batch");

    if (v && (!json_is_integer(v) || json_integer_value(v) < 1 ||
              json_integer_value(v) > WEBHOOK_BATCH_MAX))
        return refuse(fault, "batch", "Must be a whole number from 1 to 100.");
    task->batch = v ? (unsigned)json_integer_value(v) : 1;
    return true;
}

bool webhook_task_parse(struct webhook_task *task, const char *body, size_t n, int64_t customer_id,
                        struct webhook_fault *fault)
{
    json_t *root = json_loadb(body, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    bool ok;

    *fault = (struct webhook_fault){.code = "invalid_json"};
    if (!json_is_object(root)) {
        fault->message = root ? "The body must be a JSON object." : "The body is not JSON.";
        json_decref(root);
        return false;
    }
    ok = take_customer(task, root, customer_id, fault) && take_url(task, root, fault) &&
         take_events(task, root, fault) && take_batch(task, root, fault);
    json_decref(root);
    return ok;
}

bool webhook_task_path(const char *tail, uint64_t *id, const char **word)
{
    char *end;

    if (*tail < '1' || *tail > '9')
        return false;
    errno = 0;
    *id = strtoull(tail, &end, 10);
    if (errno || *id > INT64_MAX || (*end && *end != '/') || (*end == '/' && !end[1]))
        return false;
    *word = *end ? end + 1 : end;
    return true;
}

/* ---- answering ---- */

static void put_time(struct buf *out, const char *name, int64_t us)
{
    buf_printf(out, ",\"%s\":", name);
    if (!us) {
        buf_puts(out, "null");
        return;
    }
    buf_putc(out, '"');
    clock_put_rfc3339(out, us);
    buf_putc(out, '"');
}

struct listing {
    struct buf *out;
    size_t n;
    uint64_t last;
    const char *secret; /* shown with the row; NULL: not */
};

static void put_row(const struct webhook_row *row, void *arg)
{
    struct listing *l = arg;

    if (l->n++)
        buf_putc(l->out, ',');
    buf_printf(l->out, "{\"id\":%llu,\"url\":", (unsigned long long)row->id);
    buf_put_json(l->out, row->url, strlen(row->url));
    buf_puts(l->out, ",\"events\":[");
    webhook_put_kinds(l->out, row->kinds);
    buf_printf(l->out, "],\"batch\":%u,\"status\":\"%s\"", row->batch,
               row->disabled_us ? "disabled" : "enabled");
    if (row->disabled_us)
        buf_printf(l->out, ",\"disabled_for\":\"%s\"", row->disabled_for);
    put_time(l->out, "created_at", row->created_us);
    put_time(l->out, "disabled_at", row->disabled_us);
    put_time(l->out, "failing_since", row->failing_us);
    put_time(l->out, "old_secret_until", row->old_secret_us);
    if (l->secret)
        buf_printf(l->out, ",\"secret\":\"%s\"", l->secret);
    buf_putc(l->out, '}');
}

/* One endpoint as it is now. */
static int put_one(struct db *db, const struct webhook_task *task, uint64_t id, const char *secret,
                   struct buf *out, enum webhook_answer *answer, struct err *err)
{
    struct listing l = {.out = out, .secret = secret};

    if (webhook_store_each(db, task->customer_id, id, put_row, &l, err))
        return -1;
    if (!l.n)
        *answer = WEBHOOK_ABSENT;
    return 0;
}

static int list(struct db *db, const struct webhook_task *task, struct buf *out, struct err *err)
{
    struct listing l = {.out = out};

    buf_puts(out, "{\"webhooks\":[");
    if (webhook_store_each(db, task->customer_id, 0, put_row, &l, err))
        return -1;
    buf_puts(out, "]}");
    return 0;
}

/* With the secret, which is shown this once. */
static int put_with_secret(struct db *db, const struct webhook_task *task, uint64_t id,
                           const struct webhook_secret *secret, struct buf *out,
                           enum webhook_answer *answer, struct err *err)
{
    struct buf text = {0};
    int rc;

    webhook_secret_put(&text, secret);
    rc = text.failed ? err_set(err, ERR_UNKNOWN, 0, "out of memory")
                     : put_one(db, task, id, text.data, out, answer, err);
    if (rc)
        err->kind = ERR_UNKNOWN; /* the change is made */
    if (text.data)
        OPENSSL_cleanse(text.data, text.len);
    buf_free(&text);
    return rc;
}

static int create(struct db *db, const struct webhook_task *task, struct buf *out,
                  enum webhook_answer *answer, struct err *err)
{
    const struct webhook_wish wish = {.customer_id = task->customer_id,
                                      .url = task->url,
                                      .kinds = task->kinds,
                                      .batch = task->batch};
    struct webhook_secret secret;
    uint64_t id;
    int rc;

    webhook_secret_new(&secret);
    rc = webhook_store_create(db, &wish, &secret, task->most, &id, err);
    if (!rc && !id)
        *answer = WEBHOOK_FULL;
    else if (!rc)
        rc = put_with_secret(db, task, id, &secret, out, answer, err);
    OPENSSL_cleanse(&secret, sizeof(secret));
    return rc;
}

static int rotate(struct db *db, const struct webhook_task *task, struct buf *out,
                  enum webhook_answer *answer, struct err *err)
{
    struct webhook_secret secret;
    bool found = false;
    int rc;

    webhook_secret_new(&secret);
    rc = webhook_store_rotate(db, task->customer_id, task->id, &secret, task->grace_sec, &found,
                              err);
    if (!rc && !found)
        *answer = WEBHOOK_ABSENT;
    else if (!rc)
        rc = put_with_secret(db, task, task->id, &secret, out, answer, err);
    OPENSSL_cleanse(&secret, sizeof(secret));
    return rc;
}

static int remove_one(struct db *db, const struct webhook_task *task, struct buf *out,
                      enum webhook_answer *answer, struct err *err)
{
    bool found = false;

    if (webhook_store_remove(db, task->customer_id, task->id, &found, err))
        return -1;
    buf_printf(out, "{\"id\":%llu,\"status\":\"deleted\"}", (unsigned long long)task->id);
    *answer = found ? WEBHOOK_ANSWERED : WEBHOOK_ABSENT;
    return 0;
}

static int enable(struct db *db, const struct webhook_task *task, struct buf *out,
                  enum webhook_answer *answer, struct err *err)
{
    bool found = false;

    if (webhook_store_enable(db, task->customer_id, task->id, &found, err))
        return -1;
    *answer = found ? WEBHOOK_ANSWERED : WEBHOOK_ABSENT;
    return found ? put_one(db, task, task->id, NULL, out, answer, err) : 0;
}

/* What has been put back into the queue stays in it, whatever becomes of the rest. */
static int replay(struct db *db, const struct webhook_task *task, struct buf *out,
                  enum webhook_answer *answer, struct err *err)
{
    uint64_t sum = 0;
    uint64_t count = REPLAY_CHUNK;
    bool found = true;

    for (int i = 0; i < REPLAY_CHUNKS && found && count == REPLAY_CHUNK; i++) {
        if (webhook_store_replay(db, task->customer_id, task->id, task->from_us, REPLAY_CHUNK,
                                 &count, &found, err))
            return -1;
        sum += count;
    }
    buf_printf(out, "{\"id\":%llu,\"replayed\":%llu,\"complete\":%s}", (unsigned long long)task->id,
               (unsigned long long)sum, count < REPLAY_CHUNK ? "true" : "false");
    *answer = found ? WEBHOOK_ANSWERED : WEBHOOK_ABSENT;
    return 0;
}

static void put_attempt(const struct webhook_attempt *a, void *arg)
{
    struct listing *l = arg;

    if (l->n++)
        buf_putc(l->out, ',');
    l->last = a->call_no;
    buf_printf(l->out, "{\"number\":%llu", (unsigned long long)a->call_no);
    put_time(l->out, "at", a->at_us);
    buf_puts(l->out, ",\"event_id\":");
    buf_put_json(l->out, a->event_id, strlen(a->event_id));
    buf_printf(l->out, ",\"events\":%u,\"result\":\"%s\",\"status\":", a->events, a->result);
    if (a->status)
        buf_put_uint(l->out, a->status);
    else
        buf_puts(l->out, "null");
    buf_printf(l->out, ",\"took_ms\":%lld}", (long long)a->took_ms);
}

static int attempts(struct db *db, const struct webhook_task *task, struct buf *out,
                    enum webhook_answer *answer, struct err *err)
{
    struct listing l = {.out = out};
    bool found = false;

    buf_puts(out, "{\"attempts\":[");
    if (webhook_store_attempts(db, task->customer_id, task->id, (uint64_t)task->before,
                               (uint64_t)task->limit, put_attempt, &l, &found, err))
        return -1;
    if (l.n == (size_t)task->limit)
        buf_printf(out, "],\"next_cursor\":\"%llu\"}", (unsigned long long)l.last);
    else
        buf_puts(out, "],\"next_cursor\":null}");
    *answer = found ? WEBHOOK_ANSWERED : WEBHOOK_ABSENT;
    return 0;
}

void webhook_task_register(void)
{
    webhook_store_register();
}

int webhook_task_run(struct db *db, const struct webhook_task *task, struct buf *out,
                     enum webhook_answer *answer, struct err *err)
{
    *answer = WEBHOOK_ANSWERED;
    switch (task->act) {
    case WEBHOOK_CREATE:
        return create(db, task, out, answer, err);
    case WEBHOOK_LIST:
        return list(db, task, out, err);
    case WEBHOOK_SHOW:
        return put_one(db, task, task->id, NULL, out, answer, err);
    case WEBHOOK_REMOVE:
        return remove_one(db, task, out, answer, err);
    case WEBHOOK_ATTEMPTS:
        return attempts(db, task, out, answer, err);
    case WEBHOOK_REPLAY:
        return replay(db, task, out, answer, err);
    case WEBHOOK_ROTATE:
        return rotate(db, task, out, answer, err);
    case WEBHOOK_ENABLE:
        return enable(db, task, out, answer, err);
    }
    return err_set(err, ERR_BUG, 0, "webhooks: nobody knows what is asked");
}

/* ---- of a message ---- */

static void put_told(const struct webhook_told *t, void *arg)
{
    const char *position = strrchr(t->subject, '-');
    struct listing *l = arg;

    if (l->n++)
        buf_putc(l->out, ',');
    buf_puts(l->out, "{\"id\":\"");
    webhook_put_id(l->out, t->subject, t->kind);
    buf_printf(l->out, "\",\"type\":\"%s\",\"position\":%lu", webhook_kind_name(t->kind),
               position ? strtoul(position + 1, NULL, 10) : 0);
    put_time(l->out, "timestamp", t->created_us);
    buf_printf(l->out, ",\"webhook_id\":%llu,\"attempts\":%u", (unsigned long long)t->webhook_id,
               t->attempts);
    put_time(l->out, "delivered_at", t->delivered_us);
    put_time(l->out, "next_attempt_at", t->next_us);
    buf_putc(l->out, '}');
}

int webhook_task_put_told(struct db *db, int64_t customer_id, const char *message_id, int64_t most,
                          struct buf *out, struct err *err)
{
    struct listing l = {.out = out};

    buf_puts(out, ",\"events\":[");
    if (webhook_store_told(db, customer_id, message_id, (uint64_t)most, put_told, &l, err))
        return -1;
    buf_putc(out, ']');
    return 0;
}
