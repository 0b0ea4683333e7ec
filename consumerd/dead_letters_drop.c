#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/dead_letters_internal.h"
#include "consumerd/worker.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/domain/recipient.h"
#include "libcommon/telemetry/log.h"

static struct db_label coming_label = {.query = "dead_coming"};

void dead_drop_register(void)
{
    worker_register();
    recipient_register();
    db_label_register(&coming_label);
}

/* A message that is in somebody's hands, or on its way to them, may reach its recipients yet. */
struct dropping {
    struct dead_session *d;
    const char *id;
    struct recipient_change *changes;
    size_t n;
    const char *spared; /* why it is; NULL: it is not */
};

static int collect_open(struct dropping *p, const struct recipient_rows *rows, struct err *err)
{
    for (size_t i = 0; i < rows->n; i++) {
        const struct recipient *r = &rows->all[i];
        bool lives;

        if (recipient_is_final(r->state))
            continue;
        if (worker_lives(p->d->db, &p->d->settings->consumer, r->owner, &lives, err))
            return -1;
        if (lives)
            p->spared = "a consumer has it in hand right now";
        p->changes[p->n++] = recipient_drop(r, "given up: its dead letter was dropped");
    }
    return 0;
}

static int look_for_coming(struct dropping *p, struct err *err)
{
    struct db_results results;
    struct buf sql = {0}, id = {0};
    int rc;

    db_put_quoted(p->d->db, &id, p->id, strlen(p->id));
    buf_puts(&sql, "SELECT ");
    outbox_put_exists(&sql, id.failed ? "NULL" : id.data);
    rc = id.failed ? err_set(err, ERR_RETRY, 0, "out of memory")
                   : db_run_buf(p->d->db, &coming_label, &sql, &results, err);
    buf_free(&id);
    buf_free(&sql);
    if (rc)
        return -1;
    if (db_number(db_only(&results)))
        p->spared = "the outbox brings it to its lane again";
    db_results_free(&results);
    return 0;
}

static int drop_open(struct dropping *p, const struct recipient_rows *rows, struct err *err)
{
    int rc;

    p->changes = calloc(rows->n + 1, sizeof(*p->changes));
    if (!p->changes)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    rc = collect_open(p, rows, err);
    if (!rc && p->n && !p->spared)
        rc = look_for_coming(p, err);
    if (!rc && !p->spared)
        rc = recipient_fail(p->d->db, p->changes, p->n, err);
    free(p->changes);
    return rc;
}

static int refund(struct dropping *p, struct err *err)
{
    struct db *db = p->d->db;
    struct recipient_rows rows = {0};
    int rc;

    db_begin(db);
    rc = recipient_lock(db, &p->id, 1, &rows, err);
    if (!rc)
        rc = drop_open(p, &rows, err);
    if (!rc && !p->d->dry_run && !p->spared)
        rc = db_commit(db, err);
    else
        db_rollback(db);
    recipient_rows_free(&rows);
    return rc;
}

/* It stays a letter: whoever has it now may lose it. */
static int spare(struct acting *a, const struct bundle_member *m, const char *why)
{
    fprintf(stderr, "msg-consumerd dead drop: message %s is left: %s\n", m->message->id, why);
    a->d->spared++;
    if (a->letter->is_bundle)
        return dead_keep_apart(a, m);
    a->stays = true;
    return 0;
}

/* What nobody can read refunds nothing: it is not known to be a message. */
static bool drop_member(const struct bundle_member *m, void *arg)
{
    struct acting *a = arg;
    struct dropping p = {.d = a->d};

    if (!m->message)
        return true;
    p.id = m->message->id;
    if (refund(&p, a->err))
        return false;
    if (p.spared)
        return !spare(a, m, p.spared);
    a->refunded += p.n;
    return true;
}

int dead_drop(struct acting *a)
{
    const struct letter *l = a->letter;

    if (l->member_count && dead_act_on_members(a, drop_member))
        return -1;
    log_info("dead.refunded", L_STR("message_id", l->id), L_INT("recipients", a->refunded),
             L_INT("messages", l->member_count),
             L_STR("dry_run", a->d->dry_run ? "true" : "false"));
    return 0;
}

/* ---- drop of what nobody can read ---- */

/* Nothing is known of it, so nothing is refunded: a message of ours whose recipients are open is
 * repaired. Each costs a connection. */
static int drop_next_unreadable(struct dead_session *d, bool *found, struct err *err)
{
    int rc = dead_gather_readable(d, err);

    *found = !rc && d->unreadable;
    dead_forget(d);
    if (rc || !*found || d->dry_run)
        return rc;
    return broker_ack(d->in, d->unreadable_tag, false, err) || broker_leave(d->in, err) ? -1 : 0;
}

int dead_drop_unreadable(struct dead_session *d, struct err *err)
{
    bool found;
    size_t n = 0;

    do {
        if (drop_next_unreadable(d, &found, err))
            return -1;
        n += found;
    } while (found && !d->dry_run);
    log_info("dead.dropped", L_STR("message_id", ""), L_INT("unreadable", n),
             L_STR("dry_run", d->dry_run ? "true" : "false"));
    return 0;
}
