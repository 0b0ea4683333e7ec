#include "consumerd/operators.h"

#include <stdio.h>

#include "consumerd/stats.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/log.h"

static void slots_init(struct slots *s, unsigned op, bool lookups, int64_t limit)
{
    s->op = op;
    s->lookups = lookups;
    s->limit = (unsigned)limit;
    TAILQ_INIT(&s->waiting);
}

void operators_init(struct operators *o, const struct consumer_settings *settings,
                    const struct operator_address *addresses, size_t n)
{
    MUST(n > 0 && n <= OPERATORS_MAX);
    settings_breaker(settings, &o->breaker_config);
    o->rest_max_ms = settings->rest_max_sec * 1000;
    o->n = n;
    for (unsigned op = 0; op < n; op++) {
        struct operator_state *s = &o->all[op];

        s->address = &addresses[op];
        breaker_init(&s->breaker, &o->breaker_config);
        s->shown = s->breaker.state;
        slots_init(&s->posts[MESSAGE_NORMAL], op, false, settings->in_flight_normal);
        slots_init(&s->posts[MESSAGE_EXPRESS], op, false, settings->in_flight_express);
        for (int lane = 0; lane < MESSAGE_LANES; lane++)
            slots_init(&s->lookups[lane], op, true, settings->lookups_in_flight);
    }
}

/* ---- slots ---- */

struct slots *operators_slots(struct operators *o, const struct job *job, unsigned op, bool lookup)
{
    struct operator_state *s = &o->all[op];

    return lookup ? &s->lookups[job->message->type] : &s->posts[job->message->type];
}

static bool is_resting(const struct operator_state *s, int64_t now_ms)
{
    return now_ms < s->rest_until_ms;
}

bool operators_must_wait(const struct operators *o, const struct slots *slots)
{
    const struct operator_state *s = &o->all[slots->op];
    int64_t now_ms;

    if (slots->used < slots->limit)
        return false;
    now_ms = clock_mono_ms();
    return slots->lookups || !(is_resting(s, now_ms) || breaker_blocks(&s->breaker, now_ms));
}

static void show_in_flight(struct operators *o, unsigned op, int change)
{
    o->all[op].in_flight += change;
    metrics_set(stats.op[op].in_flight, o->all[op].in_flight);
}

void operators_take_slot(struct operators *o, struct slots *slots, struct job *job)
{
    job->slots = slots;
    slots->used++;
    show_in_flight(o, slots->op, 1);
}

struct slots *operators_give_slot(struct operators *o, struct job *job)
{
    struct slots *slots = job->slots;

    MUST(slots && slots->used);
    slots->used--;
    job->slots = NULL;
    show_in_flight(o, slots->op, -1);
    return slots;
}

void operators_wait(struct slots *slots, struct job *job)
{
    job->slots = slots;
    job->waiting_for_slot = true;
    TAILQ_INSERT_TAIL(&slots->waiting, job, link);
}

void operators_wait_end(struct job *job)
{
    TAILQ_REMOVE(&job->slots->waiting, job, link);
    job->waiting_for_slot = false;
    job->slots = NULL;
}

/* ---- breaker and rest ---- */

static void show_breaker(struct operator_state *s, unsigned op)
{
    if (s->breaker.state == s->shown)
        return;
    log_info("breaker.changed", L_STR("operator", s->address->name),
             L_STR("from", breaker_state_name(s->shown)),
             L_STR("to", breaker_state_name(s->breaker.state)), L_STR("reason", s->breaker.reason));
    s->shown = s->breaker.state;
    stats_breaker(op, s->shown);
}

bool operators_may_post(struct operators *o, struct job *job, unsigned op)
{
    struct operator_state *s = &o->all[op];
    int64_t now_ms = clock_mono_ms();
    bool resting = is_resting(s, now_ms);

    if (resting || !breaker_allow(&s->breaker, now_ms, &job->permit)) {
        metrics_add(stats.op[op].refused, 1);
        snprintf(job->error, sizeof(job->error), "%s: %s", s->address->name,
                 resting ? "resting" : "breaker open");
        return false;
    }
    show_breaker(s, op);
    return true;
}

void operators_record_post(struct operators *o, const struct job *job, const struct send_result *r)
{
    static const struct {
        enum stats_call call;
        enum breaker_result breaker;
    } meaning[] = {
        [POST_ACCEPTED] = {STATS_ACCEPTED, BREAKER_SUCCESS},
        [POST_TRANSIENT] = {STATS_TRANSIENT, BREAKER_FAILURE},
        [POST_RESTING] = {STATS_RATE_LIMITED, BREAKER_NEUTRAL},
        [POST_REJECTED] = {STATS_REJECTED, BREAKER_REFUSAL},
        [POST_UNKNOWN] = {STATS_UNKNOWN, BREAKER_FAILURE},
    };
    unsigned op = job->delivery.op;
    struct operator_state *s = &o->all[op];
    int64_t now_ms = clock_mono_ms();

    metrics_add(stats.op[op].calls[meaning[r->post].call], 1);
    metrics_observe_traced(stats.op[op].seconds, r->duration_us, &job->call);
    if (r->post == POST_RESTING)
        s->rest_until_ms = now_ms + (r->rest_ms < o->rest_max_ms ? r->rest_ms : o->rest_max_ms);
    breaker_record(&s->breaker, job->permit, meaning[r->post].breaker, r->duration_us / 1000,
                   now_ms);
    show_breaker(s, op);
}

void operators_drop_post(struct operators *o, const struct job *job)
{
    breaker_record(&o->all[job->delivery.op].breaker, job->permit, BREAKER_NEUTRAL, 0,
                   clock_mono_ms());
}

void operators_record_lookup(const struct job *job, const struct send_result *r)
{
    static const enum stats_lookup meaning[] = {[LOOKUP_FOUND] = STATS_FOUND,
                                                [LOOKUP_NOT_FOUND] = STATS_NOT_FOUND,
                                                [LOOKUP_UNREACHABLE] = STATS_UNREACHABLE};

    metrics_add(stats.op[job->delivery.op].lookups[meaning[r->lookup]], 1);
}
