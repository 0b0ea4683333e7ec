#include "consumerd/retry.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/base/backoff.h"
#include "libcommon/base/random.h"

void retry_register(void)
{
    outbox_register();
}

static int by_message(const void *a, const void *b)
{
    return strcmp(((const struct retry *)a)->message->id, ((const struct retry *)b)->message->id);
}

static struct message message_of(const struct retry *r)
{
    const struct inflight *m = r->message;
    struct message out = {
        .customer_id = m->customer_id,
        .type = m->type,
        .text = m->text,
        .text_len = m->text_len,
        .recipients = r->recipients,
        .recipient_count = r->count,
    };

    memcpy(out.id, m->id, sizeof(out.id));
    memcpy(out.transaction_id, m->transaction_id, sizeof(out.transaction_id));
    return out;
}

static int64_t backoff_of(const struct consumer_settings *s, const struct retry *r,
                          unsigned enqueues)
{
    int64_t ms;

    if (r->kind == OUTBOX_ASK)
        return backoff_ms(enqueues, s->retry_base_ms, s->held_ask_max_sec * 1000, random_u64());
    ms = backoff_ms(enqueues, s->retry_base_ms, s->retry_max_ms, random_u64());
    if (r->window_left_ms != INT64_MIN && ms > r->window_left_ms)
        ms = r->window_left_ms > 0 ? r->window_left_ms : 1;
    return ms;
}

static int64_t delay_of(const struct settings *s, const struct retry *r, unsigned enqueues)
{
    int64_t ms = r->delay_ms == RETRY_BACKOFF ? backoff_of(&s->consumer, r, enqueues) : r->delay_ms;

    return ms > r->least_ms ? ms : r->least_ms;
}

static int write_entries(struct db *db, const struct settings *settings, struct retry *retries,
                         struct outbox_entry *entries, size_t n, struct err *err)
{
    if (outbox_count(db, entries, n, err))
        return -1;
    for (size_t i = 0; i < n; i++) {
        retries[i].missing = entries[i].missing;
        entries[i].delay_ms = delay_of(settings, &retries[i], entries[i].enqueues);
    }
    return outbox_write(db, &settings->broker, entries, n, err);
}

int retry_write(struct db *db, const struct settings *settings, struct retry *retries, size_t n,
                struct err *err)
{
    struct outbox_entry *entries = calloc(n, sizeof(*entries));
    struct message *messages = calloc(n, sizeof(*messages));
    int rc;

    if (!entries || !messages) {
        rc = err_set(err, ERR_RETRY, 0, "out of memory");
    } else {
        qsort(retries, n, sizeof(*retries), by_message); /* as outbox_count will */
        for (size_t i = 0; i < n; i++) {
            const struct inflight *m = retries[i].message;

            messages[i] = message_of(&retries[i]);
            entries[i] = (struct outbox_entry){.kind = retries[i].kind,
                                               .message = &messages[i],
                                               .traceparent = m->traceparent,
                                               .tracestate = m->tracestate,
                                               .accepted_us = m->accepted_us};
        }
        rc = write_entries(db, settings, retries, entries, n, err);
    }
    free(messages);
    free(entries);
    return rc;
}
