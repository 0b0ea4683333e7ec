#include "libcommon/domain/webhook_queue.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/db/restore_mode.h"
#include "libcommon/telemetry/tracer.h"

#define WAIT_MAX_SEC (7 * 86400)
#define EPOCH "TIMESTAMP'1970-01-01 00:00:00'"

static struct db_label find_label = {.query = "webhook_find"};
static struct db_label claim_label = {.query = "webhook_claim"};
static struct db_label load_label = {.query = "webhook_load"};
static struct db_label settle_label = {.query = "webhook_settle"};

void webhook_queue_register(void)
{
    db_label_register(&find_label);
    db_label_register(&claim_label);
    db_label_register(&load_label);
    db_label_register(&settle_label);
}

bool webhook_schedule_parse(const char *text, struct webhook_schedule *schedule)
{
    *schedule = (struct webhook_schedule){0};
    for (;;) {
        char *end;
        long long sec = *text >= '0' && *text <= '9' ? strtoll(text, &end, 10) : 0;

        if (sec < 1 || sec > WAIT_MAX_SEC || schedule->n == WEBHOOK_TRIES_MAX ||
            (*end && *end != ','))
            return false;
        schedule->sec[schedule->n++] = sec;
        if (!*end)
            return true;
        text = end + 1;
    }
}

static void put_ids(struct buf *sql, const uint64_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        buf_putc(sql, i ? ',' : '(');
        buf_put_uint(sql, ids[i]);
    }
    buf_putc(sql, ')');
}

/* ---- who has something to be told ---- */

/* The first of each endpoint in the index of what is due, without a look at the rest. But what was
 * delivered a moment ago lies there still, until the server has purged it: that is walked. */
int webhook_queue_find(struct db *db, uint64_t owner, bool recent, struct webhook_due *due,
                       size_t room, size_t *n, int64_t *lag_ms, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **c;
    int rc;

    buf_printf(&sql,
               "SELECT w.id,TIMESTAMPDIFF(MICROSECOND,d.due,NOW(6)) DIV 1000,w.failures>0,"
               "(w.leased_until IS NULL OR w.leased_until<NOW(6) OR w.owner=%llu) AND "
               "(w.paused_until IS NULL OR w.paused_until<=NOW(6)),"
               "TIMESTAMPDIFF(MICROSECOND," EPOCH ",d.due) FROM "
               "(SELECT webhook_id,MIN(next_at) AS due FROM webhook_events "
               "FORCE INDEX(idx_webhook_events_due)",
               (unsigned long long)owner);
    if (recent)
        buf_puts(&sql, " WHERE next_at>=NOW(6)-INTERVAL 10 SECOND");
    buf_puts(&sql, " GROUP BY webhook_id) d STRAIGHT_JOIN webhooks w ON w.id=d.webhook_id WHERE "
                   "d.due<=NOW(6) AND w.disabled_at IS NULL AND w.deleted_at IS NULL AND ");
    restore_mode_put_off(&sql);
    buf_printf(&sql, " ORDER BY w.owner<>%llu,d.due", (unsigned long long)owner);
    rc = db_run_buf(db, &find_label, &sql, &results, err);
    buf_free(&sql);
    *n = 0;
    *lag_ms = 0;
    if (rc)
        return -1;
    while ((c = db_next(db_only(&results)))) {
        int64_t waited_ms = strtoll(c[1], NULL, 10);

        if (*c[2] == '0' && waited_ms > *lag_ms)
            *lag_ms = waited_ms;
        if (*c[3] == '1' && *n < room)
            due[(*n)++] = (struct webhook_due){.id = strtoull(c[0], NULL, 10),
                                               .since_us = strtoll(c[4], NULL, 10)};
    }
    db_results_free(&results);
    return 0;
}

/* ---- leases ---- */

static void put_lease(struct buf *sql, uint64_t owner, int64_t lease_ms)
{
    buf_printf(sql, "UPDATE webhooks SET owner=%llu,leased_until=NOW(6)+INTERVAL %lld MICROSECOND",
               (unsigned long long)owner, (long long)lease_ms * 1000);
}

