#include "consumerd/dead_letters.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/settings.h"
#include "consumerd/worker.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/domain/recipient.h"
#include "libcommon/telemetry/log.h"

#define LETTERS_MAX 1000 /* looked at in one run */
#define GATHER_MS 5000
#define CONFIRM_MS 5000
#define PUMP_MS 100
#define LOG_FLUSH_MS 5000

struct letter {
    uint64_t tag;
    char id[MESSAGE_ID_MAX + 1]; /* "#<place>" when it has none */
    char traceparent[TRACE_PARENT_SIZE];
    char *tracestate, *body;
    size_t body_len;
    int64_t accepted_us;
};

struct dead_session {
    const struct settings *settings;
    const char *queue;
    struct broker *in, *out[MESSAGE_LANES]; /* each declares its lane's queue */
    struct db *db;
    struct letter letters[LETTERS_MAX];
    size_t n;
    bool dry_run, all;
    char **ids;
    size_t id_count;
    uint64_t wanted_tag; /* the confirm that is waited for */
    bool confirmed, refused;
};

/* ---- reading the queue ---- */

static void take_letter(const struct broker_event *e, void *arg)
{
    struct dead_session *d = arg;
    struct letter *l = &d->letters[d->n];

    if (e->type != BROKER_DELIVERED || d->n == LETTERS_MAX)
        return;
    l->tag = e->tag;
    if (*e->message_id && strlen(e->message_id) <= MESSAGE_ID_MAX)
        snprintf(l->id, sizeof(l->id), "%s", e->message_id);
    else
        snprintf(l->id, sizeof(l->id), "#%zu", d->n + 1);
    snprintf(l->traceparent, sizeof(l->traceparent), "%s", e->traceparent);
    l->tracestate = must_strdup(e->tracestate);
    l->accepted_us = e->accepted_us;
    l->body = malloc(e->body_len + 1);
    if (!l->body)
        return; /* not enough memory for all of them: those that fit are dealt with */
    memcpy(l->body, e->body, e->body_len);
    l->body_len = e->body_len;
    d->n++;
}

static int gather(struct dead_session *d, struct err *err)
{
    int64_t give_up_ms = clock_mono_ms() + GATHER_MS;
    uint32_t ready;

    if (broker_open(d->in, err) || broker_depth(d->in, d->queue, &ready, err))
        return -1;
    if (!ready)
        return 0; /* perhaps there is no queue yet */
    if (broker_consume(d->in, d->queue, LETTERS_MAX, err))
        return -1;
    while (d->n < ready && d->n < LETTERS_MAX && clock_mono_ms() < give_up_ms)
        if (broker_pump(d->in, PUMP_MS, 0, take_letter, d, err))
            return -1;
    return 0;
}

static int list(struct dead_session *d, struct err *err)
{
    (void)err;
    for (size_t i = 0; i < d->n; i++) {
        struct message m;
        struct err why;

        if (message_decode(d->letters[i].body, d->letters[i].body_len, &m, &why)) {
            printf("%s\t%zu bytes\tnot readable: %s\n", d->letters[i].id, d->letters[i].body_len,
                   why.msg);
            continue;
        }
        printf("%s\t%zu bytes\t%s, customer %lld, %zu recipients\n", d->letters[i].id,
               d->letters[i].body_len, message_type_name(m.type), (long long)m.customer_id,
               m.recipient_count);
        message_free(&m);
    }
    return 0;
}

static bool is_wanted(const struct dead_session *d, const struct letter *l)
{
    for (size_t i = 0; i < d->id_count; i++)
        if (!strcmp(d->ids[i], l->id))
            return true;
    return d->all;
}

static int show(struct dead_session *d, struct err *err)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct letter *l = &d->letters[i];

        if (!is_wanted(d, l))
            continue;
        printf("id: %s\ntraceparent: %s\nbody: %.*s\n", l->id, l->traceparent, (int)l->body_len,
               l->body);
        return 0;
    }
    return err_set(err, ERR_PERMANENT, 0, "no letter %s", d->ids[0]);
}

/* ---- replay ---- */

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

static int publish(struct dead_session *d, const struct letter *l, enum message_type type,
                   struct err *err)
{
    const struct broker_message m = {
        .exchange = d->settings->broker.exchange,
        .routing_key = topology_queue(&d->settings->broker, type),
        .message_id = l->id,
        .body = l->body,
        .body_len = l->body_len,
        .traceparent = l->traceparent,
        .tracestate = l->tracestate,
        .accepted_us = l->accepted_us,
    };
    int64_t give_up_ms = clock_mono_ms() + CONFIRM_MS;
    struct broker *out = d->out[type];

    if (!broker_is_open(out) && (broker_open(out, err) || broker_confirm(out, err)))
        return -1;
    d->confirmed = d->refused = false;
    if (broker_publish(out, &m, &d->wanted_tag, err))
        return -1;
    while (!d->confirmed && !d->refused && clock_mono_ms() < give_up_ms)
        if (broker_pump(out, PUMP_MS, 0, take_confirm, d, err))
            return -1;
    if (!d->confirmed || d->refused)
        return err_set(err, ERR_RETRY, 0, "the broker did not confirm the replay");
    return 0;
}

