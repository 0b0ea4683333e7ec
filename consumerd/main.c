/*
 * msg-consumerd: takes messages from the broker, delivers them through the operators, and writes
 * down what became of them; and tells customers' endpoints. Reading order: consumer.h, lane.h,
 * delivery.h, transport.h, results.h; webhook_desk.h, webhook_post.h.
 */

#include <stdlib.h>

#include "consumerd/consumer.h"
#include "consumerd/dead_letters.h"
#include "consumerd/held.h"
#include "consumerd/held_watch.h"
#include "consumerd/housekeeping.h"
#include "consumerd/operator_verb.h"
#include "consumerd/policy_watch.h"
#include "consumerd/repair.h"
#include "consumerd/settings.h"
#include "consumerd/webhook_desk.h"
#include "libcommon/domain/doorbell.h"
#include "libcommon/domain/webhook_watch.h"
#include "libcommon/telemetry/log.h"

#define BROKER_DESCRIPTORS 32 /* and what else is no connection of a client or the database */

struct parts {
    bool lanes; /* else all of them are NULL */
    struct httpd *httpd;
    struct janitor *janitor;
    struct repair *repair;
    struct held_watch *held;
    struct policy_watch *policies;
    struct doorbell *doorbell;
    struct consumer *consumer;
    struct webhook_desk *webhooks;
};

static void build_lanes(struct parts *p, const struct settings *s)
{
    p->doorbell = doorbell_start(&s->broker);
    p->repair = repair_start(s, p->doorbell);
    p->held = held_watch_start(s);
    p->policies = policy_watch_start(s);
    p->consumer = consumer_start(s, p->doorbell);
}

static int build(struct parts *p, struct err *err)
{
    const struct settings *s = &consumerd_settings;

    p->lanes = settings_has_part(s, PART_LANES);
    daemon_depend_on(&s->db, p->lanes ? &s->broker : NULL);
    p->httpd = daemon_http_start(
        &s->httpd, s->db.max_open + BROKER_DESCRIPTORS + webhook_desk_descriptors(s), err);
    if (!p->httpd)
        return -1;
    p->janitor = housekeeping_start(s);
    webhook_watch_start(&s->db);
    if (p->lanes)
        build_lanes(p, s);
    if (settings_has_part(s, PART_WEBHOOKS))
        p->webhooks = webhook_desk_start(s);
    return 0;
}

static void drain_lanes(struct parts *p)
{
    repair_begin_stop(p->repair);
    held_watch_begin_stop(p->held);
    policy_watch_begin_stop(p->policies);
    consumer_stop(p->consumer);
    repair_stop(p->repair);
    doorbell_begin_stop(p->doorbell);
    held_watch_stop(p->held);
    policy_watch_stop(p->policies);
}

static void drain(struct parts *p)
{
    janitor_begin_stop(p->janitor);
    webhook_desk_begin_stop(p->webhooks);
    httpd_drain(p->httpd);
    if (p->lanes)
        drain_lanes(p);
    webhook_watch_begin_stop();
    webhook_desk_stop(p->webhooks);
    janitor_stop(p->janitor);
    httpd_wait_drained(p->httpd, daemon_drain_left_ms());
    if (p->lanes)
        doorbell_stop(p->doorbell);
    webhook_watch_stop();
}

static void release(struct parts *p)
{
    httpd_free(p->httpd);
}

static void reload(void *consumer)
{
    consumer_reload(consumer);
}

static int serve(void)
{
    struct parts parts = {0};
    struct err err;
    int rc;

    daemon_start(&consumerd_program, &consumerd_settings.daemon);
    rc = build(&parts, &err);
    if (rc) {
        log_error("server.start_failed", L_ERR(&err));
    } else {
        if (parts.lanes)
            daemon_on_reload(reload, parts.consumer);
        daemon_ready();
        daemon_wait();
        drain(&parts);
    }
    release(&parts);
    daemon_stop(true);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int run_dead(int argc, char **argv)
{
    return dead_letters_main(&consumerd_settings, argc, argv);
}

static int run_held(int argc, char **argv)
{
    return held_main(&consumerd_settings, argc, argv);
}

static int run_operator(int argc, char **argv)
{
    return operator_main(&consumerd_settings, argc, argv);
}

static const struct daemon_verb verbs[] = {
    {"dead",
     "list | show ID | replay ID...|--all [--dry-run] | drop ID...|--all|--unreadable [--dry-run]",
     run_dead},
    {"held",
     "list | done MESSAGE [POSITION...] --operator NAME [--dry-run] | "
     "fail MESSAGE [POSITION...]|--all [--dry-run]",
     run_held},
    {"operator",
     "list | test NAME --to +NUMBER [--text TEXT] [--express] [--lookup] [--dry-run] | "
     "check NAME --answer FILE [--lookup] | keys, and with each [--file FILE|FOLDER]",
     run_operator},
    {0},
};

int main(int argc, char **argv)
{
    return daemon_main(&consumerd_program, verbs, serve, argc, argv);
}
