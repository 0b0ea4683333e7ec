#include "consumerd/lane.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "consumerd/lane_internal.h"
#include "consumerd/spans.h"
#include "libcommon/base/backoff.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/domain/bundle.h"
#include "libcommon/telemetry/log.h"

#define WAIT_MS 1000 /* heartbeats to the broker and the watchdog want to be looked after */
#define NO_LEASE_WAIT_MS 200
#define BROKER_RETRY_BASE_MS 100
#define BROKER_RETRY_MAX_MS 5000
#define BROKER_REFUSED_RETRY_MS 10000 /* a person has to mend something */
#define RENEW_SILENT_MS 4000          /* of silence, until the subscription is renewed */
#define RENEW_SILENT_MAX_MS 120000    /* the same while the broker was about to say something */
#define RENEW_DOUBTFUL_MS 1000        /* the same after the broker has ended one */
#define RENEWALS_A_DECLARATION 5      /* for silence */
#define MESSAGE_BYTES 512             /* on the wire, of a short text, about */
#define WAKE_BYTES_MAX 65536          /* above half a receive buffer the kernel clamps the window */
#define BYTES_MAX (8u << 20)          /* of messages in memory: many of the largest bundles */

static size_t lower(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- broker ---- */

void lane_let_go(struct lane *l, struct inflight *m)
{
    l->messages--;
    inflight_free(m);
}

void lane_drop_arrived(struct lane *l)
{
    struct inflight *m;

    while ((m = TAILQ_FIRST(&l->arrived))) {
        TAILQ_REMOVE(&l->arrived, m, link);
        lane_let_go(l, m);
    }
    while ((m = TAILQ_FIRST(&l->suspects))) {
        TAILQ_REMOVE(&l->suspects, m, link);
        lane_let_go(l, m);
    }
    lane_letters_drop(l);
    l->arrived_count = l->suspect_count = 0;
}

/* The broker will deliver again what was not acknowledged. */
static void connection_lost(struct lane *l, const struct err *err)
{
    bool news = readiness_lane_is(l->readiness, err->msg);

    if (l->consuming || (news && err->kind == ERR_PERMANENT) || !l->broker_failures)
        log_warn("consumer.broker_lost", L_STR("lane", l->name), L_ERR(err));
    broker_drop(l->broker);
    lane_drop_arrived(l);
    l->consuming = l->connection_lost = l->unreadable = l->heard_good = false;
    l->broker_failures++;
    l->broker_retry_at_ms =
        clock_mono_ms() + (err->kind == ERR_PERMANENT
                               ? BROKER_REFUSED_RETRY_MS
                               : backoff_ms(l->broker_failures, BROKER_RETRY_BASE_MS,
                                            BROKER_RETRY_MAX_MS, random_u64()));
}

/* The connection has been left in good order. What is in hand comes again, and its acks are void.
 */
static void connect_anew(struct lane *l)
{
    lane_drop_arrived(l);
    l->consuming = l->connection_lost = l->unreadable = l->heard_good = false;
    l->broker_retry_at_ms = 0;
}

static void subscribed(struct lane *l)
{
    const char *warning = broker_warning(l->broker);

    l->heard = true;
    if (readiness_warn("dead letters", warning) && *warning)
        log_warn("broker.declared_otherwise", L_STR("lane", l->name), L_MSG(warning));
    if (!l->doubtful)
        readiness_lane_is(l->readiness, NULL);
}

static int subscribe(struct lane *l, struct err *err)
{
    const char *queue = topology_queue(&l->config.settings->broker, l->config.type);

    return broker_consume(l->broker, queue, l->probing ? 1 : (uint16_t)l->deliveries_max, err);
}

static void connect_if_due(struct lane *l)
{
    const struct broker_settings *s = &l->config.settings->broker;
    struct err err;

    if (l->consuming || l->drain_begun || clock_mono_ms() < l->broker_retry_at_ms)
        return;
    if (broker_open(l->broker, &err) || subscribe(l, &err)) {
        connection_lost(l, &err);
        return;
    }
    log_info("consumer.started", L_STR("lane", l->name),
             L_STR("queue", topology_queue(s, l->config.type)), L_INT("prefetch", l->prefetch));
    l->consuming = true;
    if (!l->probing) /* else when it is seen that something can be read */
        l->broker_failures = 0;
    subscribed(l);
}

/* ---- what cannot be read ---- */

static void tell_dead(struct lane *l, const char *id, const struct trace_context *trace,
                      enum stats_dead reason, const char *detail)
{
    log_warn("delivery.dead_lettered", L_STR("message_id", id),
             L_STR("reason", stats_dead_name(reason)), L_STR("detail", detail), L_TRACE(trace));
    metrics_add(stats.dead[reason], 1);
    metrics_add(stats.lane[l->config.type].events[STATS_DEAD], 1);
}

/* A delivery whose properties the library does not take in makes its connection useless, and would
 * do the same to the next one: it is dead-lettered by its tag, and the connection left. What else
 * was delivered on it comes again. The next deliveries are taken one at a time, so that of several
 * such messages each costs a connection and nothing else its place. */
static void on_unreadable(struct lane *l, const struct broker_event *event)
{
    struct err err;

    tell_dead(l, "", NULL, STATS_DEAD_UNREADABLE,
              "more headers than a frame may hold, or none that make sense");
    if (broker_dead_letter(l->broker, event->tag, &err))
        l->connection_lost = true;
    l->unreadable = l->probing = true;
    l->renew_after_ms = RENEW_SILENT_MS;
}

static void leave_unreadable(struct lane *l)
{
    struct err err;

    if (broker_leave(l->broker, &err))
        connection_lost(l, &err);
    else
        connect_anew(l);
}

/* The delivery that was taken alone is of no harm. */
static void end_probing(struct lane *l)
{
    struct err err;

    l->probing = l->heard_good = false;
    l->broker_failures = 0;
    if (!l->drain_begun && (broker_cancel(l->broker, &err) || subscribe(l, &err)))
        connection_lost(l, &err);
}

/* ---- what is over ---- */

static void end_arrival(struct lane *l, const struct arrival *a)
{
    struct err err;

    if (!broker_is_open(l->broker) || a->generation != broker_generation(l->broker))
        return;
    if (a->refused ? broker_dead_letter(l->broker, a->tag, &err)
                   : broker_ack(l->broker, a->tag, false, &err))
        l->connection_lost = true;
    l->acked |= !a->refused;
}

static void arrival_is_over(struct lane *l, struct arrival *a)
{
    struct arrival was;

    if (arrival_over(a, &was))
        end_arrival(l, &was);
}

void lane_over(struct lane *l, struct inflight *m)
{
    arrival_is_over(l, m->arrival);
    m->arrival = NULL;
    lane_let_go(l, m);
}

void lane_dead_letter(struct lane *l, struct inflight *m, enum stats_dead reason,
                      const char *detail)
{
    tell_dead(l, m->id, &m->trace, reason, detail);
    m->death = stats_dead_name(reason);
    if (m->json && !m->arrival->refused) {
        lane_letters_add(l, m);
    } else {
        m->arrival->refused = true;
        lane_over(l, m);
    }
}

struct taking {
    struct lane *lane;
    const struct broker_event *event;
};

static void take_member(struct inflight *m, const char *why, void *arg)
{
    const struct taking *t = arg;
    struct lane *l = t->lane;

    l->messages++;
    if (m->redelivered)
        metrics_add(stats.lane[l->config.type].redelivered, 1);
    if (why || m->type != l->config.type) {
        lane_dead_letter(l, m, why ? STATS_DEAD_BODY : STATS_DEAD_QUEUE,
                         why ? why : "a message of the other queue");
        return;
    }
    spans_arrived(m);
    TAILQ_INSERT_TAIL(&l->arrived, m, link);
    l->arrived_count++;
}

static void take_in(struct lane *l, const struct broker_event *event)
{
    struct taking t = {l, event};
    struct arrival *a = arrival_new(event, broker_generation(l->broker), &l->bytes);
    struct err err = {0};

    if (a && failpoint(FAILPOINT_CONSUMER_ON_DELIVERY))
        err_set(&err, ERR_RETRY, 0, "failpoint");
    else if (a)
        (void)arrival_read(a, event, take_member, &t, &err);
    if (err.kind == ERR_PERMANENT) {
        tell_dead(l, event->message_id, NULL, STATS_DEAD_BODY, err.msg);
        a->refused = true;
    }
    if (a && err.kind != ERR_RETRY) {
        arrival_is_over(l, a); /* for its reader */
    } else {
        arrival_let_go(a);
        l->connection_lost = true; /* comes again, later */
    }
}

static void on_delivery(struct lane *l, const struct broker_event *event)
{
    l->heard = true;
    if (l->doubtful)
        readiness_lane_is(l->readiness, NULL);
    if (l->renewed && event->redelivered)
        log_warn("consumer.was_deaf", L_STR("lane", l->name),
                 L_MSG("the broker had delivered messages that never came; subscribed anew"));
    l->doubtful = l->renewed = false;
    l->heard_good = true;
    l->renew_after_ms = RENEW_SILENT_MS;
    if (!l->drain_begun) /* else not acknowledged: it goes back when the connection closes */
        take_in(l, event);
}

static void on_broker_event(const struct broker_event *event, void *arg)
{
    struct lane *l = arg;

    switch (event->type) {
    case BROKER_DELIVERED:
        on_delivery(l, event);
        break;
    case BROKER_UNREADABLE:
        on_unreadable(l, event);
        break;
    case BROKER_CANCELLED:
    case BROKER_CHANNEL_CLOSED:
        log_warn("consumer.cancelled", L_STR("lane", l->name), L_INT("code", event->code),
                 L_MSG(event->text));
        l->connection_lost = l->doubtful = true;
        break;
    default:
        break;
    }
}

/* Before the pause: each ack lets another message come meanwhile. */
static void send_acks(struct lane *l)
{
    struct err err;

    if (broker_is_open(l->broker) && broker_flush(l->broker, &err))
        connection_lost(l, &err);
    else if (l->acked)
        (void)failpoint(FAILPOINT_CONSUMER_AFTER_ACK);
    l->acked = false;
}

/* A delivery too many is left in the socket: the subscription's prefetch counts deliveries, of
 * which each may bring a bundle, and cannot follow what they bring. */
static bool has_room(const struct lane *l)
{
    return l->drain_begun || (l->messages < l->prefetch && l->bytes < BYTES_MAX);
}

/* So many deliveries make the limits' end at the earliest. */
static size_t room(const struct lane *l)
{
    size_t largest = topology_bundle_max(&l->config.settings->broker, l->config.type);

    if (l->drain_begun)
        return 0; /* without a limit */
    return lower((l->prefetch - l->messages - 1) / largest,
                 (BYTES_MAX - l->bytes - 1) / BUNDLE_BYTES_MAX) +
           1;
}

static int take_deliveries(struct lane *l, struct err *err)
{
    if (!has_room(l))
        return broker_beat(l->broker, err);
    do {
        if (broker_pump(l->broker, 0, room(l), on_broker_event, l, err))
            return -1;
    } while (has_room(l) && !l->connection_lost && !l->unreadable && broker_has_more(l->broker));
    return 0;
}

void lane_exchange(struct lane *l)
{
    struct err err = {0};

    if (!l->consuming && !l->drain_begun)
        return;
    if (broker_is_open(l->broker) && take_deliveries(l, &err)) {
        connection_lost(l, &err);
    } else if (l->connection_lost) {
        err_set(&err, ERR_RETRY, 0, "the connection or the queue's consumer has ended");
        connection_lost(l, &err);
    } else if (l->unreadable) {
        leave_unreadable(l);
    } else if (l->probing && l->heard_good) {
        end_probing(l);
    }
}

/* It takes RabbitMQ time that grows with the square of their depth to write nested headers, many
 * seconds for the deepest. Asked anew it would begin anew. */
static void be_patient(struct lane *l)
{
    if (l->renew_after_ms < RENEW_SILENT_MAX_MS)
        l->renew_after_ms *= 2;
}

static bool needs_declaration(struct lane *l)
{
    return l->doubtful || ++l->renewals % RENEWALS_A_DECLARATION == 0;
}

/* A queue that is deleted and declared again while we subscribe to it can leave RabbitMQ (3.10,
 * quorum queues) delivering to a consumer that never hears of it. Silence alone does not tell that
 * from a quiet day, so a lane that holds nothing and has heard nothing for a while subscribes anew;
 * what the broker believed delivered comes again. A subscription tells whether its own queue is
 * gone; what else may be, a dozen questions to the broker, is declared every few times. After the
 * broker has ended a subscription the next one is in doubt: it is made once more before the lane is
 * called ready. */
static void renew_if_silent(struct lane *l)
{
    bool holds = l->hand.by_id || l->arrived_count || l->suspect_count || !TAILQ_EMPTY(&l->letters);
    struct err err;

    /* In doubt, what is in hand came by an older subscription. */
    if (l->heard || (holds && !l->doubtful)) {
        l->heard = false;
        l->renew_at_ms = clock_mono_ms() + (l->doubtful ? RENEW_DOUBTFUL_MS : l->renew_after_ms);
    }
    if (!l->consuming || l->drain_begun || clock_mono_ms() < l->renew_at_ms)
        return;
    if (broker_renew_channel(l->broker, &err) ||
        (needs_declaration(l) && broker_declare(l->broker, &err)) || subscribe(l, &err)) {
        be_patient(l);
        connection_lost(l, &err);
        return;
    }
    if (broker_was_late(l->broker))
        be_patient(l);
    l->doubtful = false;
    l->renewed = true;
    subscribed(l);
}

/* After the acks have been sent. */
static void go_home_if_due(struct lane *l)
{
    if (!l->consuming || l->drain_begun || !broker_may_go_home(l->broker))
        return;
    broker_close(l->broker);
    connect_anew(l);
}

/* ---- the incarnation ---- */

static void wait_for_jobs(struct lane *l, int timeout_ms)
{
    struct pollfd p = {.fd = job_queue_fd(l->config.queue), .events = POLLIN};

    job_queue_wake_at(l->config.queue, 1);
    poll(&p, 1, timeout_ms);
}

static bool take_lease(struct lane *l)
{
    l->leased = worker_lease(l->config.worker, &l->lease);
    return l->leased;
}

/* Whatever is in hand is no longer ours to send or settle. The dispatch sees the same and hands its
 * jobs back at once. */
static void give_up_incarnation(struct lane *l)
{
    worker_renounce(l->config.worker, l->lease.era);
    log_warn("consumer.gave_up", L_STR("lane", l->name), L_INT("era", l->lease.era),
             L_INT("recipients", l->hand.recipients));
    broker_drop(l->broker);
    db_drop(l->db);
    l->consuming = l->connection_lost = false;
    readiness_lane_is(l->readiness, "the heartbeat was late: it begins as a new worker");
    l->broker_retry_at_ms = 0;
    while (l->out && !atomic_load(&l->aborting)) {
        daemon_beat(l->beat);
        wait_for_jobs(l, WAIT_MS);
        lane_settle_collect(l);
    }
    if (!l->out)
        lane_turn_forget(l);
    l->leased = false;
}

/* ---- the thread ---- */

static int wait_ms(const struct lane *l)
{
    int64_t now_ms = clock_mono_ms();
    int64_t until_ms = now_ms + WAIT_MS;

    if (l->connection_lost ||
        (broker_is_open(l->broker) && has_room(l) && broker_has_more(l->broker)))
        return 0;
    if (lane_turn_has_work(l) && l->db_retry_at_ms < until_ms)
        until_ms = l->db_retry_at_ms;
    if (!l->consuming && !l->drain_begun && l->broker_retry_at_ms < until_ms)
        until_ms = l->broker_retry_at_ms;
    if (lane_letters_due_ms(l) < until_ms)
        until_ms = lane_letters_due_ms(l);
    if (lane_turn_opens_ms(l) < until_ms)
        until_ms = lane_turn_opens_ms(l);
    return until_ms > now_ms ? (int)(until_ms - now_ms) : 0;
}

/* From how much on poll calls the broker's socket readable (SO_RCVLOWAT, socket(7)), and the job
 * queue's descriptor. */
static void wake_at(const struct lane *l, size_t messages)
{
    int bytes = 1;

    if (messages > 1)
        bytes = (int)lower(messages * MESSAGE_BYTES, WAKE_BYTES_MAX);
    if (broker_fd(l->broker) >= 0)
        (void)setsockopt(broker_fd(l->broker), SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes));
    job_queue_wake_at(l->config.queue, messages);
}

