#include "consumerd/dispatch.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "consumerd/send.h"
#include "consumerd/stats.h"
#include "libcommon/backoff.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/must.h"
#include "libcommon/random.h"

#define TRUST_CHECK_MS 200 /* how soon calls are given up when the incarnation is over */
#define BEAT_SEC 2

struct job_queue {
    pthread_mutex_t lock;
    struct job_list jobs;
    int fd;
};

/* A number of calls at a time, and those that wait for one of them to end. */
struct slots {
    unsigned used, limit;
    bool posts;
    unsigned op;
    struct job_list waiting;
};

struct operator_state {
    const struct operator_address *address;
    struct breaker breaker;
    enum breaker_state shown;
    int64_t rest_until_ms;
    struct slots posts[MESSAGE_LANES];
    struct slots lookups;
};

enum order { ORDER_NONE, ORDER_DRAIN, ORDER_HURRY, ORDER_STOP };

struct dispatch {
    const struct settings *settings;
    struct worker *worker;
    struct job_queue *const *queues;
    struct delivery_policy policy;
    struct breaker_config breaker_config;
    struct operator_state operators[OPERATORS_MAX];
    size_t operator_count;
    struct send *send;
    struct event_base *base;
    struct event *wake, *check, *beat_timer;
    struct daemon_beat *beat;
    struct job_list active; /* every job that is in here */
    pthread_t thread;
    int fd;
    pthread_mutex_t lock;
    struct job_list submitted; /* under lock */
    _Atomic int order;
    int obeyed;
};

/* ---- job queues ---- */

struct job_queue *job_queue_new(void)
{
    struct job_queue *q = must_alloc(1, sizeof(*q));

    pthread_mutex_init(&q->lock, NULL);
    TAILQ_INIT(&q->jobs);
    q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    MUST(q->fd >= 0);
    return q;
}

