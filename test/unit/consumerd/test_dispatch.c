#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/dispatch.h"
#include "consumerd/stats.h"
#include "consumerd/transport.h"
#include "libcommon/base/clock.h"
#include "test/unit/suite.h"

/*
 * The dispatch over transports that follow a script instead of a protocol: all that the dispatch
 * needs of an operator is the table. Each operator's script is a list of verdicts, reasons of unfit
 * and answers, "hang" for none, a last one with a star for ever; what was asked of whom is kept in
 * a log: S0 submission to operator 0, Q1 question to operator 1, X0 a call at 0 given up.
 */

#define WAIT_MS 5000

struct link {
    struct transport_link base; /* first */
    struct transport_config config;
};

static char asked[200];                      /* the dispatch's, until a job has come back */
static const char *script_at[OPERATORS_MAX]; /* what is left */
static int opened, closed;
static int under_way, most_under_way;

/* The incarnation of the test; dispatch.c asks for it. */
static _Atomic uint64_t era = 1;

bool worker_holds(struct worker *w, uint64_t of_era)
{
    (void)w;
    return of_era == era;
}

/* ---- transports ---- */

static void note(char what, unsigned op)
{
    size_t n = strlen(asked);

    snprintf(asked + n, sizeof(asked) - n, "%s%c%u", n ? " " : "", what, op);
}

/* A call whose answer is due. */
struct pending {
    struct link *link;
    struct transport_call *call;
    struct event *event;
    struct transport_result result;
};

static void read_answer(const char *word, struct transport_result *r)
{
    for (int i = 0; i < VERDICTS; i++)
        if (!strcmp(word, verdict_name((enum verdict)i)))
            r->verdict = (enum verdict)i;
    for (int i = 0; i < UNFIT_REASONS; i++) {
        if (!strcmp(word, unfit_name((enum unfit)i))) {
            r->verdict = VERDICT_UNFIT;
            r->unfit = (enum unfit)i;
        }
    }
    for (int i = 0; i < LOOKUP_ANSWERS; i++)
        if (!strcmp(word, lookup_answer_name((enum lookup_answer)i)))
            r->answer = (enum lookup_answer)i;
    if (r->verdict == VERDICT_ACCEPTED)
        snprintf(r->provider_id, sizeof(r->provider_id), "id-7");
    r->rest_ms = 60000;
}

static void on_answer_due(evutil_socket_t fd, short what, void *arg)
{
    struct pending p = *(struct pending *)arg;

    (void)fd;
    (void)what;
    if (!p.link->config.may_send(p.link->config.arg))
        return; /* it has aborted the call */
    event_free(p.event);
    free(arg);
    p.call->own = NULL;
    under_way--;
    p.link->config.done(p.call, &p.result, p.link->config.arg);
}

static bool start(struct transport_link *base, struct transport_call *call, bool lookup)
{
    struct link *link = (struct link *)base;
    struct pending *p = calloc(1, sizeof(*p));
    const char *at = script_at[call->op] + strspn(script_at[call->op], " ");
    size_t n = strcspn(at, " ");
    struct timeval at_once = {0, 0};
    char word[20];

    ck_assert(p && n > 0 && n < sizeof(word));
    memcpy(word, at, n);
    word[n] = '\0';
    if (word[n - 1] == '*')
        word[n - 1] = '\0';
    else
        script_at[call->op] = at + n;
    note(lookup ? 'Q' : 'S', call->op);
    p->link = link;
    p->call = call;
    p->result.lookup = lookup;
    read_answer(word, &p->result);
    p->event = evtimer_new(link->config.base, on_answer_due, p);
    if (strcmp(word, "hang") != 0)
        event_add(p->event, &at_once);
    call->own = p;
    if (++under_way > most_under_way)
        most_under_way = under_way;
    return true;
}

static bool scripted_submit(struct transport_link *link, struct transport_call *call)
{
    return start(link, call, false);
}

static bool scripted_lookup(struct transport_link *link, struct transport_call *call)
{
    return start(link, call, true);
}

static void scripted_abort(struct transport_link *link, struct transport_call *call)
{
    struct pending *p = call->own;

    ck_assert_ptr_eq(&p->link->base, link);
    note('X', call->op);
    event_free(p->event);
    free(p);
    call->own = NULL;
    under_way--;
}

