#include <stdio.h>
#include <stdlib.h>

#include "consumerd/dead_letters_internal.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"

/* Of a run: the daemon's own container has to have room for it beside the daemon. */
#define LETTERS_MAX UINT16_MAX
#define KEPT_BYTES_MAX (32u << 20)
#define GATHER_MS 5000 /* without another letter */
#define RETURN_MS 3000 /* for what somebody had in hand to be ready again */
#define RETURN_POLL_MS 10
#define CONFIRM_MS 5000
#define PUMP_MS 100

static void beat(struct broker *b)
{
    struct err err;

    if (broker_is_open(b))
        (void)broker_beat(b, &err);
}

/* For every step of a long run: a connection that has nothing to do must be heard from as well. One
 * that fails here fails again where it is needed, or is opened anew. */
void dead_keep_alive(struct dead_session *d)
{
    beat(d->in);
    beat(d->back);
    for (size_t i = 0; i < d->deaf_count; i++)
        beat(d->deaf[i]);
    for (int i = 0; i < MESSAGE_LANES; i++)
        beat(d->out[i]);
}

/* ---- taking ---- */

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

/* Of those that are wanted, with such as cannot be read. */
static size_t taken(const struct dead_session *d)
{
    return d->n + d->deaf_count;
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
    if (!letter_take(&d->letters[d->n], e, d->n + 1))
        return;
    d->letters[d->n].in = d->in;
    d->kept_bytes += letter_bytes(&d->letters[d->n++]);
}

/* No more than there is room for, so that what is left was not so much as delivered. Returns how
 * many were to come. */
static size_t ask_for_letters(struct dead_session *d, struct err *err)
{
    size_t step = (KEPT_BYTES_MAX - d->kept_bytes) / BUNDLE_BYTES_MAX;

    if (step > d->wanted - taken(d))
        step = d->wanted - taken(d);
    if (d->singly)
        step = 1;
    return broker_consume(d->in, d->queue, (uint16_t)step, err) ? 0 : step;
}

static int await_step(struct dead_session *d, size_t end, struct err *err)
{
    int64_t give_up_ms = clock_mono_ms() + GATHER_MS;

    while (d->n < end && has_room(d) && !d->unreadable && clock_mono_ms() < give_up_ms) {
        size_t before = d->n;

        dead_keep_alive(d);
        if (broker_pump(d->in, PUMP_MS, 0, take_letter, d, err))
            return -1;
        if (d->n > before)
            give_up_ms = clock_mono_ms() + GATHER_MS;
    }
    return d->unreadable ? 0 : broker_cancel(d->in, err);
}

/* Up to the first that cannot be read. */
static int take_letters(struct dead_session *d, struct err *err)
{
    while (taken(d) < d->wanted && has_room(d)) {
        size_t step = ask_for_letters(d, err), end = d->n + step;

        if (!step || await_step(d, end, err))
            return -1;
        if (d->unreadable || (d->n < end && has_room(d)))
            return 0; /* they do not come */
    }
    if (!has_room(d))
        d->wanted = taken(d);
    return 0;
}

void dead_forget(struct dead_session *d)
{
    for (size_t i = 0; i < d->n; i++)
        letter_free(&d->letters[i]);
    free(d->letters);
    d->letters = NULL;
    d->n = d->kept_bytes = 0;
}

/* All that are there now, and no other: not what comes meanwhile, nor what we put there ourselves.
 */
static int open_queue(struct dead_session *d, uint32_t others, size_t least, struct err *err)
{
    bool came;

    d->unreadable = false;
    if (broker_open(d->in, err) || await_letters(d, others, least, &came, err))
        return -1;
    if (!d->ready)
        return 0; /* perhaps there is no queue yet */
    d->wanted = d->ready < LETTERS_MAX ? d->ready : LETTERS_MAX;
    d->letters = must_alloc(d->wanted, sizeof(*d->letters));
    return take_letters(d, err);
}

int dead_gather_readable(struct dead_session *d, struct err *err)
{
    return open_queue(d, 0, 0, err);
}

/* Nothing more is heard on a connection that has met a letter that cannot be read. It keeps that
 * one, and those in front of it, while the next connection takes what is behind. */
static int step_over(struct dead_session *d, struct err *err)
{
    d->unreadable = false;
    d->deaf[d->deaf_count++] = d->in;
    d->in = broker_new(&d->settings->broker, 0, "consumerd dead letters");
    return broker_open(d->in, err);
}