static int until_next_turn_ms(const struct lane *l)
{
    int64_t us = l->next_turn_at_us - clock_mono_us();

    return us > 0 && !l->drain_begun ? (int)((us + 999) / 1000) : 0;
}

/* Until the next turn is due nothing is read either: what gathers in the socket and the queue costs
 * one wake-up instead of one each. But when a round's worth has come or been sent, waiting for more
 * would leave the operators idle. */
void lane_wait_for_something(struct lane *l)
{
    struct pollfd fds[] = {
        {.fd = job_queue_fd(l->config.queue), .events = POLLIN},
        {.fd = has_room(l) ? broker_fd(l->broker) : -1, .events = POLLIN}, /* poll ignores -1 */
        {.fd = broker_fd(l->letter_broker), .events = POLLIN},
    };
    int pause_ms = until_next_turn_ms(l);

    if (pause_ms) {
        wake_at(l, l->wake_count);
        poll(fds, 3, pause_ms);
    }
    wake_at(l, 1);
    poll(fds, 3, wait_ms(l));
}

static void begin_drain(struct lane *l)
{
    struct err err;

    l->drain_begun = true;
    if (l->consuming && broker_cancel(l->broker, &err))
        connection_lost(l, &err);
    lane_drop_arrived(l);
    log_info("consumer.draining", L_STR("lane", l->name), L_INT("recipients", l->hand.recipients));
}