void job_queue_free(struct job_queue *q)
{
    if (!q)
        return;
    close(q->fd);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

int job_queue_fd(const struct job_queue *q)
{
    return q->fd;
}

static void poke_fd(int fd)
{
    uint64_t one = 1;

    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static void clear_fd(int fd)
{
    uint64_t n;

    while (read(fd, &n, sizeof(n)) < 0 && errno == EINTR)
        ;
}

void job_queue_take(struct job_queue *q, struct job_list *into)
{
    clear_fd(q->fd); /* before the list: a job put after it pokes again */
    pthread_mutex_lock(&q->lock);
    TAILQ_CONCAT(into, &q->jobs, link);
    pthread_mutex_unlock(&q->lock);
}

void job_queue_put(struct job_queue *q, struct job *job)
{
    bool was_empty;

    pthread_mutex_lock(&q->lock);
    was_empty = TAILQ_EMPTY(&q->jobs);
    TAILQ_INSERT_TAIL(&q->jobs, job, link);
    pthread_mutex_unlock(&q->lock);
    if (was_empty)
        poke_fd(q->fd);
}

void job_queue_poke(struct job_queue *q)
{
    poke_fd(q->fd);
}

/* ---- slots ---- */

static void drive(struct dispatch *d, struct job *job, struct delivery_action action);

static struct slots *slots_for(struct dispatch *d, const struct job *job,
                               struct delivery_action action)
{
    struct operator_state *o = &d->operators[action.op];

    return action.step == DELIVERY_LOOKUP ? &o->lookups : &o->posts[job->message->type];
}

static void slot_take(struct slots *s, struct job *job)
{
    job->slots = s;
    s->used++;
    metrics_set(stats.op[s->op].in_flight, 1 + (int64_t)metrics_value(stats.op[s->op].in_flight));
}

static void slot_give(struct job *job)
{
    struct slots *s = job->slots;

    s->used--;
    job->slots = NULL;
    metrics_set(stats.op[s->op].in_flight, (int64_t)metrics_value(stats.op[s->op].in_flight) - 1);
}

static void slot_wait(struct slots *s, struct job *job)
{
    job->slots = s;
    job->waiting_for_slot = true;
    TAILQ_INSERT_TAIL(&s->waiting, job, link);
}

static void slot_wait_end(struct job *job)
{
    TAILQ_REMOVE(&job->slots->waiting, job, link);
    job->waiting_for_slot = false;
    job->slots = NULL;
}

static bool is_resting(const struct operator_state *o, int64_t now_ms)
{
    return now_ms < o->rest_until_ms;
}

/* The operator may not be used at present: who waits for it can go on to the next one. */
static bool useless_to_wait(const struct dispatch *d, const struct slots *s)
{
    const struct operator_state *o = &d->operators[s->op];
    int64_t now_ms = clock_mono_ms();

    return s->posts && (is_resting(o, now_ms) || breaker_blocks(&o->breaker, now_ms));
}

static void serve_waiting(struct dispatch *d, struct slots *s)
{
    struct job *job;

    while ((job = TAILQ_FIRST(&s->waiting))) {
        if (s->used >= s->limit && !useless_to_wait(d, s))
            return;
        slot_wait_end(job);
        drive(d, job,
              (struct delivery_action){s->posts ? DELIVERY_POST : DELIVERY_LOOKUP, s->op, 0});
    }
}

static void serve_operator(struct dispatch *d, struct operator_state *o)
{
    for (int lane = MESSAGE_LANES - 1; lane >= 0; lane--)
        serve_waiting(d, &o->posts[lane]);
}

/* ---- breakers ---- */

static void show_breaker(struct operator_state *o, unsigned op)
{
    if (o->breaker.state == o->shown)
        return;
    log_info("breaker.changed", L_STR("operator", o->address->name),
             L_STR("from", breaker_state_name(o->shown)),
             L_STR("to", breaker_state_name(o->breaker.state)), L_STR("reason", o->breaker.reason));
    o->shown = o->breaker.state;
    stats_breaker(op, o->shown);
}

static bool may_post(struct dispatch *d, struct job *job, unsigned op)
{
    struct operator_state *o = &d->operators[op];
    int64_t now_ms = clock_mono_ms();

    if (is_resting(o, now_ms)) {
        metrics_add(stats.op[op].refused, 1);
        snprintf(job->error, sizeof(job->error), "%s: resting", o->address->name);
        return false;
    }
    if (!breaker_allow(&o->breaker, now_ms, &job->permit)) {
        metrics_add(stats.op[op].refused, 1);
        snprintf(job->error, sizeof(job->error), "%s: breaker open", o->address->name);
        return false;
    }
    show_breaker(o, op);
    return true;
}

static void record_post(struct dispatch *d, struct job *job, const struct send_result *r)
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
    struct operator_state *o = &d->operators[op];
    int64_t now_ms = clock_mono_ms();
    int64_t rest_max_ms = d->settings->consumer.rest_max_sec * 1000;

    metrics_add(stats.op[op].calls[meaning[r->post].call], 1);
    metrics_observe(stats.op[op].seconds, r->duration_us);
    if (r->post == POST_RESTING)
        o->rest_until_ms = now_ms + (r->rest_ms < rest_max_ms ? r->rest_ms : rest_max_ms);
    breaker_record(&o->breaker, job->permit, meaning[r->post].breaker, r->duration_us / 1000,
                   now_ms);
    show_breaker(o, op);
}

static void record_lookup(const struct job *job, const struct send_result *r)
{
    static const enum stats_lookup meaning[] = {[LOOKUP_FOUND] = STATS_FOUND,
                                                [LOOKUP_NOT_FOUND] = STATS_NOT_FOUND,
                                                [LOOKUP_UNREACHABLE] = STATS_UNREACHABLE};

    metrics_add(stats.op[job->delivery.op].lookups[meaning[r->lookup]], 1);
}

/* ---- one job ---- */

static void finish(struct dispatch *d, struct job *job, enum job_outcome outcome)
{
    const struct delivery *v = &job->delivery;

    job->outcome = outcome;
    job->op = v->op;
    job->unknown = v->unknown;
    job->rejected = v->rejected == DELIVERY_ALL(d->operator_count);
    TAILQ_REMOVE(&d->active, job, active);
    event_del(&job->timer);
    job_queue_put(d->queues[job->message->type], job);
}

static bool start_call(struct dispatch *d, struct job *job, struct delivery_action action)
{
    enum send_kind kind = action.step == DELIVERY_LOOKUP ? SEND_LOOKUP : SEND_POST;

    job->transfer = send_start(d->send, kind, action.op, job);
    if (!job->transfer)
        return false;
    slot_take(slots_for(d, job, action), job);
    return true;
}

/* Nothing was sent for want of memory. */
static struct delivery_action not_started(struct dispatch *d, struct job *job,
                                          struct delivery_action action)
{
    int64_t now_ms = clock_mono_ms();

    snprintf(job->error, sizeof(job->error), "out of memory");
    if (action.step == DELIVERY_LOOKUP)
        return delivery_on_lookup(&job->delivery, LOOKUP_UNREACHABLE, now_ms);
    breaker_record(&d->operators[action.op].breaker, job->permit, BREAKER_NEUTRAL, 0, now_ms);
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
        slots = slots_for(d, job, action);
        if (slots->used >= slots->limit && !useless_to_wait(d, slots)) {
            slot_wait(slots, job);
            return;
        }
        if (action.step == DELIVERY_POST && !may_post(d, job, action.op))
            action = delivery_on_blocked(&job->delivery, clock_mono_ms());
        else if (start_call(d, job, action))
            return;
        else
            action = not_started(d, job, action);
    }
}

static void on_backoff_over(evutil_socket_t fd, short what, void *arg);

