#include "consumerd/delivery.h"

#include <string.h>

#include "libcommon/base/must.h"

#define NONE UINT8_MAX

enum phase {
    PHASE_ASK,      /* step 1: who has it already? */
    PHASE_SUBMIT,   /* step 2 */
    PHASE_CONFIRM,  /* step 3: the question after an unknown outcome */
    PHASE_LAST_ASK, /* step 4: the window is over, nothing is submitted any more */
    PHASE_OVER,
};

static uint32_t bit(unsigned op)
{
    return UINT32_C(1) << op;
}

static unsigned lowest(uint32_t set)
{
    return (unsigned)__builtin_ctz(set);
}

/* The only place where the phase changes. */
static struct delivery_action enter(struct delivery *d, enum phase phase, enum delivery_step step)
{
    if (d->stopping && step < DELIVERY_DONE)
        step = DELIVERY_LATER;
    d->phase = (uint8_t)(step >= DELIVERY_DONE ? PHASE_OVER : phase);
    return (struct delivery_action){.step = step, .op = d->op};
}

static struct delivery_action wait(struct delivery *d, unsigned attempt)
{
    struct delivery_action action = enter(d, d->phase, DELIVERY_WAIT);

    action.attempt = attempt;
    return action;
}

static struct delivery_action wait_ms(struct delivery *d, int64_t ms)
{
    struct delivery_action action = enter(d, d->phase, DELIVERY_WAIT);

    action.wait_ms = ms;
    return action;
}

/* An operator may have the message, and has not answered. */
static bool in_doubt(const struct delivery *d)
{
    return d->unknown || d->gone;
}

static bool is_holding(const struct delivery *d)
{
    return d->policy->hold_unknown && in_doubt(d);
}

static bool window_is_over(const struct delivery *d, int64_t now_ms)
{
    return now_ms >= d->give_up_at_ms;
}

/* Operators that may still get the message twice if it is submitted to them again. */
static uint32_t barred(const struct delivery *d)
{
    return d->doubtful & ~d->policy->repeat_is_safe;
}

static unsigned tries_at(const struct delivery *d)
{
    return d->policy->tries[d->op];
}

/* Before this, the operator's "not found" is "not yet". */
static int64_t settles_at_ms(const struct delivery *d)
{
    return d->submitted_at_ms + d->policy->lookup_settles_ms[d->op];
}

static void settle_doubt(struct delivery *d)
{
    d->unknown &= ~bit(d->op);
    d->doubtful &= ~bit(d->op);
}

static struct delivery_action done(struct delivery *d)
{
    settle_doubt(d);
    return enter(d, PHASE_OVER, DELIVERY_DONE);
}

static struct delivery_action submit(struct delivery *d)
{
    return enter(d, PHASE_SUBMIT, DELIVERY_SUBMIT);
}

static struct delivery_action ask(struct delivery *d, enum phase phase, unsigned op)
{
    d->op = (uint8_t)op;
    d->lookups = 0;
    return enter(d, phase, DELIVERY_LOOKUP);
}

static struct delivery_action give_up(struct delivery *d)
{
    return enter(d, PHASE_OVER, is_holding(d) ? DELIVERY_HELD : DELIVERY_FAILED);
}

static struct delivery_action last_ask(struct delivery *d)
{
    d->to_ask = d->unknown & d->policy->can_lookup;
    return d->to_ask ? ask(d, PHASE_LAST_ASK, lowest(d->to_ask)) : give_up(d);
}

/* No operator is left in this round. Holding, those that are unknown have been asked in it. */
static struct delivery_action round_spent(struct delivery *d, int64_t now_ms)
{
    if (!in_doubt(d) && d->rejected == DELIVERY_ALL(d->policy->operators))
        return enter(d, PHASE_OVER, DELIVERY_FAILED);
    if (!window_is_over(d, now_ms))
        return enter(d, PHASE_OVER, DELIVERY_LATER);
    return is_holding(d) ? give_up(d) : last_ask(d);
}

/* Holding, the only one that may have it may be submitted to again. */
static uint32_t usable_operators(const struct delivery *d, int64_t now_ms)
{
    uint32_t usable = DELIVERY_ALL(d->policy->operators);

    if (is_holding(d)) {
        bool alone = !d->gone && !(d->unknown & (d->unknown - 1));

        usable = alone && !window_is_over(d, now_ms) ? d->unknown : 0;
    }
    return usable & ~(d->spent | barred(d));
}

static struct delivery_action next_operator(struct delivery *d, int64_t now_ms)
{
    uint32_t usable = usable_operators(d, now_ms);

    if (!usable)
        return round_spent(d, now_ms);
    d->op = (uint8_t)(d->preferred != NONE && (usable & bit(d->preferred)) ? d->preferred
                                                                           : lowest(usable));
    d->tries = 0;
    return submit(d);
}

static struct delivery_action spend_operator(struct delivery *d, int64_t now_ms)
{
    d->spent |= bit(d->op);
    return next_operator(d, now_ms);
}