static bool drained(const struct lane *l)
{
    return l->drain_begun && !l->hand.recipients && !l->out;
}

/* Messages that are delivered and not claimed; what is left in the socket may be full bundles. */
static size_t unclaimed(const struct lane *l)
{
    size_t in_socket =
        has_room(l)
            ? 0
            : l->deliveries_max * topology_bundle_max(&l->config.settings->broker, l->config.type);

    return l->arrived_count + l->suspect_count + in_socket;
}

static void turn(struct lane *l)
{
    daemon_beat(l->beat);
    if (!l->leased && !take_lease(l)) {
        readiness_lane_is(l->readiness, "waits to be registered in the database");
        wait_for_jobs(l, NO_LEASE_WAIT_MS);
        lane_settle_collect(l);
        return;
    }
    if (l->abandoned || !worker_holds(l->config.worker, l->lease.era)) {
        give_up_incarnation(l);
        return;
    }
    connect_if_due(l);
    lane_wait_for_something(l);
    lane_exchange(l);
    job_queue_wake_at(l->config.queue, l->wake_count); /* so that nothing pokes during the work */
    lane_settle_collect(l);
    daemon_beat(l->beat); /* the broker's part of the turn is over */
    if (!l->abandoned)
        lane_turn_work(l);
    lane_letters_turn(l);
    send_acks(l);
    renew_if_silent(l);
    go_home_if_due(l);
    worker_waiting(l->config.worker, l->config.type, unclaimed(l));
}

