#include "consumerd/dead_letters_internal.h"
#include "libcommon/domain/recipient.h"

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
        rc = dead_publish(d, d->out[m->message->type], &copy, a->err);
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
        return !dead_keep_apart(a, m);
    (void)err_set(a->err, ERR_PERMANENT, 0, "letter %s: %s", a->letter->id, m->why);
    return false;
}

int dead_replay(struct acting *a)
{
    return dead_act_on_members(a, replay_member);
}