/* Whatever was delivered behind such a letter is out of sight until it has been given back. So all
 * of them are, and come again one at a time. */
static int gather_singly(struct dead_session *d, struct err *err)
{
    uint32_t others = d->readers;
    size_t least = others ? 0 : d->ready;

    d->singly = true;
    dead_forget(d);
    if (broker_leave(d->in, err) || open_queue(d, others, least, err))
        return -1;
    while (d->unreadable)
        if (step_over(d, err) || (d->deaf_count < DEAF_MAX && take_letters(d, err)))
            return -1;
    return 0;
}

int dead_gather(struct dead_session *d, struct err *err)
{
    if (dead_gather_readable(d, err) || (d->unreadable && gather_singly(d, err)))
        return -1;
    letters_mark_copies(d->letters, d->n);
    return 0;
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

int dead_publish(struct dead_session *d, struct broker *out, const struct broker_message *m,
                 struct err *err)
{
    int64_t give_up_ms = clock_mono_ms() + CONFIRM_MS;

    if (!broker_is_open(out) && (broker_open(out, err) || broker_confirm(out, err)))
        return -1;
    d->confirmed = d->refused = false;
    if (broker_publish(out, m, &d->wanted_tag, err))
        return -1;
    while (!d->confirmed && !d->refused && clock_mono_ms() < give_up_ms) {
        dead_keep_alive(d);
        if (broker_pump(out, PUMP_MS, 0, take_confirm, d, err))
            return -1;
    }
    if (!d->confirmed || d->refused)
        return err_set(err, ERR_RETRY, 0, "the broker did not confirm what was published");
    return 0;
}

int dead_settle(struct letter *l, struct err *err)
{
    if (broker_ack(l->in, l->tag, false, err) || broker_flush(l->in, err))
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
    return dead_publish(d, d->back, &m, err) || dead_settle(l, err) ? -1 : 0;
}

int dead_put_all_back(struct dead_session *d, struct err *err)
{
    for (size_t i = 0; i < d->n; i++) {
        dead_keep_alive(d);
        if (put_back(d, &d->letters[i], err))
            return -1;
    }
    return 0;
}

/* ---- giving back ---- */

bool dead_saw_all(const struct dead_session *d, const char *verb)
{
    if (d->readers)
        fprintf(stderr,
                "msg-consumerd dead %s: another reader has the queue open: letters that it has in "
                "hand were not seen\n",
                verb);
    if (d->deaf_count)
        fprintf(stderr,
                "msg-consumerd dead %s: %zu letters cannot be read (more headers than a frame may "
                "hold): dead drop --unreadable takes such letters away\n",
                verb, d->deaf_count);
    if (d->deaf_count == DEAF_MAX && taken(d) < d->wanted)
        fprintf(stderr, "msg-consumerd dead %s: %zu letters behind those were not looked at\n",
                verb, d->wanted - taken(d));
    else if (taken(d) < d->wanted)
        fprintf(stderr,
                "msg-consumerd dead %s: %zu letters that were there did not come: another reader "
                "has them, or there is not enough memory\n",
                verb, d->wanted - taken(d));
    if (d->wanted < d->ready)
        fprintf(stderr, "msg-consumerd dead %s: %zu letters are left for the next time\n", verb,
                d->ready - d->wanted);
    return !d->readers && d->n == d->ready;
}

static int leave_deaf(struct dead_session *d, struct err *err)
{
    int rc = 0;

    for (size_t i = 0; i < d->deaf_count; i++)
        if (broker_is_open(d->deaf[i]) && broker_leave(d->deaf[i], err))
            rc = -1;
    return rc;
}

/* Nothing is in our hands any more: whoever looks next, at once, is to find what we left, and
 * nothing that we took. Others may take what comes back as soon as it is there. */
int dead_give_back(struct dead_session *d, struct err *err)
{
    uint32_t others = d->readers, ready;
    size_t held = d->deaf_count;
    bool gone;

    for (size_t i = 0; i < d->n; i++)
        held += !d->letters[i].settled;
    if (broker_depth(d->in, d->queue, &ready, NULL, err) || leave_deaf(d, err) ||
        broker_requeue(d->in, err) ||
        await_letters(d, others, others ? 0 : ready + held, &gone, err))
        return -1;
    if (!gone)
        return err_set(err, ERR_RETRY, 0, "the broker has not said that all is done");
    return 0;
}
