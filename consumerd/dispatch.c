#include "consumerd/dispatch.h"

#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/operators.h"
#include "consumerd/spans.h"
#include "libcommon/base/backoff.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/random.h"

#define TRUST_CHECK_MS 200 /* how soon calls are given up when the incarnation is over */
#define BEAT_SEC 2

enum order { ORDER_NONE, ORDER_DRAIN, ORDER_HURRY, ORDER_STOP };

struct dispatch {
    const struct settings *settings;
    struct worker *worker;
    struct job_queue *const *queues;
    const struct operator_address *addresses;
    struct delivery_policy policy;
    struct operators operators;
    struct event_base *base;
    struct event *wake, *check, *beat_timer;
    struct event *paces[OPERATORS_MAX]; /* of operators for whose pace somebody waits */
    struct daemon_beat *beat;
    struct run_list active; /* of every job that is in here */
    struct run_list idle;
    pthread_t thread;
    struct job_queue *submitted;
    _Atomic(struct operator_set *) reload; /* NULL: nothing new */
    _Atomic int order;
    int obeyed;
};

/* ---- one job ---- */

static void hand_back(struct dispatch *d, struct job *job, enum job_outcome outcome)
{
    job->outcome = outcome;
    job_queue_put(d->queues[job->message->type], job);
}

static void finish(struct dispatch *d, struct run *run, enum job_outcome outcome)
{
    const struct delivery *v = &run->delivery;
    struct job *job = run->job;

    job->op = v->op;
    job->unknown = delivery_noted(v);
    job->failure = delivery_failure(v);
    event_del(&run->backoff);
    TAILQ_REMOVE(&d->active, run, link);
    run_end(&d->idle, run);
    hand_back(d, job, outcome);
}

static bool start_call(struct dispatch *d, struct run *run, struct slots *slots)
{
    run->call.op = slots->op;
    spans_call_begins(&run->call);
    return operators_call(&d->operators, slots, run);
}

/* Nothing was sent for want of memory. */
static struct delivery_action not_started(struct dispatch *d, struct run *run, bool lookup)
{
    int64_t now_ms = clock_mono_ms();

    (lookup ? run_set_minor_error : run_set_error)(run, "dispatch", "out of memory");
    if (lookup)
        return delivery_on_lookup(&run->delivery, LOOKUP_UNREACHABLE, now_ms);
    operators_drop_submit(&d->operators, run);
    return delivery_on_submit(&run->delivery, VERDICT_TRANSIENT, now_ms);
}

static void wait_for(struct dispatch *d, struct run *run, const struct delivery_action *action)
{
    const struct consumer_settings *s = &d->settings->consumer;
    int64_t ms = action->wait_ms
                     ? action->wait_ms
                     : backoff_ms(action->attempt, s->backoff_ms, s->backoff_max_ms, random_u64());
    struct timeval tv = {ms / 1000, ms % 1000 * 1000};

    event_add(&run->backoff, &tv);
}

/* Those that wait are looked at when the operator's pace lets the next one go. */
static void await_pace(struct dispatch *d, unsigned op)
{
    int64_t wait_us = operators_pace_wait_us(&d->operators, op);
    struct timeval tv = {wait_us / 1000000, wait_us % 1000000};

    if (wait_us && !event_pending(d->paces[op], EV_TIMEOUT, NULL))
        event_add(d->paces[op], &tv);
}

/* Carries out actions until the run has to wait for something or is finished. */
static void drive(struct dispatch *d, struct run *run, struct delivery_action action)
{
    for (;;) {
        struct slots *slots;
        bool lookup;

        switch (action.step) {
        case DELIVERY_DONE:
            finish(d, run, JOB_DONE);
            return;
        case DELIVERY_FAILED:
            finish(d, run, JOB_FAILED);
            return;
        case DELIVERY_LATER:
            finish(d, run, JOB_LATER);
            return;
        case DELIVERY_HELD:
            finish(d, run, JOB_HELD);
            return;
        case DELIVERY_WAIT:
            wait_for(d, run, &action);
            return;
        case DELIVERY_SUBMIT:
        case DELIVERY_LOOKUP:
            break;
        }
        if (!worker_holds(d->worker, run->job->era)) {
            finish(d, run, JOB_ABANDONED);
            return;
        }
        lookup = action.step == DELIVERY_LOOKUP;
        slots = operators_slots(&d->operators, run, action.op, lookup);
        if (lookup && !(d->policy.can_lookup & 1u << action.op)) { /* by now */
            action = delivery_on_lookup(&run->delivery, LOOKUP_UNREACHABLE, clock_mono_ms());
            continue;
        }
        if (operators_must_wait(&d->operators, slots)) {
            operators_wait(slots, run);
            await_pace(d, action.op);
            return;
        }
        if (!lookup && !operators_may_submit(&d->operators, run, action.op))
            action = delivery_on_blocked(&run->delivery, clock_mono_ms());
        else if (start_call(d, run, slots))
            return;
        else
            action = not_started(d, run, lookup);
    }
}

