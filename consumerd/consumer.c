#include "consumerd/consumer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/alone.h"
#include "consumerd/dispatch.h"
#include "consumerd/lane.h"
#include "consumerd/stats.h"
#include "consumerd/worker.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/log.h"

#define HURRY_MS 1500 /* of the drain's time, for settling what had to be interrupted */
#define ABORT_MS 500

struct consumer {
    const struct settings *settings;
    struct operator_address operators[OPERATORS_MAX];
    struct worker *worker;
    struct dispatch *dispatch;
    struct job_queue *queues[MESSAGE_LANES];
    struct alone *alone;
    struct lane *lanes[MESSAGE_LANES];
};

struct consumer *consumer_start(const struct settings *settings, struct doorbell *doorbell)
{
    struct consumer *c = must_alloc(1, sizeof(*c));
    size_t n = settings_addresses(settings->operators, c->operators);

    c->settings = settings;
    stats_register(settings, c->operators, n);
    c->worker = worker_start(settings);
    for (int type = 0; type < MESSAGE_LANES; type++)
        c->queues[type] = job_queue_new();
    c->alone = alone_new(c->queues, ALONE_CLOSED_MS_MAX);
    c->dispatch = dispatch_start(settings, c->operators, settings->operators, c->worker, c->queues);
    for (int type = MESSAGE_LANES - 1; type >= 0; type--) {
        const struct lane_config config = {.type = (enum message_type)type,
                                           .settings = settings,
                                           .operators = c->operators,
                                           .operator_count = n,
                                           .worker = c->worker,
                                           .alone = c->alone,
                                           .doorbell = doorbell,
                                           .queue = c->queues[type]};

        c->lanes[type] = lane_new(&config);
        lane_start(c->lanes[type], c->dispatch);
    }
    return c;
}

static void tell_faults(const struct buf *errors)
{
    for (const char *at = errors->len ? errors->data : ""; *at;) {
        size_t n = strcspn(at, "\n");
        char line[512];

        snprintf(line, sizeof(line), "%.*s", (int)(n < 500 ? n : 500), at);
        log_error("operators.reload_failed", L_MSG(line));
        at += n + (at[n] != '\0');
    }
}

/* What was weighed against the settings at the start. */
static const char *exceeds_the_start(const struct consumer_settings *c,
                                     const struct operator_properties *p)
{
    if (p->timeout_ms > settings_longest_timeout_ms(c))
        return "timeout_ms";
    return p->lookup_settles_ms > settings_longest_settling_ms(c) ? "lookup_settles_ms" : NULL;
}

/* False: others rely on what would change. */
static bool may_follow(const struct settings *s, const struct operator_set *set, char *why,
                       size_t size)
{
    if (!operator_set_may_follow(s->operators, set, why, size))
        return false;
    for (size_t i = 0; i < set->n; i++) {
        const char *key = exceeds_the_start(&s->consumer, &set->all[i]->properties);

        if (key) {
            snprintf(why, size,
                     "[%s] has a %s above the longest of the start: that takes a restart",
                     set->all[i]->name, key);
            return false;
        }
    }
    return true;
}

void consumer_reload(struct consumer *c)
{
    const struct settings *s = c->settings;
    struct buf errors = {0};
    struct operator_set *set;
    char why[OPERATOR_WHY_SIZE];
    size_t faults;

    if (!*s->consumer.operators_file)
        return;
    set = settings_read_operators(s, &errors, &faults);
    if (!set) {
        tell_faults(&errors);
    } else if (!may_follow(s, set, why, sizeof(why))) {
        log_error("operators.reload_failed", L_MSG(why));
    } else {
        dispatch_reload(c->dispatch, set);
        log_info("operators.reloaded", L_INT("operators", set->n));
    }
    operator_set_drop(set);
    buf_free(&errors);
}

/* True: both lanes have ended. */
static bool wait_for_lanes(struct consumer *c, int reserve_ms)
{
    bool all = true;

    for (int type = 0; type < MESSAGE_LANES; type++) {
        int left_ms = daemon_drain_left_ms() - reserve_ms;

        all &= lane_wait(c->lanes[type], left_ms > 0 ? left_ms : 0);
    }
    return all;
}

void consumer_stop(struct consumer *c)
{
    bool clean;

    for (int type = 0; type < MESSAGE_LANES; type++)
        lane_drain(c->lanes[type]);
    dispatch_drain(c->dispatch);
    clean = wait_for_lanes(c, HURRY_MS);
    if (!clean) {
        dispatch_hurry(c->dispatch);
        clean = wait_for_lanes(c, ABORT_MS);
    }
    if (!clean)
        log_warn("consumer.drain_cut_short",
                 L_MSG("what was left in hand is taken over by other consumers"));
    for (int type = 0; type < MESSAGE_LANES; type++)
        lane_abort(c->lanes[type]);
    dispatch_stop(c->dispatch);
    for (int type = 0; type < MESSAGE_LANES; type++)
        lane_free(c->lanes[type]); /* until it ends, its thread may still submit, and poke */
    alone_free(c->alone);
    for (int type = 0; type < MESSAGE_LANES; type++)
        job_queue_free(c->queues[type]);
    dispatch_free(c->dispatch);
    worker_stop(c->worker, clean);
    free(c);
}
