#include "consumerd/dead_letters.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/dead_letters_internal.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/log.h"

#define LOG_FLUSH_MS 5000

/* ---- the messages of a letter ---- */

static bool names(const struct dead_session *d, const char *id)
{
    for (size_t i = 0; i < d->id_count; i++)
        if (!strcmp(id, d->ids[i]))
            return true;
    return false;
}

/* A member becomes a letter of its own. */
int dead_keep_apart(struct acting *a, const struct bundle_member *m)
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
                     : dead_publish(a->d, a->d->back, &letter, a->err);
    buf_free(&body);
    return rc;
}

static bool act_on_member(const struct bundle_member *m, void *arg)
{
    struct acting *a = arg;

    dead_keep_alive(a->d);
    if (!a->whole && !names(a->d, m->message ? m->message->id : m->id))
        return !dead_keep_apart(a, m);
    return a->act(m, a);
}

/* err is what act says, or why there is none. */
int dead_act_on_members(struct acting *a, bundle_member_fn *act)
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

/* ---- the letters that are meant ---- */

bool dead_is_wanted(const struct dead_session *d, const struct letter *l)
{
    for (size_t i = 0; i < d->id_count; i++)
        if (letter_is(l, d->ids[i]))
            return true;
    return d->all;
}

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
static int act_on_letter(struct dead_session *d, struct letter *l, const char *event,
                         dead_act_fn *act, struct err *err)
{
    struct acting a = {
        .d = d, .letter = l, .whole = d->all || !l->is_bundle || names(d, l->id), .err = err};

    dead_keep_alive(d);
    if (act(&a))
        return -1;
    if (a.stays)
        return 0;
    if (!d->dry_run && dead_settle(l, err))
        return -1;
    log_info(event, L_STR("message_id", l->id), L_STR("dry_run", d->dry_run ? "true" : "false"));
    return 0;
}

static int act_on_each(struct dead_session *d, const char *event, dead_act_fn *act, struct err *err)
{
    for (size_t i = 0; i < d->n; i++)
        if (dead_is_wanted(d, &d->letters[i]) && act_on_letter(d, &d->letters[i], event, act, err))
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
        return dead_list(d, err);
    if (!strcmp(verb, "show"))
        return dead_show(d, err);
    if (db_acquire(d->db, err))
        return -1;
    if (!strcmp(verb, "replay"))
        return act_on_each(d, "dead.replayed", dead_replay, err);
    return act_on_each(d, "dead.dropped", dead_drop, err);
}

/* Whatever became of the verb: what it leaves has been looked at. */
static int run_verb(struct dead_session *d, const char *verb, struct err *err)
{
    struct err why;
    int rc;

    if (dead_gather(d, err))
        return -1;
    rc = act_on(d, verb, err);
    if (broker_is_open(d->in) && dead_put_all_back(d, &why))
        fprintf(stderr,
                "msg-consumerd dead %s: letters were looked at once more, and not put back: "
                "%s\n",
                verb, why.msg);
    if (!dead_saw_all(d, verb) && !rc && d->all)
        rc = err_set(err, ERR_RETRY, 0, "that was not all");
    if (!(d->n + d->deaf_count) || !dead_give_back(d, &why))
        return rc;
    fprintf(stderr, "msg-consumerd dead %s: %s\n", verb, why.msg);
    return rc ? rc : err_set(err, ERR_RETRY, 0, "letters may come again: list them");
}

/* ---- command line ---- */

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
    dead_forget(d);
    broker_free(d->in);
    for (size_t i = 0; i < d->deaf_count; i++)
        broker_free(d->deaf[i]);
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

    dead_list_register();
    dead_drop_register();
    log_start("msg-consumerd", LOG_INFO);
    buf_printf(&queue, "%s" BROKER_DEAD, d->settings->broker.exchange);
    d->queue = queue.data;
    d->in = broker_new(&d->settings->broker, 0, "consumerd dead letters");
    d->back = broker_new(&d->settings->broker, 0, "consumerd dead letters");
    for (unsigned i = 0; i < MESSAGE_LANES; i++)
        d->out[i] = broker_new(&d->settings->broker, BROKER_QUEUE(i), "consumerd replay");
    d->db = db_new_reader(&d->settings->db);
    rc = d->only_unreadable ? dead_drop_unreadable(d, &err) : run_verb(d, verb, &err);
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
