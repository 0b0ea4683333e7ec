#include "consumerd/dead_letters.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/letter.h"
#include "consumerd/settings.h"
#include "consumerd/worker.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/domain/recipient.h"
#include "libcommon/telemetry/log.h"

/* Of a run: the daemon's own container has to have room for it beside the daemon. */
#define LETTERS_MAX UINT16_MAX
#define KEPT_BYTES_MAX (32u << 20)
#define GATHER_MS 5000 /* without another letter */
#define RETURN_MS 3000 /* for what somebody had in hand to be ready again */
#define RETURN_POLL_MS 10
#define CONFIRM_MS 5000
#define PUMP_MS 100
#define LOG_FLUSH_MS 5000

static struct db_label states_label = {.query = "dead_states"};
static struct db_label coming_label = {.query = "dead_coming"};

struct dead_session {
    const struct settings *settings;
    const char *queue;
    struct broker *in, *back, *out[MESSAGE_LANES]; /* each of out declares its lane's queue */
    struct db *db;
    struct letter *letters;
    size_t n, wanted, ready; /* letters taken, to be taken, there when we came */
    size_t kept_bytes;       /* of those taken, in our memory */
    size_t spared;           /* messages that are not to be dropped now */
    uint32_t readers;        /* others: what they have in hand is not seen */
    bool dry_run, all;
    bool only_unreadable; /* drop: those, which have no other name */
    bool unreadable;      /* this connection met one, of that tag, behind those taken */
    uint64_t unreadable_tag;
    char **ids;
    size_t id_count;
    uint64_t wanted_tag; /* the confirm that is waited for */
    bool confirmed, refused;
};

static void beat(struct broker *b)
{
    struct err err;

    if (broker_is_open(b))
        (void)broker_beat(b, &err);
}

/* For every step of a long run: a connection that has nothing to do must be heard from as well. One
 * that fails here fails again where it is needed, or is opened anew. */
static void keep_alive(struct dead_session *d)
{
    beat(d->in);
    beat(d->back);
    for (int i = 0; i < MESSAGE_LANES; i++)
        beat(d->out[i]);
}

/* ---- reading the queue ---- */

/* The broker takes a moment to take back what a reader had in hand who has gone, and to strike out
 * what one has acknowledged; until then the letters cannot be seen, or would come again. So: until
 * nobody has any (but those others) and least are ready, or, after a while, as it is. */
static int await_letters(struct dead_session *d, uint32_t others, size_t least, bool *came,
                         struct err *err)
{
    int64_t give_up_ms = clock_mono_ms() + RETURN_MS;
    uint32_t ready;

    while (!broker_depth(d->in, d->queue, &ready, &d->readers, err)) {
        d->ready = ready;
        *came = d->readers <= others && d->ready >= least;
        if (*came || clock_mono_ms() >= give_up_ms)
            return 0;
        pause_sleep(RETURN_POLL_MS);
    }
    return -1;
}

static bool has_room(const struct dead_session *d)
{
    return d->kept_bytes + BUNDLE_BYTES_MAX <= KEPT_BYTES_MAX;
}

static void take_letter(const struct broker_event *e, void *arg)
{
    struct dead_session *d = arg;

    if (e->type == BROKER_UNREADABLE) {
        d->unreadable = true;
        d->unreadable_tag = e->tag;
    }
    if (e->type != BROKER_DELIVERED || d->n == d->wanted || !has_room(d))
        return;
    /* not enough memory for all of them: those that fit are dealt with */
    if (letter_take(&d->letters[d->n], e, d->n + 1))
        d->kept_bytes += letter_bytes(&d->letters[d->n++]);
}

/* No more than there is room for, so that what is left was not so much as delivered. Returns how
 * many were to come. */
static size_t ask_for_letters(struct dead_session *d, struct err *err)
{
    size_t step = (KEPT_BYTES_MAX - d->kept_bytes) / BUNDLE_BYTES_MAX;

    if (step > d->wanted - d->n)
        step = d->wanted - d->n;
    return broker_consume(d->in, d->queue, (uint16_t)step, err) ? 0 : step;
}

