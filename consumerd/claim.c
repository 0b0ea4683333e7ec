#include "consumerd/claim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/retry.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/random.h"
#include "libcommon/daemon/failpoint.h"

#define OWNERS_MAX 64       /* distinct foreign owners looked at in one claim; more wait */
#define SUSPECT_TAKEOVERS 2 /* from here on a message is claimed alone ... */
#define PUT_OFF_JITTER_MS 2000
#define STALE_MS 1000 /* how long what is stale is put off */

static struct db_label owners_label = {.query = "claim_owners"};

void claim_register(void)
{
    db_label_register(&owners_label);
    recipient_register();
}

struct claim_row {
    struct claim_item *item;
    const struct recipient *recipient;
    enum claim_row_fate fate;
};

struct owner {
    uint64_t id;
    int64_t silent_ms; /* INT64_MAX: no such worker, or not looked at */
};

/* One run's working memory. */
struct run {
    const struct claim *c;
    uint64_t me;
    struct claim_item *items;
    size_t item_count;
    struct recipient_rows locked; /* rows point into it */
    struct claim_row *rows;
    size_t row_count;
    struct owner owners[OWNERS_MAX];
    size_t owner_count;
    struct buf sql;
};

enum claim_row_fate claim_row_fate(enum recipient_state state, uint64_t owner, uint64_t me,
                                   bool in_hand)
{
    if (recipient_is_final(state))
        return CLAIM_ROW_FINAL;
    if (state == RECIPIENT_PENDING)
        return CLAIM_ROW_FRESH;
    if (owner != me)
        return CLAIM_ROW_FOREIGN;
    return in_hand ? CLAIM_ROW_IN_HAND : CLAIM_ROW_TAKEOVER;
}

static int by_message(const void *a, const void *b)
{
    return strcmp(((const struct claim_item *)a)->message->id,
                  ((const struct claim_item *)b)->message->id);
}

/* ---- reading ---- */

/* In the order of the items. */
static const char **identifiers(const struct claim_item *items, size_t n)
{
    const char **ids = calloc(n, sizeof(*ids));

    for (size_t i = 0; ids && i < n; i++)
        ids[i] = items[i].message->id;
    return ids;
}

static int lock_rows(struct run *r, struct err *err)
{
    const char **ids = identifiers(r->items, r->item_count);
    int rc;

    if (!ids)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    rc = recipient_lock(r->c->db, ids, r->item_count, &r->locked, err);
    free(ids);
    return rc;
}

static bool in_hand(const struct inflight *m, uint64_t status_id)
{
    const struct job *job;

    if (!m)
        return false;
    for (job = TAILQ_FIRST(&m->jobs); job; job = TAILQ_NEXT(job, in_message))
        if (job->status_id == status_id)
            return true;
    return false;
}

static void note_owner(struct run *r, uint64_t id)
{
    for (size_t i = 0; i < r->owner_count; i++)
        if (r->owners[i].id == id)
            return;
    if (r->owner_count < OWNERS_MAX)
        r->owners[r->owner_count++] = (struct owner){id, INT64_MAX};
}

static struct claim_row row_of(const struct run *r, struct claim_item *item,
                               const struct recipient *recipient)
{
    return (struct claim_row){
        .item = item,
        .recipient = recipient,
        .fate = claim_row_fate(recipient->state, recipient->owner, r->me,
                               in_hand(item->in_hand, recipient->id)),
    };
}

/* Rows come in the order of the items; an item without rows is dead. */
static int read_rows(struct run *r, struct err *err)
{
    struct claim_item *item = r->items;
    struct claim_item *end = r->items + r->item_count;

    for (size_t i = 0; i < r->item_count; i++) {
        r->items[i].verdict = CLAIM_DEAD;
        r->items[i].reason = STATS_DEAD_NO_ROWS;
        r->items[i].taken_over = r->items[i].put_off = 0;
    }
    r->rows = calloc(r->locked.n + 1, sizeof(*r->rows));
    if (!r->rows)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    for (; r->row_count < r->locked.n; r->row_count++) {
        const struct recipient *recipient = &r->locked.all[r->row_count];
        struct claim_row *to = &r->rows[r->row_count];

        while (item < end && strcmp(item->message->id, recipient->message_id) < 0)
            item++;
        if (item == end || strcmp(item->message->id, recipient->message_id) != 0)
            return err_set(err, ERR_BUG, 0, "claim: a row that makes no sense");
        *to = row_of(r, item, recipient);
        item->verdict = CLAIM_NOTHING;
        item->message->ours |= to->fate == CLAIM_ROW_TAKEOVER;
        if (to->fate == CLAIM_ROW_FOREIGN)
            note_owner(r, recipient->owner);
    }
    return 0;
}