static struct transport_link *open_link(const struct transport *transport,
                                        const struct transport_config *config)
{
    struct link *link = calloc(1, sizeof(*link));

    ck_assert_ptr_nonnull(link);
    link->base.transport = transport;
    link->config = *config;
    opened++;
    return &link->base;
}

static void scripted_close(struct transport_link *link)
{
    closed++;
    free(link);
}

static struct transport_link *open_plain(const struct transport_config *config);
static struct transport_link *open_mute(const struct transport_config *config);

/* Like HTTP. */
static const struct transport plain = {
    .kind = "plain",
    .submit_span = {.name = "submit"},
    .lookup_span = {.name = "lookup"},
    .open = open_plain,
    .close = scripted_close,
    .submit = scripted_submit,
    .lookup = scripted_lookup,
    .abort = scripted_abort,
};

/* Like a session protocol without questions. */
static const struct transport mute = {
    .kind = "mute",
    .submit_span = {.name = "submit"},
    .open = open_mute,
    .close = scripted_close,
    .submit = scripted_submit,
    .abort = scripted_abort,
};

static struct transport_link *open_plain(const struct transport_config *config)
{
    return open_link(&plain, config);
}

static struct transport_link *open_mute(const struct transport_config *config)
{
    return open_link(&mute, config);
}

/* ---- the lane's side ---- */

static struct operator_address operators[2] = {{.name = "a"}, {.name = "b"}};
static struct settings settings;
static char failover[] = "failover", hold[] = "hold", none[] = "", both[] = "a,b";

static void set_up(void)
{
    static char express[] = "express", normal[] = "normal";

    settings.consumer = (struct consumer_settings){
        .unknown_policy = failover,
        .repeat_unsafe = none,
        .without_lookup = none,
        .timeout_ms = 1000,
        .tries = 2,
        .backoff_ms = 1,
        .backoff_max_ms = 2,
        .lookup_tries = 1,
        .rest_max_sec = 60,
        .in_flight_normal = 4,
        .in_flight_express = 1,
        .lookups_in_flight = 4,
        .breaker_failures = 100,
        .breaker_open_ms = 60000,
        .breaker_probes = 1,
        .breaker_successes = 1,
        .breaker_window_ms = 10000,
        .breaker_window_calls = 1000,
        .breaker_failure_pct = 101,
        .breaker_slow_pct = 101,
        .breaker_slow_ms = 60000,
    };
    settings.broker.queues[MESSAGE_EXPRESS] = express;
    settings.broker.queues[MESSAGE_NORMAL] = normal;
    stats_register(&settings, operators, 2);
}

struct site {
    struct dispatch *dispatch;
    struct operator_set *set;
    struct job_queue *queues[MESSAGE_LANES];
    struct inflight message;
};

static void site_open(struct site *s, const struct transport *a, const char *script_a,
                      const struct transport *b, const char *script_b)
{
    char why[100];

    memset(s, 0, sizeof(*s));
    TAILQ_INIT(&s->message.jobs);
    s->message.type = MESSAGE_EXPRESS;
    snprintf(s->message.id, sizeof(s->message.id), "m-1");
    operators[0].transport = a;
    operators[1].transport = b;
    script_at[0] = script_a;
    script_at[1] = script_b;
    asked[0] = '\0';
    opened = closed = most_under_way = 0;
    for (int type = 0; type < MESSAGE_LANES; type++)
        s->queues[type] = job_queue_new();
    for (unsigned op = 0; op < 2; op++) {
        stats_breaker(op, BREAKER_CLOSED);
        stats_unfit(op, UNFIT_REASONS);
    }
    s->set = operator_set_of_list("a=http://a,b=http://b", why, sizeof(why));
    for (unsigned op = 0; op < 2; op++)
        s->set->all[op]->properties.repeat_is_safe = operators[op].transport->lookup != NULL;
    s->dispatch = dispatch_start(&settings, operators, s->set, NULL, s->queues);
}

static void site_close(struct site *s)
{
    struct job *job;

    dispatch_stop(s->dispatch);
    dispatch_free(s->dispatch);
    operator_set_drop(s->set);
    ck_assert_int_eq(closed, opened);
    for (int type = 0; type < MESSAGE_LANES; type++)
        job_queue_free(s->queues[type]);
    while ((job = TAILQ_FIRST(&s->message.jobs)))
        job_free(job);
    settings.consumer.unknown_policy = failover;
    settings.consumer.breaker_failures = 100;
    settings.consumer.breaker_open_ms = 60000;
    settings.consumer.rest_max_sec = 60;
    settings.consumer.without_lookup = settings.consumer.repeat_unsafe = none;
    settings.consumer.lookup_settles_ms = 0;
}