static int replay(struct dead_session *d, const struct letter *l, struct err *err)
{
    struct message m;
    int rc;

    if (message_decode(l->body, l->body_len, &m, err))
        return -1;
    rc = d->dry_run ? 0 : recipient_forget_takeovers(d->db, m.id, err);
    if (!rc && !d->dry_run)
        rc = publish(d, l, m.type, err);
    message_free(&m);
    return rc;
}

/* ---- drop ---- */

/* A recipient that a living consumer has in hand may be reached yet. */
static int collect_open(struct dead_session *d, const struct recipient_rows *rows,
                        struct recipient_change *changes, size_t *n, struct err *err)
{
    for (size_t i = 0; i < rows->n; i++) {
        const struct recipient *r = &rows->all[i];
        bool lives;

        if (recipient_is_final(r->state))
            continue;
        if (worker_lives(d->db, &d->settings->consumer, r->owner, &lives, err))
            return -1;
        if (lives)
            return err_set(err, ERR_RETRY, 0, "a consumer has it in hand right now");
        changes[(*n)++] = recipient_drop(r, "given up: its dead letter was dropped");
    }
    return 0;
}

static int drop_open(struct dead_session *d, const struct recipient_rows *rows, size_t *n,
                     struct err *err)
{
    struct recipient_change *changes = calloc(rows->n + 1, sizeof(*changes));
    int rc;

    if (!changes)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    rc = collect_open(d, rows, changes, n, err);
    if (!rc)
        rc = recipient_fail(d->db, changes, *n, err);
    free(changes);
    return rc;
}

static int refund(struct dead_session *d, const struct message *m, size_t *n, struct err *err)
{
    const char *id = m->id;
    struct recipient_rows rows = {0};
    int rc;

    db_begin(d->db);
    rc = recipient_lock(d->db, &id, 1, &rows, err);
    if (!rc)
        rc = drop_open(d, &rows, n, err);
    if (!rc && !d->dry_run)
        rc = db_commit(d->db, err);
    else
        db_rollback(d->db);
    recipient_rows_free(&rows);
    return rc;
}

/* A letter that nobody can read refunds nothing: it is not known to be a message. */
static int drop(struct dead_session *d, const struct letter *l, struct err *err)
{
    struct message m;
    struct err why;
    size_t refunded = 0;
    int rc = 0;

    if (!message_decode(l->body, l->body_len, &m, &why)) {
        rc = refund(d, &m, &refunded, err);
        message_free(&m);
    }
    if (!rc)
        log_info("dead.refunded", L_STR("message_id", l->id), L_INT("recipients", refunded),
                 L_STR("dry_run", d->dry_run ? "true" : "false"));
    return rc;
}

/* ---- command line ---- */

typedef int act_fn(struct dead_session *d, const struct letter *l, struct err *err);

static int act_on_each(struct dead_session *d, const char *event, act_fn *act, struct err *err)
{
    size_t done = 0;

    for (size_t i = 0; i < d->n; i++) {
        const struct letter *l = &d->letters[i];

        if (!is_wanted(d, l))
            continue;
        if (act(d, l, err))
            return -1;
        if (!d->dry_run && (broker_ack(d->in, l->tag, false, err) || broker_flush(d->in, err)))
            return -1;
        log_info(event, L_STR("message_id", l->id),
                 L_STR("dry_run", d->dry_run ? "true" : "false"));
        done++;
    }
    return done || d->all ? 0 : err_set(err, ERR_PERMANENT, 0, "no such letter");
}

static int run_verb(struct dead_session *d, const char *verb, struct err *err)
{
    if (gather(d, err))
        return -1;
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
        else if (argv[i][0] != '-')
            d->ids[d->id_count++] = argv[i];
        else
            return false;
    }
    if (!strcmp(verb, "list"))
        return !d->id_count;
    if (!strcmp(verb, "show"))
        return d->id_count == 1;
    return d->all != (d->id_count > 0);
}

static void session_free(struct dead_session *d)
{
    for (size_t i = 0; i < d->n; i++) {
        free(d->letters[i].tracestate);
        free(d->letters[i].body);
    }
    broker_free(d->in);
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
    log_start("msg-consumerd", LOG_INFO);
    buf_printf(&queue, "%s" BROKER_DEAD, d->settings->broker.exchange);
    d->queue = queue.data;
    d->in = broker_new(&d->settings->broker, 0, "consumerd dead letters");
    for (unsigned i = 0; i < MESSAGE_LANES; i++)
        d->out[i] = broker_new(&d->settings->broker, BROKER_QUEUE(i), "consumerd replay");
    d->db = db_new_reader(&d->settings->db);
    rc = run_verb(d, verb, &err);
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