/* ---- deciding ---- */

static int look_at_owners(struct run *r, struct err *err)
{
    struct buf *sql = &r->sql;
    struct db_results results;
    char **row;

    if (!r->owner_count)
        return 0;
    buf_reset(sql);
    buf_puts(sql, "SELECT id,TIMESTAMPDIFF(MICROSECOND,heartbeat_at,NOW(6)) DIV 1000 FROM workers "
                  "WHERE id IN (");
    for (size_t i = 0; i < r->owner_count; i++)
        buf_printf(sql, "%s%llu", i ? "," : "", (unsigned long long)r->owners[i].id);
    buf_putc(sql, ')');
    if (db_run_buf(r->c->db, &owners_label, sql, &results, err))
        return -1;
    while ((row = db_next(db_only(&results))))
        for (size_t i = 0; i < r->owner_count; i++)
            if (r->owners[i].id == strtoull(row[0], NULL, 10))
                r->owners[i].silent_ms = strtoll(row[1], NULL, 10);
    db_results_free(&results);
    return 0;
}

/* How long the owner may still live on what is known; 0: dead. */
static int64_t owner_lives_ms(const struct run *r, uint64_t owner)
{
    int64_t dead_ms = r->c->settings->consumer.dead_sec * 1000;

    for (size_t i = 0; i < r->owner_count; i++)
        if (r->owners[i].id == owner)
            return r->owners[i].silent_ms >= dead_ms ? 0
                   : r->owners[i].silent_ms < 0      ? dead_ms
                                                     : dead_ms - r->owners[i].silent_ms;
    return dead_ms; /* beyond OWNERS_MAX: next time */
}

/* ... so that those that were in hand with what kills consumers never come to takeovers_max. */
static int64_t suspect_takeovers(const struct run *r)
{
    int64_t most = r->c->settings->consumer.takeovers_max - 1;

    return most < SUSPECT_TAKEOVERS ? most : SUSPECT_TAKEOVERS;
}

static bool is_free(const struct claim_row *row)
{
    return row->fate == CLAIM_ROW_FRESH || row->fate == CLAIM_ROW_TAKEOVER;
}

static bool is_stale(const struct claim_item *item)
{
    return item->stale && !item->message->ours;
}

static bool is_put_off(const struct claim_row *row)
{
    return (row->item->verdict == CLAIM_WORK || row->item->verdict == CLAIM_NOTHING) &&
           ((is_stale(row->item) && is_free(row)) || row->fate == CLAIM_ROW_FOREIGN);
}

/* Sets the fate of foreign rows, and what they mean for their messages. */
static void decide(struct run *r, bool suspects)
{
    for (size_t i = 0; i < r->row_count; i++) {
        struct claim_row *row = &r->rows[i];
        struct claim_item *item = row->item;

        if (row->fate == CLAIM_ROW_FOREIGN && !owner_lives_ms(r, row->recipient->owner))
            row->fate = CLAIM_ROW_TAKEOVER;
        if (row->fate == CLAIM_ROW_TAKEOVER) {
            item->taken_over += !is_stale(item);
            if (row->recipient->takeovers >= suspect_takeovers(r))
                item->message->suspect = true;
            if (row->recipient->takeovers >= r->c->settings->consumer.takeovers_max) {
                item->verdict = CLAIM_DEAD;
                item->reason = STATS_DEAD_TAKEOVERS;
            }
        }
        if (is_put_off(row))
            item->put_off++;
        if (!is_stale(item) && is_free(row) && item->verdict == CLAIM_NOTHING)
            item->verdict = CLAIM_WORK;
    }
    for (size_t i = 0; i < r->item_count; i++) {
        struct claim_item *item = &r->items[i];

        if (item->verdict == CLAIM_WORK &&
            ((item->message->suspect && !suspects) || (item->stale && item->message->ours)))
            item->verdict = CLAIM_SET_ASIDE;
    }
}