static int await_step(struct dead_session *d, size_t end, struct err *err)
{
    int64_t give_up_ms = clock_mono_ms() + GATHER_MS;

    while (d->n < end && has_room(d) && !d->unreadable && clock_mono_ms() < give_up_ms) {
        size_t before = d->n;

        if (broker_pump(d->in, PUMP_MS, 0, take_letter, d, err))
            return -1;
        if (d->n > before)
            give_up_ms = clock_mono_ms() + GATHER_MS;
    }
    return d->unreadable ? 0 : broker_cancel(d->in, err);
}

static int take_letters(struct dead_session *d, struct err *err)
{
    while (d->n < d->wanted && has_room(d)) {
        size_t step = ask_for_letters(d, err), end = d->n + step;

        if (!step || await_step(d, end, err))
            return -1;
        if (d->unreadable || (d->n < end && has_room(d)))
            return 0; /* they do not come */
    }
    if (!has_room(d))
        d->wanted = d->n;
    return 0;
}

static void forget_letters(struct dead_session *d)
{
    for (size_t i = 0; i < d->n; i++)
        letter_free(&d->letters[i]);
    free(d->letters);
    d->letters = NULL;
    d->n = d->kept_bytes = 0;
}

/* All that are there now, and no other: not what comes meanwhile, nor what we put there ourselves.
 */
static int gather_now(struct dead_session *d, struct err *err)
{
    bool alone;

    d->unreadable = false;
    if (broker_open(d->in, err) || await_letters(d, 0, 0, &alone, err))
        return -1;
    if (!d->ready)
        return 0; /* perhaps there is no queue yet */
    d->wanted = d->ready < LETTERS_MAX ? d->ready : LETTERS_MAX;
    d->letters = must_alloc(d->wanted, sizeof(*d->letters));
    return take_letters(d, err);
}

/* One that cannot be read keeps the rest from being seen: what is given back changes places. */
static int gather(struct dead_session *d, struct err *err)
{
    if (gather_now(d, err))
        return -1;
    if (d->unreadable)
        return err_set(err, ERR_PERMANENT, 0,
                       "letter #%zu cannot be read (more headers than a frame may hold); dead drop "
                       "--unreadable takes such letters away",
                       d->n + 1);
    letters_mark_copies(d->letters, d->n);
    return 0;
}

static bool saw_all(const struct dead_session *d, const char *verb)
{
    if (d->readers)
        fprintf(stderr,
                "msg-consumerd dead %s: another reader has the queue open: letters that it has in "
                "hand were not seen\n",
                verb);
    if (d->n < d->wanted)
        fprintf(stderr,
                "msg-consumerd dead %s: %zu letters that were there did not come: another reader "
                "has them, or there is not enough memory\n",
                verb, d->wanted - d->n);
    if (d->wanted < d->ready)
        fprintf(stderr, "msg-consumerd dead %s: %zu letters are left for the next time\n", verb,
                d->ready - d->wanted);
    return !d->readers && d->n == d->ready;
}

/* Nothing is in our hands any more: whoever looks next, at once, is to find what we left, and
 * nothing that we took. Others may take what comes back as soon as it is there. */
static int give_back(struct dead_session *d, struct err *err)
{
    uint32_t others = d->readers, ready;
    size_t held = 0;
    bool gone;

    for (size_t i = 0; i < d->n; i++)
        held += !d->letters[i].settled;
    if (broker_depth(d->in, d->queue, &ready, NULL, err) || broker_requeue(d->in, err) ||
        await_letters(d, others, others ? 0 : ready + held, &gone, err))
        return -1;
    if (!gone)
        return err_set(err, ERR_RETRY, 0, "the broker has not said that all is done");
    return 0;
}

/* ---- list ---- */