static struct job *submit(struct site *s, bool any, bool window)
{
    struct job_list jobs = TAILQ_HEAD_INITIALIZER(jobs);
    struct job *job = job_new(&s->message);

    ck_assert_ptr_nonnull(job);
    job->any = any;
    job->give_up_at_ms = window ? INT64_MAX : 0;
    TAILQ_INSERT_TAIL(&jobs, job, link);
    dispatch_submit(s->dispatch, &jobs, 1);
    return job;
}

static void wait_for_some(const struct site *s)
{
    struct pollfd p = {.fd = job_queue_fd(s->queues[MESSAGE_EXPRESS]), .events = POLLIN};

    ck_assert_int_eq(poll(&p, 1, WAIT_MS), 1);
}

/* The one job that comes back. */
static struct job *come_back(const struct site *s)
{
    struct job_list jobs = TAILQ_HEAD_INITIALIZER(jobs);

    wait_for_some(s);
    job_queue_take(s->queues[MESSAGE_EXPRESS], &jobs);
    ck_assert_ptr_nonnull(TAILQ_FIRST(&jobs));
    ck_assert_ptr_null(TAILQ_NEXT(TAILQ_FIRST(&jobs), link));
    return TAILQ_FIRST(&jobs);
}

/* ---- one recipient ---- */

static const struct {
    const char *name;
    const struct transport *a;
    const char *script_a;
    const struct transport *b;
    const char *script_b;
    const char *asked;
    enum job_outcome outcome;
    unsigned op;
    const char *error; /* how it begins; NULL: none */
    uint32_t unknown;
    bool any, hold, expired, said_mute;
    int64_t settles_ms;
    enum delivery_failure failure;
} cases[] = {
    {"accepted", &plain, "accepted", &plain, "", "S0", JOB_DONE, .op = 0},
    {"transient, then accepted", &plain, "transient accepted", &plain, "", "S0 S0", JOB_DONE,
     .error = "a: transient"},
    {"unfit", &plain, "unfit", &mute, "accepted", "S0 S1", JOB_DONE, .op = 1, .error = "a: unfit"},
    {"unfit at both", &plain, "unfit", &mute, "unfit", "S0 S1", JOB_LATER, .op = 1,
     .error = "b: unfit"},
    {"opted out", &plain, "opted_out", &plain, "", "S0", JOB_FAILED, .error = "a: opted_out",
     .failure = DELIVERY_OPTED_OUT},
    {"rejected by both", &plain, "rejected", &mute, "rejected", "S0 S1", JOB_FAILED, .op = 1,
     .error = "b: rejected", .failure = DELIVERY_REJECTED},
    {"unknown, asked", &plain, "unknown found", &plain, "", "S0 Q0", JOB_DONE,
     .error = "a: unknown"},
    {"unknown, not found, repeated", &plain, "unknown not_found accepted", &plain, "", "S0 Q0 S0",
     JOB_DONE, .error = "a: unknown"},
    {"unknown, mute: never asked nor repeated", &mute, "unknown", &plain, "accepted", "S0 S1",
     JOB_DONE, .op = 1, .error = "a: unknown", .unknown = 1},
    {"unknown, mute, held", &mute, "unknown", &plain, "", "S0", JOB_LATER, .error = "a: unknown",
     .unknown = 1, .hold = true},
    {"unknown, unreachable, held, the window over", &plain, "unknown unreachable", &plain, "",
     "S0 Q0", JOB_HELD, .error = "a: unknown", .unknown = 1, .hold = true, .expired = true},
    {"unknown, not found: the error is still the call's", &plain, "unknown not_found unfit", &plain,
     "unfit", "S0 Q0 S0 S1", JOB_LATER, .error = "b: unfit", .unknown = 1},
    {"unknown, and said to be like mute", &plain, "unknown", &plain, "accepted", "S0 S1", JOB_DONE,
     .op = 1, .error = "a: unknown", .unknown = 1, .said_mute = true},
    {"unknown, not found, settling", &plain, "unknown not_found found", &plain, "", "S0 Q0 Q0",
     JOB_DONE, .error = "a: unknown", .settles_ms = 20},
    {"unknown, mute, the window over", &mute, "unknown", &plain, "unfit", "S0 S1", JOB_FAILED,
     .op = 1, .error = "b: unfit", .unknown = 1, .expired = true, .failure = DELIVERY_EXPIRED},
    {"takeover asks whom it can", &mute, "", &plain, "found", "Q1", JOB_DONE, .op = 1, .unknown = 1,
     .any = true},
    {"takeover of mute operators only", &mute, "", &mute, "", "", JOB_LATER, .unknown = 3,
     .any = true},
};