/* Those that wait for a slot go on: as many as there are slots, or all of them when the operator
 * may not be used at present and they need not wait. */
static void serve_waiting(struct dispatch *d, struct slots *s)
{
    struct run *run;

    while ((run = TAILQ_FIRST(&s->waiting)) && !operators_must_wait(&d->operators, s)) {
        operators_wait_end(run);
        drive(d, run,
              (struct delivery_action){.step = s->lookups ? DELIVERY_LOOKUP : DELIVERY_SUBMIT,
                                       .op = s->op});
    }
    if (run && !s->lookups)
        await_pace(d, s->op);
}

static void serve_operator(struct dispatch *d, struct operator_state *o)
{
    serve_waiting(d, &o->submits[MESSAGE_EXPRESS]);
    serve_waiting(d, &o->submits[MESSAGE_NORMAL]);
    serve_waiting(d, &o->lookups[MESSAGE_EXPRESS]);
    serve_waiting(d, &o->lookups[MESSAGE_NORMAL]);
}

static void on_pace(evutil_socket_t fd, short what, void *arg)
{
    struct operator_state *o = arg;
    struct dispatch *d = o->dispatch;

    (void)fd;
    (void)what;
    serve_operator(d, o);
}

static void on_backoff_over(evutil_socket_t fd, short what, void *arg)
{
    struct run *run = arg;

    (void)fd;
    (void)what;
    drive(run->dispatch, run, delivery_on_timer(&run->delivery));
}

static void begin(struct dispatch *d, struct job *job)
{
    const struct delivery_row row = {.unknown = job->unknown,
                                     .gone = job->gone != NULL,
                                     .any = job->any,
                                     .give_up_at_ms = job->give_up_at_ms,
                                     .submitted_at_ms = job->submitted_at_ms};
    struct run *run = run_begin(&d->idle, d, job);
    struct delivery_action action;

    if (!run) { /* as it came: for a later round */
        snprintf(job->error, sizeof(job->error), "dispatch: out of memory");
        job->unknown = job->any ? DELIVERY_ALL(d->operators.n) : job->unknown;
        hand_back(d, job, JOB_LATER);
        return;
    }
    TAILQ_INSERT_TAIL(&d->active, run, link);
    evtimer_assign(&run->backoff, d->base, on_backoff_over, run);
    action = delivery_start(&run->delivery, &d->policy, &row, clock_mono_ms());
    if (d->obeyed >= ORDER_DRAIN)
        finish(d, run, JOB_LATER);
    else
        drive(d, run, action);
}

/* transport.h: a call has ended. */
static void on_call_done(struct transport_call *call, const struct transport_result *r, void *arg)
{
    struct dispatch *d = arg;
    struct run *run = (struct run *)((char *)call - offsetof(struct run, call));
    struct operator_state *o = &d->operators.all[call->op];
    int64_t now_ms = clock_mono_ms();
    struct slots *slots;

    spans_call_ends(call, r, o->address);
    slots = operators_called(&d->operators, run, r);
    drive(d, run,
          r->lookup ? delivery_on_lookup(&run->delivery, r->answer, now_ms)
                    : delivery_on_submit(&run->delivery, r->verdict, now_ms));
    serve_waiting(d, slots);
    if (!r->lookup && r->verdict != VERDICT_ACCEPTED)
        serve_operator(d, o); /* the breaker may have opened, or the operator rests */
}

/* ---- giving up ---- */

