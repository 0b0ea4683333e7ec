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

/* What stays as it is while the process runs, others rely on. NULL: the set can take its place. */
static const char *what_needs_a_restart(const struct settings *s, const struct operator_set *set)
{
    int64_t timeout_ms, settles_ms;

    settings_longest(set, &timeout_ms, &settles_ms);
    if (!operator_set_alike(s->operators, set))
        return "other operators, kinds or another order: that takes a restart";
    if (timeout_ms > settings_longest_timeout_ms(&s->consumer))
        return "a timeout_ms longer than the longest at the start: that takes a restart";
    if (settles_ms > settings_longest_settling_ms(&s->consumer))
        return "a lookup_settles_ms longer than the longest at the start: that takes a restart";
    return NULL;
}

void consumer_reload(struct consumer *c)
{
    const struct settings *s = c->settings;
    struct buf errors = {0};
    struct operator_set *set;
    const char *why;
    size_t faults;

    if (!*s->consumer.operators_file)
        return;
    set = settings_read_operators(s, &errors, &faults);
    why = set ? what_needs_a_restart(s, set) : NULL;
    if (!set) {
        tell_faults(&errors);
    } else if (why) {
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
