#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "libcommon/telemetry/metrics.h"
#include "libcommon/telemetry/tracer_internal.h"
#include "test/unit/suite.h"

#define QUEUE 8
#define THREADS 4
#define SPANS_EACH 20000

static _Atomic int wakes;

static void count_wake(void *arg)
{
    ck_assert_str_eq(arg, "arg");
    atomic_fetch_add(&wakes, 1);
}

static char arg[] = "arg";

static void start(size_t queue, size_t wake_at)
{
    const struct tracer_config config = {.queue_max = queue,
                                         .wake_at = wake_at,
                                         .sampler = TRACER_SAMPLE_ON,
                                         .parent_based = true,
                                         .wake = count_wake,
                                         .arg = arg};

    tracer_register();
    tracer_start(&config);
    atomic_store(&wakes, 0);
}

static uint64_t counted(const char *result)
{
    char labels[64];

    snprintf(labels, sizeof(labels), "result=\"%s\"", result);
    return metrics_value(metrics_counter("msg_trace_spans_total", "", labels));
}

static struct trace_context context(uint8_t last, bool sampled)
{
    struct trace_context t = {{1}, {2}, 0};

    t.span_id[7] = last;
    t.flags = sampled ? TRACE_SAMPLED : 0;
    return t;
}

static void record(const struct trace_context *t)
{
    tracer_span(&(struct tracer_span){.context = t, .kind = TRACER_INTERNAL, .name = "n"});
}

static void teardown(void)
{
    tracer_stop();
}

START_TEST(nothing_is_recorded_unless_on_and_sampled)
{
    struct trace_context yes = context(1, true);
    struct trace_context no = context(1, false);

    ck_assert(!tracer_wants(&yes));
    start(QUEUE, QUEUE);
    ck_assert(tracer_wants(&yes));
    ck_assert(!tracer_wants(&no));
    tracer_stop();
    ck_assert(!tracer_wants(&yes));
    record(&yes);
    ck_assert_uint_eq(tracer_queued(), 0);
}
END_TEST

START_TEST(a_span_is_copied_whole)
{
    char name[] = "name";
    char value[] = "value";
    struct trace_context own = context(1, true);
    struct trace_context parent = context(9, true);
    struct trace_context link = context(8, true);
    const struct tracer_attr attrs[] = {T_STR("s", value), T_INT("i", -5), T_BOOL("b", true),
                                        T_STR("e", ""), T_STR("n", NULL)};
    struct tracer_record *r;

    start(QUEUE, QUEUE);
    tracer_span(&(struct tracer_span){.context = &own,
                                      .parent = &parent,
                                      .parent_remote = true,
                                      .state = "k=v",
                                      .kind = TRACER_CONSUMER,
                                      .name = name,
                                      .start_us = 7,
                                      .end_us = 6,
                                      .status = TRACER_ERROR,
                                      .message = "why",
                                      .attrs = attrs,
                                      .attr_count = 5,
                                      .links = &link,
                                      .link_count = 1});
    memset(name, 'x', 4);
    memset(value, 'x', 5);
    own.span_id[7] = parent.span_id[7] = link.span_id[7] = 0;
    r = tracer_peek(0);
    ck_assert_ptr_nonnull(r);
    ck_assert_uint_eq(r->context.span_id[7], 1);
    ck_assert_uint_eq(r->parent_id[7], 9);
    ck_assert(r->parent_remote);
    ck_assert_str_eq(r->texts + r->name, "name");
    ck_assert_str_eq(r->texts + r->state, "k=v");
    ck_assert_str_eq(r->texts + r->message, "why");
    ck_assert_int_eq(r->start_us, 7);
    ck_assert_int_eq(r->end_us, 7);
    ck_assert_uint_eq(r->attr_count, 3);
    ck_assert_uint_eq(r->attrs_dropped, 0);
    ck_assert_str_eq(r->texts + r->attrs[0].v.text, "value");
    ck_assert_int_eq(r->attrs[1].v.num, -5);
    ck_assert(r->attrs[2].v.flag);
    ck_assert_uint_eq(r->link_count, 1);
    ck_assert_uint_eq(r->links[0].span_id[7], 8);
}
END_TEST