START_TEST(one_recipient)
{
    struct site s;
    struct job *job;

    settings.consumer.unknown_policy = cases[_i].hold ? hold : failover;
    settings.consumer.lookup_settles_ms = cases[_i].settles_ms;
    if (cases[_i].said_mute)
        settings.consumer.without_lookup = settings.consumer.repeat_unsafe = both;
    site_open(&s, cases[_i].a, cases[_i].script_a, cases[_i].b, cases[_i].script_b);
    submit(&s, cases[_i].any, !cases[_i].expired);
    job = come_back(&s);
    ck_assert_msg(!strcmp(asked, cases[_i].asked), "%s: asked %s", cases[_i].name, asked);
    ck_assert_int_eq(job->outcome, cases[_i].outcome);
    ck_assert_uint_eq(job->unknown, cases[_i].unknown);
    if (job->outcome == JOB_DONE) {
        ck_assert_uint_eq(job->op, cases[_i].op);
    } else if (job->outcome == JOB_FAILED) {
        ck_assert_int_eq(job->failure, cases[_i].failure);
    }
    ck_assert_msg(!strcmp(job->error, cases[_i].error ? cases[_i].error : ""), "%s: error %s",
                  cases[_i].name, job->error);
    ck_assert_int_eq(opened, cases[_i].a == cases[_i].b ? 1 : 2);
    site_close(&s);
}
END_TEST

/* ---- several ---- */

/* One slot: one call at a time, the others wait their turn. */
START_TEST(slots_are_kept)
{
    struct job_list jobs = TAILQ_HEAD_INITIALIZER(jobs);
    struct site s;
    struct job *job;
    int n = 0;

    site_open(&s, &mute, "accepted accepted accepted", &plain, "");
    for (int i = 0; i < 3; i++)
        submit(&s, false, true);
    while (n < 3) {
        wait_for_some(&s);
        job_queue_take(s.queues[MESSAGE_EXPRESS], &jobs);
        while ((job = TAILQ_FIRST(&jobs))) {
            TAILQ_REMOVE(&jobs, job, link);
            ck_assert_int_eq(job->outcome, JOB_DONE);
            n++;
        }
    }
    ck_assert_str_eq(asked, "S0 S0 S0");
    ck_assert_int_eq(most_under_way, 1);
    site_close(&s);
}
END_TEST

START_TEST(a_throttled_operator_rests)
{
    struct site s;

    site_open(&s, &mute, "throttled", &plain, "accepted accepted");
    for (int i = 0; i < 2; i++) {
        submit(&s, false, true);
        ck_assert_int_eq(come_back(&s)->op, 1);
    }
    ck_assert_str_eq(asked, "S0 S1 S1");
    site_close(&s);
}
END_TEST

/* ---- the breaker ---- */

static void wait_for_call(unsigned op)
{
    int64_t give_up_ms = clock_mono_ms() + WAIT_MS;

    while (metrics_value(stats.op[op].in_flight) != 1) {
        ck_assert_msg(clock_mono_ms() < give_up_ms, "no call is under way");
        poll(NULL, 0, 5);
    }
}

static bool is_unfit(unsigned op, enum unfit reason)
{
    return metrics_value(stats.op[op].unfit[reason]) == 1;
}

/* Waits for what the dispatch shows of a breaker. */
static void wait_for_breaker(unsigned op, enum breaker_state state)
{
    int64_t give_up_ms = clock_mono_ms() + WAIT_MS;

    while (metrics_value(stats.op[op].breaker[state]) != 1) {
        ck_assert_msg(clock_mono_ms() < give_up_ms, "the breaker is not %s",
                      breaker_state_name(state));
        poll(NULL, 0, 5);
    }
}