static bool is_claimed(const struct claim_row *row)
{
    return row->item->verdict == CLAIM_WORK && is_free(row);
}

/* ---- writing ---- */

/* What the row says of operators that may have it. */
static int read_noted(const struct run *r, const struct claim_row *row, struct job *job,
                      struct err *err)
{
    struct operators_noted noted;

    settings_read_noted(r->c->operators, r->c->operator_count, row->recipient->unknown, &noted);
    job->noted = *row->recipient->unknown != '\0';
    job->unknown = noted.mask;
    job->any = noted.any || row->fate == CLAIM_ROW_TAKEOVER;
    if (!*noted.gone)
        return 0;
    job->gone = strdup(noted.gone);
    return job->gone ? 0 : err_set(err, ERR_RETRY, 0, "out of memory");
}

static int make_jobs(struct run *r, struct err *err)
{
    int64_t window_ms = r->c->settings->consumer.retry_window_sec * 1000;
    int64_t now_ms = clock_mono_ms();

    for (size_t i = 0; i < r->row_count; i++) {
        const struct claim_row *row = &r->rows[i];
        const struct recipient *from = row->recipient;
        struct job *job;

        if (!is_claimed(row))
            continue;
        job = job_new(row->item->message);
        if (!job)
            return err_set(err, ERR_RETRY, 0, "out of memory");
        job->status_id = from->id;
        job->position = from->position;
        job->attempt = from->attempt + 1;
        job->user_id = from->user_id;
        job->price = from->price;
        job->give_up_at_ms = now_ms + window_ms - from->claimed_ms_ago;
        /* Whoever has put it off submitted it before; a dead worker may have done so until now. */
        job->submitted_at_ms =
            row->fate == CLAIM_ROW_TAKEOVER ? now_ms : now_ms - from->updated_ms_ago;
        if (read_noted(r, row, job, err))
            return -1;
        snprintf(job->recipient, sizeof(job->recipient), "%s", from->number);
    }
    return 0;
}

static int claim_rows(struct run *r, enum claim_row_fate fate, enum recipient_transition transition,
                      struct err *err)
{
    uint64_t *ids = calloc(r->row_count + 1, sizeof(*ids));
    size_t n = 0;
    int rc;

    if (!ids)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    for (size_t i = 0; i < r->row_count; i++)
        if (r->rows[i].fate == fate && is_claimed(&r->rows[i]))
            ids[n++] = r->rows[i].recipient->id;
    rc = recipient_claim(r->c->db, transition, r->me, ids, n, err);
    free(ids);
    return rc;
}

/* One retry a message of which a recipient is in the hands of a living owner; returns how many. */
static size_t collect_put_off(const struct run *r, struct retry *retries, const char **names)
{
    struct retry *at = NULL;
    size_t used = 0;
    size_t n = 0;

    for (size_t i = 0; i < r->row_count; i++) {
        const struct claim_row *row = &r->rows[i];
        int64_t lives_ms;

        if (!is_put_off(row))
            continue;
        lives_ms =
            row->fate == CLAIM_ROW_FOREIGN ? owner_lives_ms(r, row->recipient->owner) : STALE_MS;
        if (!at || at->message != row->item->message) {
            at = &retries[n++];
            at->message = row->item->message;
            at->kind = OUTBOX_DELIVER;
            at->recipients = names + used;
            at->window_left_ms = INT64_MIN;
        }
        if (at->delay_ms < lives_ms)
            at->delay_ms = lives_ms;
        names[used++] = row->recipient->number;
        at->count++;
    }
    for (size_t i = 0; i < n; i++)
        retries[i].delay_ms += (int64_t)(random_u64() % PUT_OFF_JITTER_MS) + 1;
    return n;
}

/* They come back when the owner must have finished or died. */
static int put_off(struct run *r, struct err *err)
{
    struct retry *retries = calloc(r->item_count, sizeof(*retries));
    const char **names = calloc(r->row_count ? r->row_count : 1, sizeof(*names));
    size_t n = retries && names ? collect_put_off(r, retries, names) : 0;
    int rc = 0;

    if (!retries || !names)
        rc = err_set(err, ERR_RETRY, 0, "out of memory");
    if (!rc && n)
        rc = retry_write(r->c->db, r->c->settings, retries, n, err);
    for (size_t i = 0; i < n && !rc; i++)
        if (retries[i].missing)
            rc = err_set(err, ERR_BUG, 0, "claim: a message without its row in messages");
    free(names);
    free(retries);
    return rc;
}