struct delivery_action delivery_start(struct delivery *d, const struct delivery_policy *policy,
                                      const struct delivery_row *row, int64_t now_ms)
{
    uint32_t all = DELIVERY_ALL(policy->operators);
    uint32_t noted = row->unknown & all;

    memset(d, 0, sizeof(*d));
    d->policy = policy;
    d->give_up_at_ms = row->give_up_at_ms;
    d->submitted_at_ms = row->submitted_at_ms;
    d->any = row->any;
    d->gone = row->gone;
    d->unknown = row->any ? all : noted;
    d->doubtful = noted | (d->unknown & ~policy->repeat_is_safe);
    d->preferred = NONE;
    if (policy->hold_unknown && (noted || row->gone) && window_is_over(d, now_ms))
        return last_ask(d);
    d->to_ask = d->unknown & policy->can_lookup;
    if (d->to_ask)
        return ask(d, PHASE_ASK, lowest(d->to_ask));
    return next_operator(d, now_ms);
}

static void note_unknown(struct delivery *d)
{
    d->unknown |= bit(d->op);
    d->doubtful |= bit(d->op);
}

struct delivery_action delivery_on_submit(struct delivery *d, enum verdict verdict, int64_t now_ms)
{
    MUST(d->phase == PHASE_SUBMIT);
    d->tries++;
    switch (verdict) {
    case VERDICT_ACCEPTED:
        return done(d);
    case VERDICT_REJECTED:
        settle_doubt(d);
        d->rejected |= bit(d->op);
        return spend_operator(d, now_ms);
    case VERDICT_OPTED_OUT:
        settle_doubt(d);
        d->opted_out = true;
        return enter(d, PHASE_OVER, DELIVERY_FAILED);
    case VERDICT_TRANSIENT:
        if (d->tries >= tries_at(d))
            return spend_operator(d, now_ms);
        return wait(d, d->tries);
    case VERDICT_UNKNOWN:
        note_unknown(d);
        d->submitted_at_ms = now_ms;
        if (!(bit(d->op) & d->policy->can_lookup))
            return spend_operator(d, now_ms);
        return ask(d, PHASE_CONFIRM, d->op);
    case VERDICT_THROTTLED:
    case VERDICT_UNFIT:
    case VERDICTS:
        break;
    }
    return spend_operator(d, now_ms);
}

/* A lookup has told all it can about d->op; resolved: it does not have the message. */
static struct delivery_action asked(struct delivery *d, bool resolved, int64_t now_ms)
{
    if (d->phase == PHASE_CONFIRM) {
        if (resolved && d->tries < tries_at(d) && !(bit(d->op) & barred(d)))
            return submit(d);
        return spend_operator(d, now_ms);
    }
    d->to_ask &= ~bit(d->op);
    if (d->to_ask)
        return ask(d, d->phase, lowest(d->to_ask));
    if (d->phase == PHASE_LAST_ASK)
        return give_up(d);
    return next_operator(d, now_ms);
}

/* "Not found", and the lookup may not know yet. */
static struct delivery_action ask_when_settled(struct delivery *d, int64_t now_ms)
{
    int64_t left_ms = settles_at_ms(d) - now_ms;

    if (left_ms > DELIVERY_SETTLE_WAIT_MAX_MS && !window_is_over(d, now_ms))
        return enter(d, PHASE_OVER, DELIVERY_LATER);
    d->lookups = 0;
    return wait_ms(d, left_ms);
}

struct delivery_action delivery_on_lookup(struct delivery *d, enum lookup_answer answer,
                                          int64_t now_ms)
{
    MUST(d->phase == PHASE_ASK || d->phase == PHASE_CONFIRM || d->phase == PHASE_LAST_ASK);
    d->lookups++;
    switch (answer) {
    case LOOKUP_FOUND:
        return done(d);
    case LOOKUP_NOT_FOUND:
        if (now_ms < settles_at_ms(d))
            return ask_when_settled(d, now_ms);
        d->unknown &= ~bit(d->op);
        if (d->phase == PHASE_ASK && !d->any && d->preferred == NONE)
            d->preferred = d->op;
        return asked(d, true, now_ms);
    case LOOKUP_UNREACHABLE:
        if (d->lookups < d->policy->lookup_tries)
            return wait(d, d->lookups);
        break;
    case LOOKUP_ANSWERS:
        break;
    }
    return asked(d, false, now_ms);
}

struct delivery_action delivery_on_blocked(struct delivery *d, int64_t now_ms)
{
    MUST(d->phase == PHASE_SUBMIT);
    return spend_operator(d, now_ms);
}

struct delivery_action delivery_on_timer(struct delivery *d)
{
    return enter(d, d->phase, d->phase == PHASE_SUBMIT ? DELIVERY_SUBMIT : DELIVERY_LOOKUP);
}

uint32_t delivery_noted(const struct delivery *d)
{
    return d->unknown | d->doubtful;
}

enum delivery_failure delivery_failure(const struct delivery *d)
{
    if (d->opted_out)
        return DELIVERY_OPTED_OUT;
    return d->rejected == DELIVERY_ALL(d->policy->operators) ? DELIVERY_REJECTED : DELIVERY_EXPIRED;
}

const char *delivery_failure_name(enum delivery_failure failure)
{
    static const char *const names[DELIVERY_FAILURES] = {
        [DELIVERY_EXPIRED] = "expired",
        [DELIVERY_REJECTED] = "rejected",
        [DELIVERY_OPTED_OUT] = "opted_out",
    };

    return names[failure];
}

void delivery_stop(struct delivery *d)
{
    d->stopping = true;
}

void delivery_give_up_submit(struct delivery *d)
{
    MUST(d->phase == PHASE_SUBMIT);
    note_unknown(d);
}
