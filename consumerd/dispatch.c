#include "consumerd/dispatch.h"

#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/operators.h"
#include "consumerd/send.h"
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
    struct delivery_policy policy;
    struct operators operators;
    struct send *send;
    struct event_base *base;
    struct event *wake, *check, *beat_timer;
    struct daemon_beat *beat;
    struct job_list active; /* every job that is in here */
    pthread_t thread;
    struct job_queue *submitted;
    _Atomic int order;
    int obeyed;
};

/* ---- one job ---- */

static void finish(struct dispatch *d, struct job *job, enum job_outcome outcome)
{
    const struct delivery *v = &job->delivery;

    job->outcome = outcome;
    job->op = v->op;
    job->unknown = delivery_noted(v);
    job->rejected = v->rejected == DELIVERY_ALL(d->operators.n);
    TAILQ_REMOVE(&d->active, job, active);
    event_del(&job->timer);
    job_queue_put(d->queues[job->message->type], job);
}

static bool start_call(struct dispatch *d, struct job *job, struct delivery_action action)
{
    enum send_kind kind = action.step == DELIVERY_LOOKUP ? SEND_LOOKUP : SEND_POST;

    spans_call_begins(job);
    job->transfer = send_start(d->send, kind, action.op, job);
    return job->transfer != NULL;
}

/* Nothing was sent for want of memory. */
static struct delivery_action not_started(struct dispatch *d, struct job *job,
                                          struct delivery_action action)
{
    int64_t now_ms = clock_mono_ms();

    snprintf(job->error, sizeof(job->error), "out of memory");
    if (action.step == DELIVERY_LOOKUP)
        return delivery_on_lookup(&job->delivery, LOOKUP_UNREACHABLE, now_ms);
    operators_drop_post(&d->operators, job);
    return delivery_on_post(&job->delivery, POST_TRANSIENT, now_ms);
}

static void wait_backoff(struct dispatch *d, struct job *job, unsigned attempt)
{
    const struct consumer_settings *s = &d->settings->consumer;
    int64_t ms = backoff_ms(attempt, s->backoff_ms, s->backoff_max_ms, random_u64());
    struct timeval tv = {ms / 1000, ms % 1000 * 1000};

    event_add(&job->timer, &tv);
}

/* Carries out actions until the job has to wait for something or is finished. */
static void drive(struct dispatch *d, struct job *job, struct delivery_action action)
{
    for (;;) {
        struct slots *slots;
        bool lookup;

        switch (action.step) {
        case DELIVERY_DONE:
            finish(d, job, JOB_DONE);
            return;
        case DELIVERY_FAILED:
            finish(d, job, JOB_FAILED);
            return;
        case DELIVERY_LATER:
            finish(d, job, JOB_LATER);
            return;
        case DELIVERY_WAIT:
            wait_backoff(d, job, action.attempt);
            return;
        case DELIVERY_POST:
        case DELIVERY_LOOKUP:
            break;
        }
        if (!worker_holds(d->worker, job->era)) {
            finish(d, job, JOB_ABANDONED);
            return;
        }
        lookup = action.step == DELIVERY_LOOKUP;
        slots = operators_slots(&d->operators, job, action.op, lookup);
        if (operators_must_wait(&d->operators, slots)) {
            operators_wait(slots, job);
            return;
        }
        if (!lookup && !operators_may_post(&d->operators, job, action.op)) {
            action = delivery_on_blocked(&job->delivery, clock_mono_ms());
        } else if (start_call(d, job, action)) {
            operators_take_slot(&d->operators, slots, job);
            return;
        } else {
            action = not_started(d, job, action);
        }
    }
}

/* Those that wait for a slot go on: as many as there are slots, or all of them when the operator
 * may not be used at present and they need not wait. */