static void *run(void *arg)
{
    struct lane *l = arg;
    struct err err;

    while (!atomic_load(&l->aborting) && !drained(l)) {
        if (atomic_load(&l->draining) && !l->drain_begun)
            begin_drain(l);
        else
            turn(l);
    }
    if (broker_is_open(l->broker) && !broker_flush(l->broker, &err))
        broker_close(l->broker);
    db_drop(l->db);
    pause_leave(&l->pause);
    return NULL;
}

/* What keeps the lane in work when messages come alone; more would only wait in the socket when
 * they come in bundles, and keep other consumers without work. */
static size_t deliveries_max(const struct lane *l)
{
    size_t largest = topology_bundle_max(&l->config.settings->broker, l->config.type);
    size_t full = (l->prefetch + largest - 1) / largest;

    return full > l->prefetch / 4 ? full : l->prefetch / 4;
}

struct lane *lane_new(const struct lane_config *config)
{
    const struct consumer_settings *s = &config->settings->consumer;
    bool express = config->type == MESSAGE_EXPRESS;
    struct lane *l = must_alloc(1, sizeof(*l));

    claim_register();
    results_register();
    l->config = *config;
    l->name = message_type_name(config->type);
    l->db = db_new(&config->settings->db);
    l->broker = broker_new(&config->settings->broker, BROKER_QUEUE(config->type), l->name);
    l->letter_broker =
        broker_new(&config->settings->broker, BROKER_QUEUE(config->type), "consumerd dead letters");
    l->readiness = readiness_lane_new(l->name);
    l->beat = daemon_beat_new(express ? "lane express" : "lane normal");
    l->prefetch = (size_t)(express ? s->prefetch_express : s->prefetch_normal);
    l->recipients_max = (size_t)(express ? s->recipients_express : s->recipients_normal);
    l->deliveries_max = deliveries_max(l);
    l->wake_count = lower(lower(l->prefetch, l->recipients_max) / 4 + 1, (size_t)s->claim_batch);
    l->wake_count = lower(l->wake_count, l->deliveries_max / 2 + 1);
    l->pace.most_us = express ? 0 : s->turn_normal_ms * 1000; /* express waits for nothing */
    l->claim_limit = (size_t)s->claim_batch;
    l->settle_limit = (size_t)s->settle_batch;
    TAILQ_INIT(&l->arrived);
    TAILQ_INIT(&l->suspects);
    l->stale_at_ms = INT64_MAX;
    l->renew_after_ms = RENEW_SILENT_MS;
    TAILQ_INIT(&l->letters);
    pause_init(&l->pause);
    return l;
}

void lane_start(struct lane *l, struct dispatch *dispatch)
{
    l->dispatch = dispatch;
    pause_enter(&l->pause);
    MUST(pthread_create(&l->thread, NULL, run, l) == 0);
    l->started = true;
}

void lane_drain(struct lane *l)
{
    atomic_store(&l->draining, true);
    job_queue_poke(l->config.queue);
}

void lane_abort(struct lane *l)
{
    atomic_store(&l->aborting, true);
    job_queue_poke(l->config.queue);
}

bool lane_wait(struct lane *l, int timeout_ms)
{
    return pause_ended(&l->pause, timeout_ms);
}

void lane_free(struct lane *l)
{
    if (!l)
        return;
    if (l->started)
        pthread_join(l->thread, NULL);
    lane_settle_collect(l); /* what the dispatch still had; freed with its messages */
    lane_turn_forget(l);
    free(l->done.jobs);
    free(l->not_done.jobs);
    broker_free(l->broker);
    broker_free(l->letter_broker);
    db_free(l->db);
    pause_destroy(&l->pause);
    free(l);
}
