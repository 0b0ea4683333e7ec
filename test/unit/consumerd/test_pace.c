#include "consumerd/pace.h"

#include <check.h>

#include "test/unit/suite.h"

static struct pace pace;
static int64_t now_us;

static void setup(void)
{
    pace = (struct pace){.most_us = 60000};
    now_us = 1000000;
}

/* A turn as soon as one may be; returns the pause after it. */
static int64_t turn_on(size_t work, int64_t took_us)
{
    int64_t end_us = now_us + took_us;
    int64_t next_us = pace_next_us(&pace, now_us, end_us, work);

    now_us = next_us > end_us ? next_us : end_us;
    return now_us - end_us;
}

static int64_t turn(int64_t took_us)
{
    return turn_on(20, took_us);
}

/* Whatever a turn takes: nobody comes while it would wait. */
START_TEST(a_quiet_lane_waits_for_nothing)
{
    for (int i = 0; i < 100; i++) {
        ck_assert_int_eq(turn_on(1, 8000), 0); /* claims ... */
        ck_assert_int_eq(turn_on(1, 8000), 0); /* ... and settles what has come */
        now_us += 4000;
    }
}
END_TEST

START_TEST(the_first_turns_after_a_quiet_time_wait_for_nothing)
{
    for (int i = 0; i < 100; i++)
        turn(1000);
    now_us += 1000000;
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(turn(1000), 0);
    ck_assert_int_gt(turn(1000), 0);
}
END_TEST

/* As long as turns are small. */
START_TEST(a_turn_waits_as_often_as_it_had_something_to_do)
{
    for (int i = 0; i < 100; i++)
        turn_on(3, 1000);
    ck_assert_int_ge(turn_on(3, 1000), 1900);
    ck_assert_int_le(turn_on(3, 1000), 2000);
}
END_TEST

START_TEST(a_busy_lane_turns_for_a_sixteenth_of_the_time)
{
    int64_t began_us = now_us;
    int64_t end_us;

    for (int i = 0; i < 1000; i++)
        turn(2000);
    end_us = now_us;
    ck_assert_int_ge(end_us - began_us, INT64_C(1000) * 2000 * 16 * 99 / 100);
    ck_assert_int_le(end_us - began_us, INT64_C(1000) * 2000 * 16);
    ck_assert_int_eq(turn(2000), 30000);
}
END_TEST

START_TEST(what_turns_take_is_what_they_wait)
{
    for (int i = 0; i < 100; i++)
        turn(500);
    ck_assert_int_eq(turn(500), 7500);
    for (int i = 0; i < 100; i++)
        turn(4000);
    ck_assert_int_ge(turn(4000), 59800);
    ck_assert_int_le(turn(4000), 60000);
}
END_TEST

START_TEST(no_pause_is_longer_than_the_longest_and_none_is_owed)
{
    for (int i = 0; i < 100; i++)
        turn(20000);
    ck_assert_int_eq(turn(20000), 60000);
    for (int i = 0; i < 100; i++)
        ck_assert_int_le(turn(1000), 60000);
    ck_assert_int_le(turn(1000), 15100);
    ck_assert_int_ge(turn(1000), 14800);
}
END_TEST

START_TEST(without_a_longest_pause_there_is_none)
{
    pace.most_us = 0;
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(turn(5000), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pace");
    TCase *t = tcase_create("pace");

    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, a_quiet_lane_waits_for_nothing);
    tcase_add_test(t, the_first_turns_after_a_quiet_time_wait_for_nothing);
    tcase_add_test(t, a_turn_waits_as_often_as_it_had_something_to_do);
    tcase_add_test(t, a_busy_lane_turns_for_a_sixteenth_of_the_time);
    tcase_add_test(t, what_turns_take_is_what_they_wait);
    tcase_add_test(t, no_pause_is_longer_than_the_longest_and_none_is_owed);
    tcase_add_test(t, without_a_longest_pause_there_is_none);
    suite_add_tcase(s, t);
    return suite_run(s);
}
