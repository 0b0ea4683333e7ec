#include <check.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "test/unit/consumerd/make_lane.h"
#include "test/unit/suite.h"

/* A delivery that the library cannot take in, and what comes behind it. */

#define BODY(id)                                                       \
    "{\"customer_id\":7,\"text\":\"hello\",\"recipients\":[\"0912\"]," \
    "\"type\":\"normal\",\"transaction_id\":\"c-" id "\",\"message_identifier\":\"" id "\"}"
#define DELIVERED(n, id)                                                                         \
    {                                                                                            \
        .type = BROKER_DELIVERED, .tag = (n), .message_id = (id), .traceparent = "", .text = "", \
        .tracestate = "", .body = BODY(id), .body_len = strlen(BODY(id))                         \
    }
#define UNREADABLE(n)                          \
    {                                          \
        .type = BROKER_UNREADABLE, .tag = (n), \
    }

static void setup(void)
{
    make_lane();
    lane->consuming = true;
}

static void connect_again(void)
{
    struct err err;

    ck_assert_int_eq(broker_open(lane->broker, &err), 0);
    lane->consuming = true;
}

static bool called(const char *words)
{
    const char *calls = fake_broker_calls();
    size_t n = strlen(calls);

    return n >= strlen(words) && !strcmp(calls + n - strlen(words), words);
}

START_TEST(it_is_dead_lettered_and_its_connection_left)
{
    uint64_t dead = metrics_value(stats.dead[STATS_DEAD_UNREADABLE]);
    uint64_t of_lane = events(STATS_DEAD);

    HEARS(DELIVERED(1, "m-1"), UNREADABLE(2));
    lane_exchange(lane);
    ck_assert_str_eq(fake_broker_calls(), "open dead_letter:2 leave");
    ck_assert_uint_eq(metrics_value(stats.dead[STATS_DEAD_UNREADABLE]), dead + 1);
    ck_assert_uint_eq(events(STATS_DEAD), of_lane + 1);
    ck_assert(!lane->consuming);
    ck_assert_uint_eq(lane->arrived_count, 0); /* the first comes again */
    ck_assert_int_le(lane->broker_retry_at_ms, clock_mono_ms());
    ck_assert_uint_eq(lane->broker_failures, 0);
}
END_TEST

START_TEST(the_next_ones_are_taken_singly_until_one_is_good)
{
    char words[40];

    HEARS(UNREADABLE(1));
    lane_exchange(lane);
    connect_again();
    HEARS(UNREADABLE(1));
    lane_exchange(lane);
    ck_assert(lane->probing);
    connect_again();
    fake_broker_hears_nothing();
    lane_exchange(lane);
    ck_assert(called("open")); /* silence says nothing */
    HEARS(DELIVERED(1, "m-1"));
    lane_exchange(lane);
    snprintf(words, sizeof(words), "cancel consume:%zu", lane->deliveries_max);
    ck_assert_msg(called(words), "%s", fake_broker_calls());
    ck_assert(!lane->probing && lane->consuming);
    ck_assert_uint_eq(lane->arrived_count, 1);
}
END_TEST

/* It may come again: the broker is given ever more time. */
START_TEST(a_broker_that_does_not_hear_is_left_alone_for_longer_each_time)
{
    for (unsigned i = 1; i <= 3; i++) {
        fake_broker_fails("leave", 1);
        HEARS(UNREADABLE(1));
        lane_exchange(lane);
        ck_assert_uint_eq(lane->broker_failures, i);
        ck_assert_int_gt(lane->broker_retry_at_ms, clock_mono_ms());
        ck_assert(lane->probing && !lane->consuming && !lane->unreadable);
        connect_again();
    }
    HEARS(DELIVERED(1, "m-1"));
    lane_exchange(lane);
    ck_assert_uint_eq(lane->broker_failures, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("lane_unreadable");
    TCase *t = tcase_create("lane_unreadable");

    tcase_add_checked_fixture(t, setup, unmake_lane);
    tcase_add_test(t, it_is_dead_lettered_and_its_connection_left);
    tcase_add_test(t, the_next_ones_are_taken_singly_until_one_is_good);
    tcase_add_test(t, a_broker_that_does_not_hear_is_left_alone_for_longer_each_time);
    suite_add_tcase(s, t);
    return suite_run(s);
}