/* Takes the run out of whatever it waits for. */
static void interrupt(struct dispatch *d, struct run *run)
{
    event_del(&run->backoff);
    if (run->waits_for_slot)
        operators_wait_end(run);
    if (transport_under_way(&run->call))
        operators_abort(&d->operators, run);
}

static void abandon_all(struct dispatch *d)
{
    struct run *run;

    while ((run = TAILQ_FIRST(&d->active))) {
        interrupt(d, run);
        finish(d, run, JOB_ABANDONED);
    }
}

static void abandon_stale(struct dispatch *d)
{
    struct run *next;

    for (struct run *run = TAILQ_FIRST(&d->active); run; run = next) {
        next = TAILQ_NEXT(run, link);
        if (!worker_holds(d->worker, run->job->era)) {
            interrupt(d, run);
            finish(d, run, JOB_ABANDONED);
        }
    }
    for (size_t i = 0; i < d->operators.n; i++)
        serve_operator(d, &d->operators.all[i]);
}

/* hurry: calls under way are not waited for either. */
static void drain(struct dispatch *d, bool hurry)
{
    struct run *next;

    for (struct run *run = TAILQ_FIRST(&d->active); run; run = next) {
        bool calling = transport_under_way(&run->call);

        next = TAILQ_NEXT(run, link);
        delivery_stop(&run->delivery);
        if (calling && !hurry)
            continue;
        if (calling && !run->slots->lookups)
            delivery_give_up_submit(&run->delivery);
        interrupt(d, run);
        finish(d, run, JOB_LATER);
    }
}

/* transport.h: before anything may go out. All jobs in here belong to the same incarnation but for
 * the moments in which it changes. */
static bool may_send(void *arg)
{
    struct dispatch *d = arg;
    struct run *first = TAILQ_FIRST(&d->active);

    if (!first || worker_holds(d->worker, first->job->era))
        return true;
    abandon_stale(d);
    return false;
}

/* ---- the thread ---- */

static void obey(struct dispatch *d, int order)
{
    if (order == d->obeyed)
        return;
    d->obeyed = order;
    if (order == ORDER_STOP) {
        abandon_all(d);
        event_base_loopbreak(d->base);
    } else {
        drain(d, order == ORDER_HURRY);
    }
}

static void set_policy(struct dispatch *d)
{
    const struct consumer_settings *s = &d->settings->consumer;

    operators_policy(&d->operators, &d->policy);
    d->policy.can_lookup &=
        ~settings_operator_mask(d->addresses, d->operators.n, s->without_lookup);
    d->policy.repeat_is_safe &=
        ~settings_operator_mask(d->addresses, d->operators.n, s->repeat_unsafe);
}

/* Takes the reference over. */
static void take_set(struct dispatch *d, struct operator_set *set)
{
    operators_reload(&d->operators, set);
    operator_set_drop(set);
    set_policy(d);
    for (size_t i = 0; i < d->operators.n; i++)
        serve_operator(d, &d->operators.all[i]);
}

/* The order is read before the jobs are taken: none that came before it is left behind. */
static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct dispatch *d = arg;
    int order = atomic_load(&d->order);
    struct operator_set *set = atomic_exchange(&d->reload, NULL);
    struct job_list jobs = TAILQ_HEAD_INITIALIZER(jobs);
    struct timeval check = {0, TRUST_CHECK_MS * 1000};
    struct job *job;

    (void)fd;
    (void)what;
    if (set)
        take_set(d, set);
    job_queue_take(d->submitted, &jobs);
    if (!TAILQ_EMPTY(&jobs) && !event_pending(d->check, EV_TIMEOUT, NULL))
        event_add(d->check, &check);
    while ((job = TAILQ_FIRST(&jobs))) {
        TAILQ_REMOVE(&jobs, job, link);
        begin(d, job);
    }
    obey(d, order);
}

/* Runs while there is something to give up: an idle process is not woken for it. */
static void on_check(evutil_socket_t fd, short what, void *arg)
{
    struct dispatch *d = arg;

    (void)fd;
    (void)what;
    if (TAILQ_EMPTY(&d->active))
        event_del(d->check);
    else
        abandon_stale(d);
}

static void on_beat(evutil_socket_t fd, short what, void *arg)
{
    struct dispatch *d = arg;

    (void)fd;
    (void)what;
    daemon_beat(d->beat);
    operators_look(&d->operators);
}