static void note_states(struct letter *l, struct db_results *results)
{
    char **row;

    while ((row = db_next(db_only(results)))) {
        enum recipient_state state;

        if (!recipient_state_parse(row[1], &state))
            continue;
        for (size_t i = 0; i < l->member_count; i++)
            if (!strcmp(l->members[i].id, row[0]))
                l->members[i].counts[state] = strtoull(row[2], NULL, 10);
    }
}

static int count_states(struct dead_session *d, struct letter *l, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    buf_puts(&sql, "SELECT message_identifier,status,COUNT(*) FROM message_status "
                   "FORCE INDEX(uq_message_status_identifier_recipient) "
                   "WHERE message_identifier IN (");
    for (size_t i = 0; i < l->member_count; i++) {
        if (i)
            buf_putc(&sql, ',');
        db_put_quoted(d->db, &sql, l->members[i].id, strlen(l->members[i].id));
    }
    buf_puts(&sql, ") GROUP BY message_identifier,status");
    rc = db_run_buf(d->db, &states_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    note_states(l, &results);
    db_results_free(&results);
    return 0;
}

/* What became of the recipients since. A list without that is better than none. */
static void look_at_recipients(struct dead_session *d)
{
    struct err err = {0};
    int rc = d->n ? db_acquire(d->db, &err) : 0;

    for (size_t i = 0; !rc && i < d->n; i++) {
        keep_alive(d);
        if (d->letters[i].member_count)
            rc = count_states(d, &d->letters[i], &err);
    }
    db_release(d->db);
    if (rc)
        fprintf(stderr, "msg-consumerd dead list: recipients not looked up: %s\n", err.msg);
}

/* Our queues have no limit but those of a policy at the broker. */
static bool fell_to_a_limit(const struct letter *l)
{
    return !strcmp(l->death_reason, "expired") || !strcmp(l->death_reason, "maxlen") ||
           !strcmp(l->death_reason, "delivery_limit");
}

static int list(struct dead_session *d, struct err *err)
{
    size_t fallen = 0;

    (void)err;
    look_at_recipients(d);
    for (size_t i = 0; i < d->n; i++) {
        letter_print(&d->letters[i]);
        fallen += fell_to_a_limit(&d->letters[i]);
    }
    if (fallen)
        fprintf(stderr,
                "msg-consumerd dead list: %zu of them fell to a limit that is not ours (expired, "
                "maxlen, delivery_limit): look at the broker's policies for our queues\n",
                fallen);
    return 0;
}

static bool is_wanted(const struct dead_session *d, const struct letter *l)
{
    for (size_t i = 0; i < d->id_count; i++)
        if (letter_is(l, d->ids[i]))
            return true;
    return d->all;
}

static int show(struct dead_session *d, struct err *err)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct letter *l = &d->letters[i];

        if (!is_wanted(d, l))
            continue;
        letter_show(l);
        return 0;
    }
    return err_set(err, ERR_PERMANENT, 0, "no letter %s", d->ids[0]);
}

/* ---- publishing ---- */

static void take_confirm(const struct broker_event *e, void *arg)
{
    struct dead_session *d = arg;

    if (e->type == BROKER_CONFIRMED &&
        (e->tag == d->wanted_tag || (e->multiple && e->tag > d->wanted_tag)))
        d->confirmed = true;
    else if (e->type == BROKER_NACKED || e->type == BROKER_RETURNED ||
             e->type == BROKER_CHANNEL_CLOSED)
        d->refused = true;
}

static int publish(struct dead_session *d, struct broker *out, const struct broker_message *m,
                   struct err *err)
{
    int64_t give_up_ms = clock_mono_ms() + CONFIRM_MS;

