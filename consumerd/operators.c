#include "consumerd/operators.h"

#include <string.h>

#include "consumerd/stats.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/domain/operator_exchange.h"
#include "libcommon/telemetry/log.h"

#define SECOND_US 1000000
#define PACE_BURST_US 20000

static void slots_init(struct slots *s, unsigned op, bool lookups, int64_t limit)
{
    s->op = op;
    s->lookups = lookups;
    s->limit = (unsigned)limit;
    TAILQ_INIT(&s->waiting);
}

static int64_t either(int64_t of_file, int64_t setting)
{
    return of_file >= 0 ? of_file : setting;
}

static void show_remaining(const struct operator_state *s, unsigned op,
                           const struct operator_properties *p)
{
    bool known = s->remaining != OPERATOR_NO_NUMBER;

    metrics_set(stats.op[op].remaining, known ? s->remaining : METRICS_ABSENT);
    metrics_set(stats.op[op].remaining_low,
                known && p->remaining_low ? s->remaining < p->remaining_low : METRICS_ABSENT);
}

/* What its file says by now. */
static void state_describe(struct operator_state *s, unsigned op, const struct operators *o)
{
    const struct operator_properties *p = &o->set->all[op]->properties;
    const struct consumer_settings *settings = o->settings;

    s->submits[MESSAGE_NORMAL].limit =
        (unsigned)either(p->in_flight_normal, settings->in_flight_normal);
    s->submits[MESSAGE_EXPRESS].limit =
        (unsigned)either(p->in_flight_express, settings->in_flight_express);
    s->pace_us = p->tps ? SECOND_US / p->tps : 0;
    show_remaining(s, op, p);
}

static void state_init(struct operator_state *s, unsigned op, const struct operators *o)
{
    breaker_init(&s->breaker, &o->breaker_config);
    s->shown = s->breaker.state;
    s->unfit = UNFIT_REASONS;
    s->remaining = OPERATOR_NO_NUMBER;
    for (int lane = 0; lane < MESSAGE_LANES; lane++) {
        slots_init(&s->submits[lane], op, false, 0);
        slots_init(&s->lookups[lane], op, true, o->settings->lookups_in_flight);
    }
    state_describe(s, op, o);
}

size_t operators_calls_max(const struct operator_set *set, const struct consumer_settings *s)
{
    size_t sum = set->n * MESSAGE_LANES * (size_t)s->lookups_in_flight;

    for (size_t op = 0; op < set->n; op++) {
        const struct operator_properties *p = &set->all[op]->properties;

        sum += (size_t)either(p->in_flight_normal, s->in_flight_normal);
        sum += (size_t)either(p->in_flight_express, s->in_flight_express);
    }
    return sum;
}

void operators_open(struct operators *o, const struct consumer_settings *settings,
                    struct operator_set *set, const struct transport_config *transports)
{
    size_t n = transports->operator_count;

    MUST(n > 0 && n == set->n);
    settings_breaker(settings, &o->breaker_config);
    o->settings = settings;
    o->set = operator_set_keep(set);
    o->rest_max_ms = settings->rest_max_sec * 1000;
    o->n = n;
    for (unsigned op = 0; op < n; op++) {
        o->all[op].address = &transports->operators[op];
        state_init(&o->all[op], op, o);
    }
    transport_open_all(transports, o->links);
}

void operators_close(struct operators *o)
{
    transport_close_all(o->links, o->n);
    operator_set_drop(o->set);
}

static bool is_first_of_its_link(const struct operators *o, unsigned op)
{
    for (unsigned i = 0; i < op; i++)
        if (o->links[i] == o->links[op])
            return false;
    return true;
}

void operators_reload(struct operators *o, struct operator_set *set)
{
    struct operator_set *old = o->set;

    MUST(set->n == o->n);
    o->set = operator_set_keep(set);
    for (unsigned op = 0; op < o->n; op++)
        state_describe(&o->all[op], op, o);
    for (unsigned op = 0; op < o->n; op++)
        if (is_first_of_its_link(o, op) && o->links[op]->transport->reloaded)
            o->links[op]->transport->reloaded(o->links[op], operators_calls_max(set, o->settings));
    operator_set_drop(old);
}