static void *loop(void *arg)
{
    struct dispatch *d = arg;

    event_base_loop(d->base, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

static void operators_init(struct dispatch *d, const struct operator_address *operators,
                           struct operator_set *set)
{
    const struct consumer_settings *s = &d->settings->consumer;
    const struct transport_config config = {
        .base = d->base,
        .operators = operators,
        .operator_count = set->n,
        .set = &d->operators.set,
        .tls_ca = s->tls_ca,
        .receipts = &d->settings->receipts,
        .timeout_ms = s->timeout_ms,
        .name_sec = TRANSPORT_NAME_SEC,
        .calls_max = operators_calls_max(set, s),
        .done = on_call_done,
        .may_send = may_send,
        .arg = d,
    };

    operators_open(&d->operators, s, set, &config);
    d->policy = (struct delivery_policy){
        .operators = (unsigned)set->n,
        .lookup_tries = (unsigned)s->lookup_tries,
        .hold_unknown = !strcmp(s->unknown_policy, "hold"),
    };
    set_policy(d);
    for (unsigned op = 0; op < set->n; op++) {
        d->paces[op] = evtimer_new(d->base, on_pace, &d->operators.all[op]);
        MUST(d->paces[op]);
        d->operators.all[op].dispatch = d;
    }
}

static void events_init(struct dispatch *d)
{
    const struct timeval beat_every = {BEAT_SEC, 0};
    struct event_config *config = event_config_new();

    MUST(config);
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
    d->base = event_base_new_with_config(config);
    event_config_free(config);
    MUST(d->base);
    d->wake = event_new(d->base, job_queue_fd(d->submitted), EV_READ | EV_PERSIST, on_wake, d);
    d->check = event_new(d->base, -1, EV_PERSIST, on_check, d);
    d->beat_timer = event_new(d->base, -1, EV_PERSIST, on_beat, d);
    MUST(d->wake && d->check && d->beat_timer);
    event_add(d->wake, NULL);
    event_add(d->beat_timer, &beat_every);
    d->beat = daemon_beat_new("dispatch");
}

struct dispatch *dispatch_start(const struct settings *settings,
                                const struct operator_address *operators, struct operator_set *set,
                                struct worker *worker, struct job_queue *const *queues)
{
    struct dispatch *d = must_alloc(1, sizeof(*d));

    d->settings = settings;
    d->worker = worker;
    d->queues = queues;
    d->addresses = operators;
    d->submitted = job_queue_new();
    TAILQ_INIT(&d->active);
    TAILQ_INIT(&d->idle);
    events_init(d);
    operators_init(d, operators, set);
    MUST(pthread_create(&d->thread, NULL, loop, d) == 0);
    return d;
}

static void give_order(struct dispatch *d, enum order order)
{
    atomic_store(&d->order, order);
    job_queue_poke(d->submitted);
}

void dispatch_stop(struct dispatch *d)
{
    if (!d)
        return;
    give_order(d, ORDER_STOP);
    pthread_join(d->thread, NULL);
}

void dispatch_free(struct dispatch *d)
{
    if (!d)
        return;
    for (unsigned op = 0; op < d->operators.n; op++)
        event_free(d->paces[op]);
    operators_close(&d->operators);
    operator_set_drop(atomic_load(&d->reload));
    run_free_idle(&d->idle);
    event_free(d->wake);
    event_free(d->check);
    event_free(d->beat_timer);
    event_base_free(d->base);
    job_queue_free(d->submitted);
    free(d);
}

void dispatch_reload(struct dispatch *d, struct operator_set *set)
{
    operator_set_drop(atomic_exchange(&d->reload, operator_set_keep(set)));
    job_queue_poke(d->submitted);
}

void dispatch_submit(struct dispatch *d, struct job_list *jobs, uint64_t era)
{
    struct job *job;
    size_t count = 0;

    for (job = TAILQ_FIRST(jobs); job; job = TAILQ_NEXT(job, link)) {
        job->era = era;
        count++;
    }
    job_queue_put_all(d->submitted, jobs, count);
}

void dispatch_drain(struct dispatch *d)
{
    give_order(d, ORDER_DRAIN);
}

void dispatch_hurry(struct dispatch *d)
{
    give_order(d, ORDER_HURRY);
}