START_TEST(what_is_too_much_is_cut_or_dropped)
{
    char longest[2000];
    struct trace_context own = context(1, true);
    struct trace_context links[TRACER_LINKS_MAX + 2];
    struct tracer_attr attrs[TRACER_ATTRS_MAX + 3];
    struct tracer_record *r;

    /* Cut in the middle of a character, the character goes. */
    for (size_t i = 0; i < sizeof(longest) - 1; i += 3)
        memcpy(longest + i, "\xe2\x82\xac", i + 3 < sizeof(longest) ? 3 : sizeof(longest) - i);
    longest[sizeof(longest) - 1] = '\0';
    for (size_t i = 0; i < TRACER_ATTRS_MAX + 3; i++)
        attrs[i] = i < 6 ? T_STR("k", longest) : T_INT("k", i);
    memset(links, 1, sizeof(links));
    start(QUEUE, QUEUE);
    tracer_span(&(struct tracer_span){.context = &own,
                                      .kind = TRACER_CLIENT,
                                      .name = longest,
                                      .attrs = attrs,
                                      .attr_count = TRACER_ATTRS_MAX + 3,
                                      .links = links,
                                      .link_count = TRACER_LINKS_MAX + 2});
    r = tracer_peek(0);
    ck_assert_uint_eq(strlen(r->texts + r->name), TRACER_NAME_MAX / 3 * 3);
    /* 1 + 127 bytes, then 256 for each value */
    ck_assert_uint_eq(strlen(r->texts + r->attrs[0].v.text), TRACER_VALUE_MAX / 3 * 3);
    ck_assert_uint_eq(r->attr_count, TRACER_ATTRS_MAX);
    ck_assert_uint_eq(r->attrs_dropped, 3);
    ck_assert_uint_eq(r->link_count, TRACER_LINKS_MAX);
    ck_assert_uint_eq(r->links_dropped, 2);
    ck_assert_uint_le(r->text_len, sizeof(r->texts));
}
END_TEST

START_TEST(a_full_queue_drops_and_counts)
{
    uint64_t before = (start(QUEUE, QUEUE), counted("queue_full"));
    struct trace_context t;

    for (int round = 0; round < 3; round++) {
        for (uint8_t i = 0; i < QUEUE + 3; i++) {
            t = context(i, true);
            record(&t);
        }
        ck_assert_uint_eq(tracer_queued(), QUEUE);
        ck_assert_uint_eq(counted("queue_full"), before + (uint64_t)(round + 1) * 3);
        for (uint8_t i = 0; i < QUEUE; i++)
            ck_assert_uint_eq(tracer_peek(i)->context.span_id[7], i);
        ck_assert_ptr_null(tracer_peek(QUEUE));
        tracer_release(QUEUE);
        ck_assert_ptr_null(tracer_peek(0));
    }
}
END_TEST

START_TEST(the_consumer_is_woken_once_a_batch)
{
    struct trace_context t = context(1, true);

    start(QUEUE, 3);
    tracer_arm();
    record(&t);
    record(&t);
    ck_assert_int_eq(atomic_load(&wakes), 0);
    for (int i = 0; i < 5; i++)
        record(&t);
    ck_assert_int_eq(atomic_load(&wakes), 1);
    tracer_release(6);
    tracer_arm();
    record(&t);
    ck_assert_int_eq(atomic_load(&wakes), 1);
    record(&t);
    ck_assert_int_eq(atomic_load(&wakes), 2);
}
END_TEST

static void *record_many(void *id)
{
    struct trace_context t = context(*(const uint8_t *)id, true);

    for (int i = 0; i < SPANS_EACH; i++)
        tracer_span(&(struct tracer_span){
            .context = &t, .kind = TRACER_INTERNAL, .name = "n", .start_us = i, .end_us = i});
    return NULL;
}

/* Each thread's spans come in their order; all are either seen or counted as dropped. */
START_TEST(many_threads_one_consumer)
{
    uint64_t dropped = (start(64, 16), counted("queue_full"));
    int64_t last[THREADS] = {-1, -1, -1, -1};
    uint8_t ids[THREADS] = {0, 1, 2, 3};
    pthread_t threads[THREADS];
    uint64_t seen = 0;
    struct tracer_record *r;

    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, record_many, &ids[i]), 0);
    while (seen + counted("queue_full") - dropped < THREADS * SPANS_EACH) {
        tracer_arm();
        while ((r = tracer_peek(0)) != NULL) {
            ck_assert_int_gt(r->start_us, last[r->context.span_id[7]]);
            ck_assert_int_eq(r->start_us, r->end_us);
            last[r->context.span_id[7]] = r->start_us;
            tracer_release(1);
            seen++;
        }
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_eq(tracer_queued(), 0);
    ck_assert_uint_gt(seen, 0);
}
END_TEST