void operators_policy(const struct operators *o, struct delivery_policy *policy)
{
    policy->can_lookup = policy->repeat_is_safe = 0;
    for (unsigned op = 0; op < o->n; op++) {
        const struct operator_properties *p = &o->set->all[op]->properties;

        policy->can_lookup |= (uint32_t)(p->can_lookup && o->links[op]->transport->lookup) << op;
        policy->repeat_is_safe |= (uint32_t)p->repeat_is_safe << op;
        policy->tries[op] = (uint8_t)either(p->tries, o->settings->tries);
        policy->lookup_settles_ms[op] =
            either(p->lookup_settles_ms, o->settings->lookup_settles_ms);
    }
}

/* ---- slots ---- */

struct slots *operators_slots(struct operators *o, const struct run *run, unsigned op, bool lookup)
{
    struct operator_state *s = &o->all[op];
    enum message_type lane = run->job->message->type;

    return lookup ? &s->lookups[lane] : &s->submits[lane];
}

static bool is_resting(const struct operator_state *s, int64_t now_ms)
{
    return now_ms < s->rest_until_ms;
}

/* Evenly, but that what has waited for no more than PACE_BURST_US may go out together: the loop's
 * timers are no finer. */
int64_t operators_pace_wait_us(const struct operators *o, unsigned op)
{
    const struct operator_state *s = &o->all[op];
    int64_t wait_us = s->pace_us ? s->next_due_us - clock_mono_us() - PACE_BURST_US : 0;

    return wait_us > 0 ? wait_us : 0;
}

static void count_submission(struct operator_state *s)
{
    int64_t now_us = s->pace_us ? clock_mono_us() : 0;

    s->next_due_us = (s->next_due_us > now_us ? s->next_due_us : now_us) + s->pace_us;
}

bool operators_must_wait(const struct operators *o, const struct slots *slots)
{
    const struct operator_state *s = &o->all[slots->op];
    int64_t now_ms;

    if (slots->used < slots->limit && (slots->lookups || !operators_pace_wait_us(o, slots->op)))
        return false;
    now_ms = clock_mono_ms();
    return slots->lookups || !(is_resting(s, now_ms) || breaker_blocks(&s->breaker, now_ms));
}

static void show_in_flight(struct operators *o, unsigned op, int change)
{
    o->all[op].in_flight += change;
    metrics_set(stats.op[op].in_flight, o->all[op].in_flight);
}

static struct slots *give_slot(struct operators *o, struct run *run)
{
    struct slots *slots = run->slots;

    MUST(slots && slots->used);
    slots->used--;
    run->slots = NULL;
    show_in_flight(o, slots->op, -1);
    return slots;
}

void operators_wait(struct slots *slots, struct run *run)
{
    run->slots = slots;
    run->waits_for_slot = true;
    TAILQ_INSERT_TAIL(&slots->waiting, run, waiting);
}