    if (!broker_is_open(out) && (broker_open(out, err) || broker_confirm(out, err)))
        return -1;
    d->confirmed = d->refused = false;
    if (broker_publish(out, m, &d->wanted_tag, err))
        return -1;
    while (!d->confirmed && !d->refused && clock_mono_ms() < give_up_ms) {
        keep_alive(d);
        if (broker_pump(out, PUMP_MS, 0, take_confirm, d, err))
            return -1;
    }
    if (!d->confirmed || d->refused)
        return err_set(err, ERR_RETRY, 0, "the broker did not confirm what was published");
    return 0;
}

static int settle(struct dead_session *d, struct letter *l, struct err *err)
{
    if (broker_ack(d->in, l->tag, false, err) || broker_flush(d->in, err))
        return -1;
    l->settled = true;
    return 0;
}

/* In a quorum queue a look counts as a delivery, and a policy of the broker's may give letters few
 * of those. One that was looked at before is replaced by a copy, which counts anew, before it is
 * acknowledged: in between a crash leaves two, never none. So is every one that others are behind
 * who had no place this time: the next time begins with those. An empty body may be one that was
 * too long for us. */
static int put_back(struct dead_session *d, struct letter *l, struct err *err)
{
    struct broker_message m = letter_message(l);

    if (l->settled || !l->body_len || (!l->delivery_count && d->wanted == d->ready))
        return 0;
    m.exchange = m.routing_key = d->queue;
    m.death_reason = l->death_reason;
    m.death_queue = l->death_queue;
    return publish(d, d->back, &m, err) || settle(d, l, err) ? -1 : 0;
}

static int put_all_back(struct dead_session *d, struct err *err)
{
    for (size_t i = 0; i < d->n; i++) {
        keep_alive(d);
        if (put_back(d, &d->letters[i], err))
            return -1;
    }
    return 0;
}

/* ---- the messages of a letter ---- */

/* What is done with each of them tells why it could not be. */
struct acting {
    struct dead_session *d;
    const struct letter *letter;
    bundle_member_fn *act;
    bool whole; /* with all of them, not only those that were named */
    bool stays; /* the letter: its one message was spared */
    size_t refunded;
    struct err *err;
};

static bool names(const struct dead_session *d, const char *id)
{
    for (size_t i = 0; i < d->id_count; i++)
        if (!strcmp(id, d->ids[i]))
            return true;
    return false;
}

/* A member becomes a letter of its own. */
static int keep_apart(struct acting *a, const struct bundle_member *m)
{
    const char *id = m->message ? m->message->id : m->id;
    struct broker_message letter = {.exchange = a->d->queue,
                                    .routing_key = a->d->queue,
                                    .message_id = strlen(id) <= MESSAGE_ID_MAX ? id : "",
                                    .traceparent = m->traceparent,
                                    .tracestate = m->tracestate,
                                    .accepted_us = m->accepted_us,
                                    .death_reason = a->letter->death_reason,
                                    .death_queue = a->letter->death_queue};
    struct buf body = {0};
    int rc;

    if (a->d->dry_run)
        return 0;
    if (m->message)
        (void)bundle_put_alone(&body, m->json, m->json_len);
    else
        buf_put(&body, m->json, m->json_len);
    letter.body = body.data;
    letter.body_len = body.len;
    rc = body.failed ? err_set(a->err, ERR_RETRY, 0, "out of memory")
                     : publish(a->d, a->d->back, &letter, a->err);
    buf_free(&body);
    return rc;
}

static bool act_on_member(const struct bundle_member *m, void *arg)
{
    struct acting *a = arg;

    keep_alive(a->d);
    if (!a->whole && !names(a->d, m->message ? m->message->id : m->id))
        return !keep_apart(a, m);
    return a->act(m, a);
}

/* err is what act says, or why there is none. */
static int act_on_members(struct acting *a, bundle_member_fn *act)
{
    struct err why = {0};

    a->act = act;
    a->err->kind = ERR_NONE;
    if (!letter_read(a->letter, act_on_member, a, &why))
        return 0;
    if (a->err->kind == ERR_NONE)
        *a->err = why;
    return -1;
}

/* ---- replay ---- */