static void begin(struct dispatch *d, struct job *job)
{
    struct delivery_action action;

    TAILQ_INSERT_TAIL(&d->active, job, active);
    evtimer_assign(&job->timer, d->base, on_backoff_over, job);
    if (d->obeyed >= ORDER_DRAIN) {
        job->delivery.unknown = job->takeover ? DELIVERY_ALL(d->operator_count) : job->unknown;
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
    struct operator_state *o = &d->operators[job->delivery.op];
    struct slots *slots = job->slots;
    int64_t now_ms = clock_mono_ms();
    struct delivery_action action;

    job->transfer = NULL;
    slot_give(job);
    if (*r->error)
        snprintf(job->error, sizeof(job->error), "%s: %s", o->address->name, r->error);
    if (*r->provider_id)
        memcpy(job->provider_id, r->provider_id, sizeof(job->provider_id));
    if (r->kind == SEND_POST) {
        record_post(d, job, r);
        action = delivery_on_post(&job->delivery, r->post, now_ms);
    } else {
        record_lookup(job, r);
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
    bool posting = job->transfer && job->slots->posts;

    event_del(&job->timer);
    if (job->waiting_for_slot)
        slot_wait_end(job);
    if (job->transfer) {
        if (posting)
            breaker_record(&d->operators[job->delivery.op].breaker, job->permit, BREAKER_NEUTRAL, 0,
                           clock_mono_ms());
        send_abort(job->transfer);
        job->transfer = NULL;
        slot_give(job);
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
    for (size_t i = 0; i < d->operator_count; i++) {
        serve_operator(d, &d->operators[i]);
        serve_waiting(d, &d->operators[i].lookups);
    }
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

    (void)what;
    clear_fd(fd);
    pthread_mutex_lock(&d->lock);
    TAILQ_CONCAT(&jobs, &d->submitted, link);
    pthread_mutex_unlock(&d->lock);
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

static void slots_init(struct slots *s, bool posts, unsigned op, int64_t limit)
{
    s->posts = posts;
    s->op = op;
    s->limit = (unsigned)limit;
    TAILQ_INIT(&s->waiting);
}

static void operators_init(struct dispatch *d, const struct operator_address *operators)
{
    const struct consumer_settings *s = &d->settings->consumer;

    settings_breaker(s, &d->breaker_config);
    d->policy = (struct delivery_policy){
        .operators = (unsigned)d->operator_count,
        .tries = (unsigned)s->tries,
        .lookup_tries = (unsigned)s->lookup_tries,
        .hold_unknown = !strcmp(s->unknown_policy, "hold"),
    };
    for (unsigned op = 0; op < d->operator_count; op++) {
        struct operator_state *o = &d->operators[op];

        o->address = &operators[op];
        breaker_init(&o->breaker, &d->breaker_config);
        slots_init(&o->posts[MESSAGE_NORMAL], true, op, s->in_flight_normal);
        slots_init(&o->posts[MESSAGE_EXPRESS], true, op, s->in_flight_express);
        slots_init(&o->lookups, false, op, s->lookups_in_flight);
    }
}

static void send_init(struct dispatch *d, const struct operator_address *operators)
{
    const struct consumer_settings *s = &d->settings->consumer;
    const struct send_config config = {
        .operators = operators,
        .operator_count = d->operator_count,
        .timeout_ms = s->timeout_ms,
        .calls_max = d->operator_count *
                     (size_t)(s->in_flight_normal + s->in_flight_express + s->lookups_in_flight),
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
    d->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    MUST(d->fd >= 0);
    d->wake = event_new(d->base, d->fd, EV_READ | EV_PERSIST, on_wake, d);
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

    MUST(operator_count > 0 && operator_count <= OPERATORS_MAX);
    d->settings = settings;
    d->worker = worker;
    d->queues = queues;
    d->operator_count = operator_count;
    TAILQ_INIT(&d->active);
    TAILQ_INIT(&d->submitted);
    pthread_mutex_init(&d->lock, NULL);
    events_init(d);
    operators_init(d, operators);
    send_init(d, operators);
    MUST(pthread_create(&d->thread, NULL, run, d) == 0);
    return d;
}

static void give_order(struct dispatch *d, enum order order)
{
    atomic_store(&d->order, order);
    poke_fd(d->fd);
}

void dispatch_stop(struct dispatch *d)
{
    if (!d)
        return;
    give_order(d, ORDER_STOP);
    pthread_join(d->thread, NULL);
    send_free(d->send);
    event_free(d->wake);
    event_free(d->check);
    event_free(d->beat_timer);
    event_base_free(d->base);
    close(d->fd);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

void dispatch_submit(struct dispatch *d, struct job_list *jobs, uint64_t era)
{
    struct job *job;

    if (TAILQ_EMPTY(jobs))
        return;
    TAILQ_FOREACH(job, jobs, link)
    {
        job->era = era;
        job->dispatch = d;
    }
    pthread_mutex_lock(&d->lock);
    TAILQ_CONCAT(&d->submitted, jobs, link);
    pthread_mutex_unlock(&d->lock);
    poke_fd(d->fd);
}

void dispatch_drain(struct dispatch *d)
{
    give_order(d, ORDER_DRAIN);
}

void dispatch_hurry(struct dispatch *d)
{
    give_order(d, ORDER_HURRY);
}