void operators_wait_end(struct run *run)
{
    TAILQ_REMOVE(&run->slots->waiting, run, waiting);
    run->waits_for_slot = false;
    run->slots = NULL;
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

static void show_unfit(struct operator_state *s, unsigned op, enum unfit reason, const char *error)
{
    if (reason == s->unfit)
        return;
    if (reason == UNFIT_REASONS)
        log_info("operator.fit", L_STR("operator", s->address->name), L_MSG("it serves us again"));
    else
        log_error("operator.unfit", L_STR("operator", s->address->name),
                  L_STR("reason", unfit_name(reason)), L_MSG(error));
    s->unfit = reason;
    stats_unfit(op, reason);
}

void operators_look(struct operators *o)
{
    int64_t now_ms = clock_mono_ms();

    for (unsigned op = 0; op < o->n; op++) {
        breaker_look(&o->all[op].breaker, now_ms);
        show_breaker(&o->all[op], op);
    }
}

bool operators_may_submit(struct operators *o, struct run *run, unsigned op)
{
    struct operator_state *s = &o->all[op];
    int64_t now_ms = clock_mono_ms();
    bool resting = is_resting(s, now_ms);

    if (resting || !breaker_allow(&s->breaker, now_ms, &run->permit)) {
        metrics_add(stats.op[op].refused, 1);
        run_set_minor_error(run, s->address->name, resting ? "resting" : "breaker open");
        return false;
    }
    show_breaker(s, op);
    return true;
}

static enum breaker_result meaning_of(const struct transport_result *r)
{
    static const enum breaker_result meaning[VERDICTS] = {
        [VERDICT_ACCEPTED] = BREAKER_SUCCESS,  [VERDICT_REJECTED] = BREAKER_REFUSAL,
        [VERDICT_THROTTLED] = BREAKER_NEUTRAL, [VERDICT_UNFIT] = BREAKER_UNFIT,
        [VERDICT_TRANSIENT] = BREAKER_FAILURE, [VERDICT_OPTED_OUT] = BREAKER_REFUSAL,
        [VERDICT_UNKNOWN] = BREAKER_FAILURE,
    };

    if (r->verdict == VERDICT_UNFIT && !unfit_is_certain(r->unfit))
        return BREAKER_MAYBE_UNFIT;
    return meaning[r->verdict];
}

static void show_money(struct operators *o, unsigned op, const struct transport_result *r)
{
    if (r->remaining != OPERATOR_NO_NUMBER) {
        o->all[op].remaining = r->remaining;
        show_remaining(&o->all[op], op, &o->set->all[op]->properties);
    }
    if (r->verdict != VERDICT_ACCEPTED)
        return;
    if (r->parts > 0)
        metrics_add(stats.op[op].parts, (uint64_t)r->parts);
    if (r->cost_millionths > 0)
        metrics_add(stats.op[op].cost_millionths, (uint64_t)r->cost_millionths);
}

static void record_submit(struct operators *o, const struct run *run,
                          const struct transport_result *r)
{
    unsigned op = run->call.op;
    struct operator_state *s = &o->all[op];
    int64_t now_ms = clock_mono_ms();
    uint32_t era;

    metrics_add(stats.op[op].calls[r->verdict], 1);
    metrics_observe_traced(stats.op[op].seconds, r->duration_us, &run->call.trace);
    show_money(o, op, r);
    if (r->verdict == VERDICT_THROTTLED)
        s->rest_until_ms = now_ms + (r->rest_ms < o->rest_max_ms ? r->rest_ms : o->rest_max_ms);
    era = s->breaker.era;
    breaker_record(&s->breaker, run->permit, meaning_of(r), run->job->message->id,
                   r->duration_us / 1000, now_ms);
    show_breaker(s, op);
    if (s->breaker.state == BREAKER_CLOSED)
        show_unfit(s, op, UNFIT_REASONS, NULL);
    else if (s->breaker.era != era && r->verdict == VERDICT_UNFIT)
        show_unfit(s, op, r->unfit, r->error);
}

void operators_drop_submit(struct operators *o, const struct run *run)
{
    breaker_record(&o->all[run->call.op].breaker, run->permit, BREAKER_NEUTRAL,
                   run->job->message->id, 0, clock_mono_ms());
}

/* ---- calls ---- */

bool operators_call(struct operators *o, struct slots *slots, struct run *run)
{
    struct transport_link *link = o->links[slots->op];
    const struct transport *t = link->transport;

    if (!(slots->lookups ? t->lookup : t->submit)(link, &run->call))
        return false;
    run->slots = slots;
    slots->used++;
    if (!slots->lookups)
        count_submission(&o->all[slots->op]);
    show_in_flight(o, slots->op, 1);
    return true;
}

/* Why, when the transport has no words of its own. */
static const char *plain_error(const struct transport_result *r)
{
    if (*r->error)
        return r->error;
    if (r->lookup)
        return r->answer == LOOKUP_UNREACHABLE ? lookup_answer_name(r->answer) : NULL;
    return r->verdict == VERDICT_ACCEPTED ? NULL : verdict_name(r->verdict);
}

/* 0: it does not say. */
static unsigned parts_of(const struct transport_result *r)
{
    return r->parts > 0 && r->parts <= UINT16_MAX ? (unsigned)r->parts : 0;
}

struct slots *operators_called(struct operators *o, struct run *run,
                               const struct transport_result *r)
{
    unsigned op = run->call.op;
    const char *error = plain_error(r);

    if (error)
        (r->lookup ? run_set_minor_error : run_set_error)(run, o->all[op].address->name, error);
    if (r->lookup ? r->answer == LOOKUP_FOUND : r->verdict == VERDICT_ACCEPTED)
        memcpy(run->job->provider_id, r->provider_id, sizeof(run->job->provider_id));
    run->job->parts = parts_of(r);
    if (r->lookup)
        metrics_add(stats.op[op].lookups[r->answer], 1);
    else
        record_submit(o, run, r);
    return give_slot(o, run);
}

void operators_abort(struct operators *o, struct run *run)
{
    struct transport_link *link = o->links[run->call.op];

    link->transport->abort(link, &run->call);
    if (!run->slots->lookups) {
        run_set_error(run, o->all[run->call.op].address->name, "given up before its answer");
        operators_drop_submit(o, run);
    }
    give_slot(o, run);
}