static void serve_waiting(struct dispatch *d, struct slots *s)
{
    struct job *job;

    while ((job = TAILQ_FIRST(&s->waiting)) && !operators_must_wait(&d->operators, s)) {
        operators_wait_end(job);
        drive(d, job,
              (struct delivery_action){s->lookups ? DELIVERY_LOOKUP : DELIVERY_POST, s->op, 0});
    }
}

static void serve_operator(struct dispatch *d, struct operator_state *o)
{
    serve_waiting(d, &o->posts[MESSAGE_EXPRESS]);
    serve_waiting(d, &o->posts[MESSAGE_NORMAL]);
    serve_waiting(d, &o->lookups[MESSAGE_EXPRESS]);
    serve_waiting(d, &o->lookups[MESSAGE_NORMAL]);
}

static void on_backoff_over(evutil_socket_t fd, short what, void *arg);

static void begin(struct dispatch *d, struct job *job)
{
    struct delivery_action action;

    TAILQ_INSERT_TAIL(&d->active, job, active);
    evtimer_assign(&job->timer, d->base, on_backoff_over, job);
    if (d->obeyed >= ORDER_DRAIN) {
        job->delivery.unknown = job->takeover ? DELIVERY_ALL(d->operators.n) : job->unknown;
        job->delivery.rejected = 0;
        finish(d, job, JOB_LATER);
        return;
    }
    action = delivery_start(&job->delivery, &d->policy, job->unknown, job->takeover,
                            job->give_up_at_ms, clock_mono_ms());
    drive(d, job, action);
}

static void on_call_done(struct job *job, const struct send_result *r, void *arg)
{
    struct dispatch *d = arg;
    struct operator_state *o = &d->operators.all[job->delivery.op];
    int64_t now_ms = clock_mono_ms();
    struct delivery_action action;
    struct slots *slots;

    job->transfer = NULL;
    spans_call_ends(job, r, o->address->name);
    slots = operators_give_slot(&d->operators, job);
    if (*r->error)
        snprintf(job->error, sizeof(job->error), "%s: %s", o->address->name, r->error);
    if (*r->provider_id)
        memcpy(job->provider_id, r->provider_id, sizeof(job->provider_id));
    if (r->kind == SEND_POST) {
        operators_record_post(&d->operators, job, r);
        action = delivery_on_post(&job->delivery, r->post, now_ms);
    } else {
        operators_record_lookup(job, r);
        action = delivery_on_lookup(&job->delivery, r->lookup, now_ms);
    }
    drive(d, job, action);
    serve_waiting(d, slots);
    if (r->kind == SEND_POST && r->post != POST_ACCEPTED)
        serve_operator(d, o); /* the breaker may have opened, or the operator rests */
}

/* ---- giving up ---- */

/* Takes the job out of whatever it waits for. True: a POST was under way. */
static bool interrupt(struct dispatch *d, struct job *job)
{
    bool posting = job->transfer && !job->slots->lookups;

    event_del(&job->timer);
    if (job->waiting_for_slot)
        operators_wait_end(job);
    if (job->transfer) {
        if (posting)
            operators_drop_post(&d->operators, job);
        send_abort(job->transfer);
        job->transfer = NULL;
        operators_give_slot(&d->operators, job);
    }
    return posting;
}

static void abandon_all(struct dispatch *d)
{
    struct job *job;

    while ((job = TAILQ_FIRST(&d->active))) {
        interrupt(d, job);
        finish(d, job, JOB_ABANDONED);
    }
}

static void abandon_stale(struct dispatch *d)
{
    struct job *next;

    for (struct job *job = TAILQ_FIRST(&d->active); job; job = next) {
        next = TAILQ_NEXT(job, active);
        if (!worker_holds(d->worker, job->era)) {
            interrupt(d, job);
            finish(d, job, JOB_ABANDONED);
        }
    }
    for (size_t i = 0; i < d->operators.n; i++)
        serve_operator(d, &d->operators.all[i]);
}

