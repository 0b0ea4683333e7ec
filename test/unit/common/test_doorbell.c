#include "libcommon/domain/doorbell.h"

#include <check.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/pause.h"
#include "libcommon/telemetry/metrics.h"
#include "test/unit/fake_broker.h"
#include "test/unit/suite.h"

#define PATIENCE_MS 20000

static char exchange[] = "x";
static const struct broker_settings settings = {.exchange = exchange, .heartbeat_sec = 5};

static unsigned there_and_back(unsigned what)
{
    struct buf text = {0};
    unsigned back;

    doorbell_put(&text, what);
    ck_assert(!text.failed);
    back = doorbell_parse(text.data, text.len);
    buf_free(&text);
    return back;
}

START_TEST(what_is_rung_is_what_is_heard)
{
    for (unsigned what = 1; what < 1u << (2 * MESSAGE_LANES); what++)
        ck_assert_uint_eq(there_and_back(what), what);
}
END_TEST

START_TEST(what_is_not_known_is_left_out)
{
    static const char text[] = "normal  express.soon \xff express.later";

    ck_assert_uint_eq(doorbell_parse(text, strlen(text)),
                      DOORBELL_FRESH(MESSAGE_NORMAL) | DOORBELL_LATER(MESSAGE_EXPRESS));
    ck_assert_uint_eq(doorbell_parse("norma", 5), 0);
    ck_assert_uint_eq(doorbell_parse("", 0), 0);
}
END_TEST

/* Commits that come one by one are told of soon, however long they keep coming. */
START_TEST(rings_are_far_apart_only_in_a_crowd)
{
    int64_t least_ms = doorbell_gap_ms(0, 0), most_ms = least_ms;

    ck_assert_int_le(least_ms, 5);
    ck_assert_int_eq(doorbell_gap_ms(least_ms, 0), least_ms);
    ck_assert_int_eq(doorbell_gap_ms(least_ms, 2), least_ms);
    ck_assert_int_eq(doorbell_gap_ms(least_ms, 3), 2 * least_ms);
    for (int i = 0; i < 100; i++)
        most_ms = doorbell_gap_ms(most_ms, 1000);
    ck_assert_int_le(most_ms, 25);
    ck_assert_int_ge(most_ms, 10);
    ck_assert_int_eq(doorbell_gap_ms(most_ms, 1), least_ms);
}
END_TEST

START_TEST(a_verb_rings_once)
{
    fake_broker_begin();
    doorbell_ring_once(&settings, DOORBELL_FRESH(MESSAGE_EXPRESS));
    ck_assert_str_eq(fake_broker_calls(), "open fanout:x.doorbell ring:x.doorbell flush");
    fake_broker_end();
    fake_broker_begin();
    fake_broker_fails("open", 1);
    doorbell_ring_once(&settings, DOORBELL_FRESH(MESSAGE_EXPRESS));
    ck_assert_str_eq(fake_broker_calls(), "open");
    fake_broker_end();
}
END_TEST

static bool has_rung(void)
{
    struct buf text = {0};
    bool yes;

    metrics_render(&text, METRICS_PLAIN);
    yes = strstr(text.data, "msg_doorbell_rings_total{lane=\"express\",result=\"sent\"} 1\n");
    buf_free(&text);
    return yes;
}

START_TEST(who_stops_rings_for_nothing_more)
{
    int64_t until_ms = clock_mono_ms() + PATIENCE_MS;
    struct doorbell *d;

    fake_broker_begin();
    d = doorbell_start(&settings);
    doorbell_ring(d, DOORBELL_FRESH(MESSAGE_EXPRESS));
    while (!has_rung() && clock_mono_ms() < until_ms)
        pause_sleep(1);
    doorbell_begin_stop(d);
    doorbell_stop(d);
    ck_assert_str_eq(fake_broker_calls(), "open fanout:x.doorbell ring:x.doorbell flush");
    fake_broker_end();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("doorbell");
    TCase *t = tcase_create("rings");

    tcase_add_test(t, what_is_rung_is_what_is_heard);
    tcase_add_test(t, what_is_not_known_is_left_out);
    tcase_add_test(t, rings_are_far_apart_only_in_a_crowd);
    tcase_add_test(t, a_verb_rings_once);
    tcase_add_test(t, who_stops_rings_for_nothing_more);
    suite_add_tcase(s, t);
    return suite_run(s);
}