/* How many submissions operator 0 gets until it is left alone, at most 5. */
static size_t calls_until_open(struct site *s, const char *script, const char *messages)
{
    size_t calls = 0;

    site_open(s, &mute, script, &plain, "accepted accepted accepted accepted accepted");
    for (const char *id = messages; *id; id++) {
        snprintf(s->message.id, sizeof(s->message.id), "m-%c", *id);
        submit(s, false, true);
        ck_assert_int_eq(come_back(s)->outcome, JOB_DONE);
    }
    for (const char *at = strchr(asked, 'S'); at; at = strchr(at + 1, 'S'))
        calls += at[1] == '0';
    return calls;
}

static const struct {
    const char *name, *script, *messages;
    size_t calls;
    enum unfit reason; /* UNFIT_REASONS: none is shown */
} unfits[] = {
    {"credentials", "credentials", "ab", 1, UNFIT_CREDENTIALS},
    {"credit", "credit", "ab", 1, UNFIT_CREDIT},
    {"proxy", "proxy", "ab", 1, UNFIT_PROXY},
    {"forbidden", "forbidden forbidden forbidden", "abcd", 3, UNFIT_FORBIDDEN},
    {"address", "address address address", "abcd", 3, UNFIT_ADDRESS},
    {"protocol, then address", "protocol protocol address", "abcd", 3, UNFIT_ADDRESS},
    {"one message, again and again", "forbidden forbidden forbidden forbidden", "aaaa", 4,
     UNFIT_REASONS},
    {"an acceptance between", "forbidden forbidden accepted forbidden forbidden", "abcde", 5,
     UNFIT_REASONS},
    {"a final no between", "address address rejected address", "abcde", 4, UNFIT_ADDRESS},
};

START_TEST(unfit_opens_the_breaker)
{
    struct site s;
    size_t calls = calls_until_open(&s, unfits[_i].script, unfits[_i].messages);

    ck_assert_msg(calls == unfits[_i].calls, "%s: %zu calls", unfits[_i].name, calls);
    for (int i = 0; i < UNFIT_REASONS; i++)
        ck_assert_msg(is_unfit(0, (enum unfit)i) == ((enum unfit)i == unfits[_i].reason),
                      "%s: %s is shown wrongly", unfits[_i].name, unfit_name((enum unfit)i));
    site_close(&s);
}
END_TEST

/* All operators unfit, and then their breakers open: no final no, however many messages. */
START_TEST(nobody_can_serve)
{
    struct site s;
    struct job *job;

    site_open(&s, &mute, "credit", &plain, "credentials");
    for (int i = 0; i < 3; i++) {
        submit(&s, false, true);
        ck_assert_int_eq(come_back(&s)->outcome, JOB_LATER);
    }
    ck_assert_str_eq(asked, "S0 S1");
    job = submit(&s, false, false);
    ck_assert_ptr_eq(come_back(&s), job);
    ck_assert_int_eq(job->outcome, JOB_FAILED);
    ck_assert_int_eq(job->failure, DELIVERY_EXPIRED);
    site_close(&s);
}
END_TEST

/* With no message to try it. */
START_TEST(an_open_breaker_is_shown_half_open_in_time)
{
    struct site s;

    settings.consumer.breaker_open_ms = 50;
    site_open(&s, &mute, "credentials", &plain, "accepted");
    submit(&s, false, true);
    come_back(&s);
    wait_for_breaker(0, BREAKER_HALF_OPEN);
    ck_assert(is_unfit(0, UNFIT_CREDENTIALS)); /* until it has served again */
    site_close(&s);
}
END_TEST

/* However the one probe of a half-open breaker ends, the next one closes it once the operator is
 * healthy. */
static const char *const probes[] = {"transient", "unknown",   "credentials", "forbidden",
                                     "throttled", "opted_out", "rejected"};

static void submit_until_closed(struct site *s)
{
    int64_t give_up_ms = clock_mono_ms() + WAIT_MS;

    while (metrics_value(stats.op[0].breaker[BREAKER_CLOSED]) != 1) {
        ck_assert_msg(clock_mono_ms() < give_up_ms, "the breaker does not close");
        submit(s, false, true);
        ck_assert_int_ne(come_back(s)->outcome, JOB_ABANDONED);
    }
    for (int i = 0; i < UNFIT_REASONS; i++)
        ck_assert(!is_unfit(0, (enum unfit)i));
}

START_TEST(a_healthy_operator_closes_its_breaker)
{
    struct site s;
    char script[80];

    settings.consumer.breaker_open_ms = 1;
    settings.consumer.rest_max_sec = 0;
    snprintf(script, sizeof(script), "credit %s accepted*", probes[_i]);
    site_open(&s, &mute, script, &plain, "accepted*");
    submit(&s, false, true);
    come_back(&s);
    submit_until_closed(&s);
    site_close(&s);
}
END_TEST