/* hurry: calls under way are not waited for either. */
static void drain(struct dispatch *d, bool hurry)
{
    struct job *next;

    for (struct job *job = TAILQ_FIRST(&d->active); job; job = next) {
        next = TAILQ_NEXT(job, active);
        delivery_stop(&job->delivery);
        if (job->transfer && !hurry)
            continue;
        if (interrupt(d, job))
            job->delivery.unknown |= UINT32_C(1) << job->delivery.op;
        finish(d, job, JOB_LATER);
    }
}

/* send.h: before curl may touch a socket. All jobs in here belong to the same incarnation but for
 * the moments in which it changes. */
static bool may_send(void *arg)
{
    struct dispatch *d = arg;
    struct job *first = TAILQ_FIRST(&d->active);

    if (!first || worker_holds(d->worker, first->era))
        return true;
    abandon_stale(d);
    return false;
}

/* ---- the thread ---- */

static void on_backoff_over(evutil_socket_t fd, short what, void *arg)
{
    struct job *job = arg;

    (void)fd;
    (void)what;
    drive(job->dispatch, job, delivery_on_timer(&job->delivery));
}

static void obey(struct dispatch *d)
{
    int order = atomic_load(&d->order);

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

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct dispatch *d = arg;
    struct job_list jobs = TAILQ_HEAD_INITIALIZER(jobs);
    struct timeval check = {0, TRUST_CHECK_MS * 1000};
    struct job *job;

    (void)fd;
    (void)what;
    job_queue_take(d->submitted, &jobs);
    if (!TAILQ_EMPTY(&jobs) && !event_pending(d->check, EV_TIMEOUT, NULL))
        event_add(d->check, &check);
    while ((job = TAILQ_FIRST(&jobs))) {
        TAILQ_REMOVE(&jobs, job, link);
        begin(d, job);
    }
    obey(d);
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
}

static void *run(void *arg)
{
    struct dispatch *d = arg;

    event_base_loop(d->base, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

static void policy_init(struct dispatch *d)
{
    const struct consumer_settings *s = &d->settings->consumer;

    d->policy = (struct delivery_policy){
        .operators = (unsigned)d->operators.n,
        .tries = (unsigned)s->tries,
        .lookup_tries = (unsigned)s->lookup_tries,
        .hold_unknown = !strcmp(s->unknown_policy, "hold"),
    };
}

static void send_init(struct dispatch *d, const struct operator_address *operators)
{
    const struct consumer_settings *s = &d->settings->consumer;
    const struct send_config config = {
        .operators = operators,
        .operator_count = d->operators.n,
        .timeout_ms = s->timeout_ms,
        .calls_max = d->operators.n * (size_t)(s->in_flight_normal + s->in_flight_express +
                                               MESSAGE_LANES * s->lookups_in_flight),
        .done = on_call_done,
        .may_send = may_send,
        .arg = d,
    };

    d->send = send_new(d->base, &config);
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
                                const struct operator_address *operators, size_t operator_count,
                                struct worker *worker, struct job_queue *const *queues)
{
    struct dispatch *d = must_alloc(1, sizeof(*d));

    d->settings = settings;
    d->worker = worker;
    d->queues = queues;
    d->submitted = job_queue_new();
    TAILQ_INIT(&d->active);
    operators_init(&d->operators, &settings->consumer, operators, operator_count);
    policy_init(d);
    events_init(d);
    send_init(d, operators);
    MUST(pthread_create(&d->thread, NULL, run, d) == 0);
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
    send_free(d->send);
    event_free(d->wake);
    event_free(d->check);
    event_free(d->beat_timer);
    event_base_free(d->base);
    job_queue_free(d->submitted);
    free(d);
}

void dispatch_submit(struct dispatch *d, struct job_list *jobs, uint64_t era)
{
    struct job *job;
    size_t count = 0;

    for (job = TAILQ_FIRST(jobs); job; job = TAILQ_NEXT(job, link)) {
        job->era = era;
        job->dispatch = d;
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