/* Lock order: recipients, which are locked already, then messages. */
static int write_claim(struct run *r, struct err *err)
{
    bool any_put_off = false;

    for (size_t i = 0; i < r->item_count; i++)
        any_put_off |= r->items[i].put_off > 0;
    if (any_put_off && put_off(r, err))
        return -1;
    if (claim_rows(r, CLAIM_ROW_FRESH, RECIPIENT_CLAIM, err) ||
        claim_rows(r, CLAIM_ROW_TAKEOVER, RECIPIENT_TAKE_OVER, err))
        return -1;
    return db_commit(r->c->db, err);
}

static void drop_jobs(struct claim_item *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        while (!TAILQ_EMPTY(&items[i].message->jobs))
            job_free(TAILQ_FIRST(&items[i].message->jobs));
}

/* So that whoever looks sees a claim whose answer was lost. */
static int fail_if_asked(struct err *err)
{
    return failpoint(FAILPOINT_CONSUMER_AFTER_CLAIM)
               ? err_set(err, ERR_UNKNOWN, 0, "claim: failpoint")
               : 0;
}

static void end_run(struct run *r, int rc)
{
    if (rc)
        drop_jobs(r->items, r->item_count);
    free(r->rows);
    buf_free(&r->sql);
}

/* ---- all of it free ---- */

bool claim_is_plain(const struct claim_item *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (items[i].stale || items[i].in_hand || items[i].message->suspect ||
            items[i].message->redelivered)
            return false;
    return true;
}

/* Makes of what was claimed what a closer look would have made of it. */
static int take_rows(struct run *r, struct err *err)
{
    if (read_rows(r, err))
        return -1;
    decide(r, false);
    return make_jobs(r, err);
}

int claim_plain(const struct claim *c, struct recipient_packet *p, struct claim_item *items,
                size_t n, struct err *err)
{
    struct run r = {.c = c, .me = p->owner, .items = items, .item_count = n};
    const char **ids;
    int rc;

    qsort(items, n, sizeof(*items), by_message);
    ids = identifiers(items, n);
    if (!ids)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    p->message_ids = ids;
    p->message_count = n;
    rc = recipient_packet_run(c->db, p, err);
    free(ids);
    if (!rc) {
        r.locked = p->rows;
        rc = take_rows(&r, err);
    }
    if (!rc)
        rc = fail_if_asked(err);
    end_run(&r, rc);
    return rc;
}

/* ---- a closer look ---- */

static int look_and_claim(const struct claim *c, uint64_t me, bool suspects,
                          struct claim_item *items, size_t n, struct err *err)
{
    struct run r = {.c = c, .me = me, .items = items, .item_count = n};
    int rc;

    qsort(items, n, sizeof(*items), by_message);
    db_begin(c->db);
    rc = lock_rows(&r, err);
    if (!rc)
        rc = read_rows(&r, err);
    if (!rc)
        rc = look_at_owners(&r, err);
    if (!rc) {
        decide(&r, suspects);
        rc = make_jobs(&r, err);
    }
    if (!rc)
        rc = write_claim(&r, err);
    if (!rc)
        rc = fail_if_asked(err);
    end_run(&r, rc);
    if (rc)
        db_rollback(c->db);
    recipient_rows_free(&r.locked);
    return rc;
}

int claim_run(const struct claim *c, uint64_t me, bool suspects, struct claim_item *items, size_t n,
              struct err *err)
{
    struct recipient_packet packet = {.owner = me};
    int rc;

    if (!claim_is_plain(items, n))
        return look_and_claim(c, me, suspects, items, n, err);
    rc = claim_plain(c, &packet, items, n, err);
    recipient_rows_free(&packet.rows);
    if (rc && (err->kind == ERR_PERMANENT || db_is_conflict(err)))
        rc = look_and_claim(c, me, suspects, items, n, err);
    return rc;
}