static int lock_free_ones(struct db *db, uint64_t *ids, size_t *n, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    size_t free_ones = 0;
    char **c;
    int rc;

    buf_puts(&sql, "SELECT id FROM webhooks FORCE INDEX(PRIMARY) WHERE id IN ");
    put_ids(&sql, ids, *n);
    buf_puts(&sql, " AND (leased_until IS NULL OR leased_until<NOW(6)) AND disabled_at IS NULL AND "
                   "deleted_at IS NULL ORDER BY id FOR UPDATE SKIP LOCKED");
    rc = db_run_buf(db, &claim_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while (free_ones < *n && (c = db_next(db_only(&results))))
        ids[free_ones++] = strtoull(c[0], NULL, 10);
    *n = free_ones;
    db_results_free(&results);
    return 0;
}

static int run(struct db *db, struct db_label *label, struct buf *sql, struct err *err)
{
    int rc = db_run_buf(db, label, sql, NULL, err);

    buf_free(sql);
    return rc;
}

int webhook_queue_claim(struct db *db, uint64_t owner, int64_t lease_ms, uint64_t *ids, size_t *n,
                        struct err *err)
{
    struct buf sql = {0};
    int rc;

    if (!*n)
        return 0;
    db_begin(db);
    rc = lock_free_ones(db, ids, n, err);
    if (!rc && *n) {
        put_lease(&sql, owner, lease_ms);
        buf_puts(&sql, " WHERE id IN ");
        put_ids(&sql, ids, *n);
        rc = run(db, &claim_label, &sql, err);
    }
    if (!rc)
        rc = db_commit(db, err);
    if (rc)
        db_rollback(db);
    return rc;
}

int webhook_queue_renew(struct db *db, uint64_t owner, int64_t lease_ms, const uint64_t *ids,
                        size_t n, struct err *err)
{
    struct buf sql = {0};

    if (!n)
        return 0;
    put_lease(&sql, owner, lease_ms);
    buf_puts(&sql, " WHERE id IN ");
    put_ids(&sql, ids, n);
    buf_printf(&sql, " AND owner=%llu", (unsigned long long)owner);
    return run(db, &claim_label, &sql, err);
}

int webhook_queue_release(struct db *db, uint64_t owner, const uint64_t *ids, size_t n,
                          struct err *err)
{
    struct buf sql = {0};

    if (!n)
        return 0;
    buf_puts(&sql, "UPDATE webhooks SET owner=0,leased_until=NULL WHERE id IN ");
    put_ids(&sql, ids, n);
    buf_printf(&sql, " AND owner=%llu", (unsigned long long)owner);
    return run(db, &claim_label, &sql, err);
}

/* ---- what is to be told ---- */

static void put_hook(struct buf *sql, uint64_t owner, uint64_t id)
{
    buf_printf(sql,
               "SELECT url,batch,secret,IF(old_secret_until>NOW(6),old_secret,NULL),failures,"
               "TIMESTAMPDIFF(MICROSECOND,failing_since,NOW(6)) DIV 1000,"
               "TIMESTAMPDIFF(MICROSECOND,NOW(6),paused_until) DIV 1000,calls FROM webhooks WHERE "
               "id=%llu AND owner=%llu AND disabled_at IS NULL AND deleted_at IS NULL",
               (unsigned long long)id, (unsigned long long)owner);
}

/* traced: with its message's context. */
static void put_due(struct buf *sql, uint64_t id, int64_t from_us, size_t most, bool traced)
{
    buf_printf(sql,
               "SELECT e.subject,e.kind,e.attempts,"
               "TIMESTAMPDIFF(MICROSECOND," EPOCH ",e.created_at),e.data,"
               "TIMESTAMPDIFF(MICROSECOND," EPOCH ",e.next_at)%s FROM webhook_events e "
               "FORCE INDEX(idx_webhook_events_due)",
               traced ? ",m.traceparent,m.tracestate" : "");
    if (traced)
        buf_puts(sql, " LEFT JOIN messages m FORCE INDEX(PRIMARY) ON m.message_identifier="
                      "LEFT(e.subject,CHAR_LENGTH(e.subject)-LOCATE('-',REVERSE(e.subject)))");
    buf_printf(sql,
               " WHERE e.webhook_id=%llu AND e.next_at>=" EPOCH "+INTERVAL %lld MICROSECOND "
               "AND e.next_at<=NOW(6) "
               "AND NOT EXISTS (SELECT 1 FROM webhook_events b FORCE INDEX(PRIMARY) WHERE "
               "b.webhook_id=%llu AND b.subject=e.subject AND b.kind<e.kind AND b.next_at IS NOT "
               "NULL) AND ",
               (unsigned long long)id, (long long)from_us, (unsigned long long)id);
    restore_mode_put_off(sql);
    buf_printf(sql, " ORDER BY e.next_at LIMIT %zu", most);
}

static void take_secret(struct webhook_secret *secret, const char *bytes, unsigned long n)
{
    secret->len = bytes && n <= sizeof(secret->bytes) ? n : 0;
    if (secret->len)
        memcpy(secret->bytes, bytes, secret->len);
}

static int64_t number_or_0(const char *text)
{
    int64_t n = text ? strtoll(text, NULL, 10) : 0;

    return n > 0 ? n : 0;
}

static void read_hook(struct db_set *set, struct webhook_page *page)
{
    char **c = db_next(set);

    page->ours = c && strlen(c[0]) <= WEBHOOK_URL_MAX;
    if (!page->ours)
        return;
    memcpy(page->url, c[0], strlen(c[0]) + 1);
    page->batch = (unsigned)strtoul(c[1], NULL, 10);
    take_secret(&page->secrets[0], c[2], set->lengths[2]);
    take_secret(&page->secrets[1], c[3], set->lengths[3]);
    page->failures = (unsigned)strtoul(c[4], NULL, 10);
    page->failing_ms = number_or_0(c[5]);
    page->paused_ms = number_or_0(c[6]);
    page->calls = strtoull(c[7], NULL, 10);
}

static void read_trace(const char *parent, const char *state, struct webhook_event *e)
{
    if (!parent || !trace_parse(parent, &e->trace))
        return;
    if (!(e->trace.flags & TRACE_SAMPLED))
        e->trace = (struct trace_context){0};
    else if (state && *state)
        e->tracestate = strdup(state);
}

/* One that a newer release has written, of a kind that we do not know, waits for that release. */
static bool read_event(char **c, bool traced, struct webhook_event *e)
{
    unsigned long kind = strtoul(c[1], NULL, 10);

    if (kind >= WEBHOOK_KINDS || strlen(c[0]) > WEBHOOK_SUBJECT_MAX)
        return false;
    *e = (struct webhook_event){.kind = (enum webhook_kind)kind,
                                .attempts = (unsigned)strtoul(c[2], NULL, 10),
                                .created_us = strtoll(c[3], NULL, 10),
                                .data = strdup(c[4])};
    memcpy(e->subject, c[0], strlen(c[0]) + 1);
    if (traced)
        read_trace(c[6], c[7], e);
    return e->data;
}

static int read_events(struct db_set *set, bool traced, struct webhook_page *page, struct err *err)
{
    char **c;

    page->events = calloc(set->affected + 1, sizeof(*page->events));
    if (!page->events)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    while ((c = db_next(set))) {
        if (!page->n)
            page->since_us = strtoll(c[5], NULL, 10);
        page->n += read_event(c, traced, &page->events[page->n]);
    }
    return 0;
}

int webhook_queue_load(struct db *db, uint64_t owner, uint64_t id, int64_t from_us, size_t most,
                       struct webhook_page *page, struct err *err)
{
    bool traced = tracer_on();
    struct db_packet packet = {0};
    struct db_results results;
    int rc;

    *page = (struct webhook_page){.id = id};
    put_hook(db_statement(&packet, "hook"), owner, id);
    put_due(db_statement(&packet, "due"), id, from_us, most, traced);
    rc = db_run_packet(db, &load_label, &packet, &results, err);
    db_packet_free(&packet);
    if (rc)
        return -1;
    read_hook(db_result(&results, "hook"), page);
    if (page->ours)
        rc = read_events(db_result(&results, "due"), traced, page, err);
    db_results_free(&results);
    if (rc)
        webhook_page_free(page);
    return rc;
}

void webhook_page_free(struct webhook_page *page)
{
    for (size_t i = 0; i < page->n; i++) {
        free(page->events[i].data);
        free(page->events[i].tracestate);
    }
    free(page->events);
    OPENSSL_cleanse(page->secrets, sizeof(page->secrets));
    *page = (struct webhook_page){0};
}

/* ---- what came of it ---- */

static void put_delivered(struct buf *sql, const struct webhook_call *call)
{
    buf_printf(sql,
               "UPDATE webhook_events FORCE INDEX(PRIMARY) SET next_at=NULL,delivered_at=NOW(6),"
               "attempts=attempts+1,last_status=%u",
               call->status);
}

/* Assignments run from left to right: the wait goes by the attempts before this one. Behind the
 * schedule's end it is NULL, and the event over. */
static void put_failed(struct buf *sql, const struct webhook_schedule *schedule,
                       const struct webhook_call *call)
{
    buf_puts(sql, "UPDATE webhook_events FORCE INDEX(PRIMARY) SET next_at=NOW(6)+INTERVAL ");
    if (call->rest_ms)
        buf_printf(sql, "GREATEST(%lld,", (long long)(call->rest_ms + 999) / 1000);
    buf_puts(sql, "CAST(ELT(attempts+1");
    for (size_t i = 0; i < schedule->n; i++) {
        buf_putc(sql, ',');
        buf_put_int(sql, schedule->sec[i]);
    }
    buf_puts(sql, ") AS SIGNED)");
    if (call->rest_ms)
        buf_putc(sql, ')');
    buf_printf(sql, " SECOND,attempts=attempts+1,last_status=%u", call->status);
}

static void put_subjects(struct db *db, struct buf *sql, const struct webhook_call *call, int kind)
{
    const char *before = "";

    for (size_t i = 0; i < call->n; i++) {
        const struct webhook_event *e = &call->events[i];

        if ((int)e->kind != kind)
            continue;
        buf_puts(sql, before);
        db_put_quoted(db, sql, e->subject, strlen(e->subject));
        before = ",";
    }
}

static bool has_kind(const struct webhook_call *call, int kind)
{
    for (size_t i = 0; i < call->n; i++)
        if ((int)call->events[i].kind == kind)
            return true;
    return false;
}

/* Calls beside each other that came to the same are one statement for each kind of event. */
static bool are_alike(const struct webhook_call *a, const struct webhook_call *b)
{
    return a->webhook_id == b->webhook_id && a->delivered == b->delivered &&
           a->status == b->status && a->rest_ms == b->rest_ms;
}

static void put_group(struct db *db, struct db_packet *packet,
                      const struct webhook_schedule *schedule, const struct webhook_call *calls,
                      size_t n, int kind)
{
    const char *before = "";
    struct buf *sql = NULL;

    for (size_t i = 0; i < n; i++) {
        if (!has_kind(&calls[i], kind))
            continue;
        if (!sql) {
            sql = db_statement(packet, NULL);
            if (calls->delivered)
                put_delivered(sql, calls);
            else
                put_failed(sql, schedule, calls);
            buf_printf(sql,
                       " WHERE webhook_id=%llu AND kind=%d AND next_at IS NOT NULL AND "
                       "subject IN (",
                       (unsigned long long)calls->webhook_id, kind);
        }
        buf_puts(sql, before);
        put_subjects(db, sql, &calls[i], kind);
        before = ",";
    }
    if (sql)
        buf_putc(sql, ')');
}

static void put_attempts(struct db *db, struct buf *sql, const struct webhook_call *calls, size_t n)
{
    struct buf id = {0};

    buf_puts(sql, "REPLACE INTO webhook_attempts(webhook_id,slot,call_no,at,event_id,events,result,"
                  "status,took_ms) VALUES ");
    for (size_t i = 0; i < n; i++) {
        const struct webhook_call *c = &calls[i];

        buf_reset(&id);
        webhook_put_id(&id, c->events->subject, c->events->kind);
        buf_printf(sql, "%s(%llu,%llu,%llu,NOW(6)-INTERVAL %lld MICROSECOND,", i ? "," : "",
                   (unsigned long long)c->webhook_id,
                   (unsigned long long)c->call_no % WEBHOOK_ATTEMPTS_KEPT,
                   (unsigned long long)c->call_no, (long long)c->ago_ms * 1000);
        sql->failed |= id.failed;
        if (!id.failed)
            db_put_quoted(db, sql, id.data, id.len);
        buf_printf(sql, ",%zu,'%s',%u,%lld)", c->n, c->result, c->status, (long long)c->took_ms);
    }
    buf_free(&id);
}

static void put_standing(struct buf *sql, uint64_t owner, const struct webhook_standing *s)
{
    buf_printf(sql, "UPDATE webhooks SET calls=GREATEST(calls,%llu),failures=%u,failing_since=",
               (unsigned long long)s->calls, s->failures);
    buf_puts(sql, s->failures ? "COALESCE(failing_since,NOW(6))" : "NULL");
    buf_puts(sql, ",paused_until=");
    if (s->pause_ms)
        buf_printf(sql, "NOW(6)+INTERVAL %lld MICROSECOND", (long long)s->pause_ms * 1000);
    else
        buf_puts(sql, "NULL");
    buf_printf(sql, " WHERE id=%llu AND owner=%llu", (unsigned long long)s->id,
               (unsigned long long)owner);
}

int webhook_queue_settle(struct db *db, uint64_t owner, const struct webhook_schedule *schedule,
                         const struct webhook_call *calls, size_t n,
                         const struct webhook_standing *standings, size_t standing_count,
                         struct err *err)
{
    struct db_packet packet = {0};
    int rc;

    if (!n)
        return 0;
    for (size_t i = 0; i < standing_count; i++)
        put_standing(db_statement(&packet, NULL), owner, &standings[i]);
    for (size_t i = 0, count; i < n; i += count) {
        for (count = 1; i + count < n && are_alike(&calls[i], &calls[i + count]);)
            count++;
        for (int kind = 0; kind < WEBHOOK_KINDS; kind++)
            put_group(db, &packet, schedule, &calls[i], count, kind);
    }
    put_attempts(db, db_statement(&packet, NULL), calls, n);
    buf_puts(db_statement(&packet, NULL), "COMMIT");
    db_begin(db);
    rc = db_run_packet(db, &settle_label, &packet, NULL, err);
    db_packet_free(&packet);
    if (rc)
        db_rollback(db);
    return rc;
}