/* ---- sampling ---- */

static const struct {
    double ratio;
    enum tracer_sampler sampler;
    bool parent_based;
    /* the result for: a root, a sampled parent, one that is not */
    bool root, child_of_yes, child_of_no;
} samplers[] = {
    {1, TRACER_SAMPLE_ON, false, true, true, true},
    {1, TRACER_SAMPLE_OFF, false, false, false, false},
    {1, TRACER_SAMPLE_RATIO, false, true, true, true},
    {0, TRACER_SAMPLE_RATIO, false, false, false, false},
    {1, TRACER_SAMPLE_ON, true, true, true, false},
    {1, TRACER_SAMPLE_OFF, true, false, true, false},
    {1, TRACER_SAMPLE_RATIO, true, true, true, false},
    {0, TRACER_SAMPLE_RATIO, true, false, true, false},
};

static void start_sampler(enum tracer_sampler sampler, bool parent_based, double ratio)
{
    const struct tracer_config config = {.queue_max = 2,
                                         .wake_at = 2,
                                         .sampler = sampler,
                                         .parent_based = parent_based,
                                         .ratio = ratio,
                                         .wake = count_wake};

    tracer_register();
    tracer_start(&config);
}

START_TEST(samplers_decide)
{
    struct trace_context t;

    start_sampler(samplers[_i].sampler, samplers[_i].parent_based, samplers[_i].ratio);
    trace_root(&t, false);
    tracer_sample(&t, false);
    ck_assert_int_eq(tracer_wants(&t), samplers[_i].root);
    ck_assert_uint_eq(t.flags & 2, 2);
    trace_root(&t, true);
    tracer_sample(&t, true);
    ck_assert_int_eq(tracer_wants(&t), samplers[_i].child_of_yes);
    trace_root(&t, false);
    tracer_sample(&t, true);
    ck_assert_int_eq(tracer_wants(&t), samplers[_i].child_of_no);
}
END_TEST

START_TEST(a_ratio_takes_its_share_and_is_the_same_everywhere)
{
    struct trace_context t = {{0}, {1}, 0};
    int taken = 0;

    start_sampler(TRACER_SAMPLE_RATIO, true, 0.1);
    for (int i = 0; i < 20000; i++) {
        trace_root(&t, false);
        tracer_sample(&t, false);
        taken += tracer_wants(&t);
    }
    ck_assert_int_gt(taken, 1700);
    ck_assert_int_lt(taken, 2300);
    /* the last eight bytes decide, as in other implementations */
    memset(t.trace_id, 0xff, 16);
    memcpy(t.trace_id + 8, "\x19\x99\x99\x00\x00\x00\x00\x00", 8);
    tracer_sample(&t, false);
    ck_assert(tracer_wants(&t));
    memcpy(t.trace_id + 8, "\x19\x99\x9a\x00\x00\x00\x00\x00", 8);
    tracer_sample(&t, false);
    ck_assert(!tracer_wants(&t));
}
END_TEST

START_TEST(without_tracing_contexts_stay_as_they_are)
{
    struct trace_context t = context(1, true);

    tracer_sample(&t, false);
    ck_assert_uint_eq(t.flags, TRACE_SAMPLED);
    t.flags = 0;
    tracer_sample(&t, true);
    ck_assert_uint_eq(t.flags, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tracer");
    TCase *t = tcase_create("tracer");

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, NULL, teardown);
    tcase_add_test(t, nothing_is_recorded_unless_on_and_sampled);
    tcase_add_test(t, a_span_is_copied_whole);
    tcase_add_test(t, what_is_too_much_is_cut_or_dropped);
    tcase_add_test(t, a_full_queue_drops_and_counts);
    tcase_add_test(t, the_consumer_is_woken_once_a_batch);
    tcase_add_test(t, many_threads_one_consumer);
    tcase_add_loop_test(t, samplers_decide, 0, sizeof(samplers) / sizeof(samplers[0]));
    tcase_add_test(t, a_ratio_takes_its_share_and_is_the_same_everywhere);
    tcase_add_test(t, without_tracing_contexts_stay_as_they_are);
    suite_add_tcase(s, t);
    return suite_run(s);
}