/* The incarnation ends over the probe. */
START_TEST(a_probe_that_is_given_up_takes_no_place)
{
    struct site s;

    settings.consumer.breaker_open_ms = 1;
    site_open(&s, &mute, "credit hang accepted*", &plain, "accepted*");
    submit(&s, false, true);
    come_back(&s);
    wait_for_breaker(0, BREAKER_HALF_OPEN);
    submit(&s, false, true);
    wait_for_call(0);
    era = 2;
    ck_assert_int_eq(come_back(&s)->outcome, JOB_ABANDONED);
    era = 1;
    submit_until_closed(&s);
    site_close(&s);
}
END_TEST

START_TEST(opted_out_opens_nothing)
{
    struct site s;

    settings.consumer.breaker_failures = 2;
    site_open(&s, &mute, "opted_out opted_out opted_out", &plain, "");
    for (int i = 0; i < 3; i++) {
        submit(&s, false, true);
        ck_assert_int_eq(come_back(&s)->outcome, JOB_FAILED);
    }
    site_close(&s);
}
END_TEST

/* A submission that is given up has an unknown outcome. */
START_TEST(hurrying_gives_calls_up)
{
    struct site s;
    struct job *job;

    site_open(&s, &mute, "hang", &plain, "");
    submit(&s, false, true);
    dispatch_hurry(s.dispatch);
    job = come_back(&s);
    ck_assert_int_eq(job->outcome, JOB_LATER);
    ck_assert_uint_eq(job->unknown, *asked ? 1 : 0); /* it may not have begun yet */
    ck_assert(!*asked || !strcmp(asked, "S0 X0"));
    site_close(&s);
}
END_TEST

START_TEST(stopping_abandons_what_is_under_way)
{
    struct site s;
    struct job_list jobs = TAILQ_HEAD_INITIALIZER(jobs);
    struct job *job;
    int n = 0;

    site_open(&s, &plain, "unknown hang hang hang", &plain, "");
    for (int i = 0; i < 3; i++) /* whoever has no slot yet when the stop comes waits for one */
        submit(&s, false, true);
    dispatch_stop(s.dispatch);
    job_queue_take(s.queues[MESSAGE_EXPRESS], &jobs);
    TAILQ_FOREACH(job, &jobs, link)
    {
        ck_assert_int_eq(job->outcome, JOB_ABANDONED);
        n++;
    }
    ck_assert_int_eq(n, 3);
    dispatch_free(s.dispatch);
    s.dispatch = NULL;
    site_close(&s);
}
END_TEST

/* Whoever finds out first, the transport before it sends or the check. */
START_TEST(an_incarnation_that_is_over_is_abandoned)
{
    struct site s;

    site_open(&s, &mute, "hang", &plain, "");
    submit(&s, false, true);
    era = 2;
    ck_assert_int_eq(come_back(&s)->outcome, JOB_ABANDONED);
    ck_assert(!*asked || !strcmp(asked, "S0 X0"));
    era = 1;
    site_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("dispatch");
    TCase *tc = tcase_create("dispatch");

    tcase_add_unchecked_fixture(tc, set_up, NULL);
    tcase_set_timeout(tc, 30);
    tcase_add_loop_test(tc, one_recipient, 0, (int)(sizeof(cases) / sizeof(cases[0])));
    tcase_add_test(tc, slots_are_kept);
    tcase_add_test(tc, a_throttled_operator_rests);
    tcase_add_loop_test(tc, unfit_opens_the_breaker, 0, (int)(sizeof(unfits) / sizeof(unfits[0])));
    tcase_add_test(tc, nobody_can_serve);
    tcase_add_test(tc, an_open_breaker_is_shown_half_open_in_time);
    tcase_add_loop_test(tc, a_healthy_operator_closes_its_breaker, 0,
                        (int)(sizeof(probes) / sizeof(probes[0])));
    tcase_add_test(tc, a_probe_that_is_given_up_takes_no_place);
    tcase_add_test(tc, opted_out_opens_nothing);
    tcase_add_test(tc, hurrying_gives_calls_up);
    tcase_add_test(tc, stopping_abandons_what_is_under_way);
    tcase_add_test(tc, an_incarnation_that_is_over_is_abandoned);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