/* In its lane, alone, whatever it came in. */
static int replay_message(struct acting *a, const struct bundle_member *m)
{
    struct dead_session *d = a->d;
    const struct broker_settings *s = &d->settings->broker;
    struct buf body = {0};
    struct broker_message copy = {.exchange = s->exchange,
                                  .routing_key = topology_queue(s, m->message->type),
                                  .message_id = m->message->id,
                                  .traceparent = m->traceparent,
                                  .tracestate = m->tracestate,
                                  .accepted_us = m->accepted_us};
    int rc;

    if (d->dry_run)
        return 0;
    if (a->letter->is_bundle)
        (void)bundle_put_alone(&body, m->json, m->json_len);
    else
        buf_put(&body, m->json, m->json_len);
    copy.body = body.data;
    copy.body_len = body.len;
    rc = body.failed ? err_set(a->err, ERR_RETRY, 0, "out of memory") : 0;
    if (!rc)
        rc = recipient_forget_takeovers(d->db, m->message->id, a->err);
    if (!rc)
        rc = publish(d, d->out[m->message->type], &copy, a->err);
    buf_free(&body);
    return rc;
}

/* What is no message stays a letter, by itself. */
static bool replay_member(const struct bundle_member *m, void *arg)
{
    struct acting *a = arg;

    if (m->message)
        return !replay_message(a, m);
    if (a->letter->is_bundle)
        return !keep_apart(a, m);
    (void)err_set(a->err, ERR_PERMANENT, 0, "letter %s: %s", a->letter->id, m->why);
    return false;
}

static int replay(struct acting *a)
{
    return act_on_members(a, replay_member);
}

/* ---- drop ---- */

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
        return keep_apart(a, m);
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

static int drop(struct acting *a)
{
    const struct letter *l = a->letter;

    if (l->member_count && act_on_members(a, drop_member))
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
    int rc = gather_now(d, err);

    *found = !rc && d->unreadable;
    forget_letters(d);
    if (rc || !*found || d->dry_run)
        return rc;
    return broker_ack(d->in, d->unreadable_tag, false, err) || broker_leave(d->in, err) ? -1 : 0;
}

static int drop_unreadable(struct dead_session *d, struct err *err)
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

/* ---- command line ---- */

typedef int act_fn(struct acting *a);

/* Each that was named. */
static int find_ids(const struct dead_session *d, struct err *err)
{
    for (size_t i = 0; i < d->id_count; i++) {
        size_t k = 0;

        while (k < d->n && !letter_is(&d->letters[k], d->ids[i]))
            k++;
        if (k == d->n)
            return err_set(err, ERR_PERMANENT, 0, "no letter %s", d->ids[i]);
    }
    return 0;
}

/* A bundle's own id is its first message's, and stands for all of them. */
static int act_on_letter(struct dead_session *d, struct letter *l, const char *event, act_fn *act,
                         struct err *err)
{
    struct acting a = {
        .d = d, .letter = l, .whole = d->all || !l->is_bundle || names(d, l->id), .err = err};

    keep_alive(d);
    if (act(&a))
        return -1;
    if (a.stays)
        return 0;
    if (!d->dry_run && settle(d, l, err))
        return -1;
    log_info(event, L_STR("message_id", l->id), L_STR("dry_run", d->dry_run ? "true" : "false"));
    return 0;
}

static int act_on_each(struct dead_session *d, const char *event, act_fn *act, struct err *err)
{
    for (size_t i = 0; i < d->n; i++)
        if (is_wanted(d, &d->letters[i]) && act_on_letter(d, &d->letters[i], event, act, err))
            return -1;
    if (find_ids(d, err))
        return -1;
    if (d->spared)
        return err_set(err, ERR_RETRY, 0, "%zu messages are left: drop them later", d->spared);
    return 0;
}

static int act_on(struct dead_session *d, const char *verb, struct err *err)
{
    if (!strcmp(verb, "list"))
        return list(d, err);
    if (!strcmp(verb, "show"))
        return show(d, err);
    if (db_acquire(d->db, err))
        return -1;
    if (!strcmp(verb, "replay"))
        return act_on_each(d, "dead.replayed", replay, err);
    return act_on_each(d, "dead.dropped", drop, err);
}

/* Whatever became of the verb: what it leaves has been looked at. */
static int run_verb(struct dead_session *d, const char *verb, struct err *err)
{
    struct err why;
    int rc;

    if (gather(d, err))
        return -1;
    rc = act_on(d, verb, err);
    if (broker_is_open(d->in) && put_all_back(d, &why))
        fprintf(stderr,
                "msg-consumerd dead %s: letters were looked at once more, and not put back: "
                "%s\n",
                verb, why.msg);
    if (!saw_all(d, verb) && !rc && d->all)
        rc = err_set(err, ERR_RETRY, 0, "that was not all");
    if (!d->n || !give_back(d, &why))
        return rc;
    fprintf(stderr, "msg-consumerd dead %s: %s\n", verb, why.msg);
    return rc ? rc : err_set(err, ERR_RETRY, 0, "letters may come again: list them");
}

static bool parse(struct dead_session *d, int argc, char **argv)
{
    const char *verb = argc ? argv[0] : "";
    bool looks = !strcmp(verb, "list") || !strcmp(verb, "show");

    if (!looks && strcmp(verb, "replay") != 0 && strcmp(verb, "drop") != 0)
        return false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--dry-run") && !looks)
            d->dry_run = true;
        else if (!strcmp(argv[i], "--all") && !looks)
            d->all = true;
        else if (!strcmp(argv[i], "--unreadable") && !strcmp(verb, "drop"))
            d->only_unreadable = true;
        else if (argv[i][0] != '-')
            d->ids[d->id_count++] = argv[i];
        else
            return false;
    }
    if (!strcmp(verb, "list"))
        return d->all = !d->id_count;
    if (!strcmp(verb, "show"))
        return d->id_count == 1;
    return d->all + d->only_unreadable + (d->id_count > 0) == 1;
}

static void session_free(struct dead_session *d)
{
    forget_letters(d);
    broker_free(d->in);
    broker_free(d->back);
    for (int i = 0; i < MESSAGE_LANES; i++)
        broker_free(d->out[i]);
    db_release(d->db);
    db_free(d->db);
    free(d->ids);
    free(d);
}

static int run(struct dead_session *d, const char *verb)
{
    struct buf queue = {0};
    struct err err = {0};
    int rc;

    worker_register();
    recipient_register();
    db_label_register(&states_label);
    db_label_register(&coming_label);
    log_start("msg-consumerd", LOG_INFO);
    buf_printf(&queue, "%s" BROKER_DEAD, d->settings->broker.exchange);
    d->queue = queue.data;
    d->in = broker_new(&d->settings->broker, 0, "consumerd dead letters");
    d->back = broker_new(&d->settings->broker, 0, "consumerd dead letters");
    for (unsigned i = 0; i < MESSAGE_LANES; i++)
        d->out[i] = broker_new(&d->settings->broker, BROKER_QUEUE(i), "consumerd replay");
    d->db = db_new_reader(&d->settings->db);
    rc = d->only_unreadable ? drop_unreadable(d, &err) : run_verb(d, verb, &err);
    if (rc)
        fprintf(stderr, "msg-consumerd dead %s: %s\n", verb, err.msg);
    session_free(d);
    buf_free(&queue);
    log_stop(LOG_FLUSH_MS);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}

int dead_letters_main(const struct settings *settings, int argc, char **argv)
{
    struct dead_session *d = must_alloc(1, sizeof(*d));

    d->settings = settings;
    d->ids = must_alloc((size_t)argc + 1, sizeof(char *));
    if (parse(d, argc, argv))
        return run(d, argv[0]);
    free(d->ids);
    free(d);
    return DAEMON_USAGE;
}
