#include <check.h>
#include <stdio.h>
#include <string.h>

#include "test/loadtest/pace.h"
#include "test/unit/suite.h"

#define SEC 1000000

START_TEST(an_even_rate)
{
    struct pace p;

    ck_assert(pace_init(&p, 200, 30 * SEC, ""));
    ck_assert_uint_eq(pace_total(&p), 6000);
    ck_assert_int_eq(pace_due_us(&p, 0), 0);
    ck_assert_int_eq(pace_due_us(&p, 1), 5000);
    ck_assert_int_eq(pace_due_us(&p, 5999), 29995000);
    ck_assert(pace_init(&p, 0.1, SEC, ""));
    ck_assert_uint_eq(pace_total(&p), 1); /* the first is due at once */
    ck_assert(pace_init(&p, 0.5, 3 * SEC, ""));
    ck_assert_uint_eq(pace_total(&p), 2);
    ck_assert(pace_init(&p, 3, SEC, ""));
    ck_assert_uint_eq(pace_total(&p), 3);
    ck_assert_int_eq(pace_due_us(&p, 3000000), 1000000000000); /* thirds of a second add up */
}
END_TEST

START_TEST(an_even_rate_does_not_drift)
{
    struct pace p;

    ck_assert(pace_init(&p, 777, 10 * SEC, ""));
    for (uint64_t n = 1; n < 10000; n++) {
        int64_t gap = pace_due_us(&p, n) - pace_due_us(&p, n - 1);

        ck_assert_int_ge(gap, 1287);
        ck_assert_int_le(gap, 1288);
    }
    ck_assert_int_lt(pace_due_us(&p, pace_total(&p) - 1), 10 * SEC);
    ck_assert_int_ge(pace_due_us(&p, pace_total(&p)), 10 * SEC);
}
END_TEST

/* Three parts of 10 s of 10, 60 and 20 a second: the mean is 30. */
START_TEST(a_curve)
{
    struct pace p;

    ck_assert(pace_init(&p, 30, 30 * SEC, "0.5,3,1"));
    ck_assert_uint_eq(pace_total(&p), 900);
    ck_assert_int_eq(pace_due_us(&p, 0), 0);
    ck_assert_int_eq(pace_due_us(&p, 50), 5 * SEC);
    ck_assert_int_eq(pace_due_us(&p, 100), 10 * SEC);
    ck_assert_int_eq(pace_due_us(&p, 400), 15 * SEC);
    ck_assert_int_eq(pace_due_us(&p, 700), 20 * SEC);
    ck_assert_int_eq(pace_due_us(&p, 899), 29950000);
}
END_TEST

START_TEST(a_part_may_be_silent)
{
    struct pace p;

    ck_assert(pace_init(&p, 10, 40 * SEC, "0,1,0,1"));
    ck_assert_uint_eq(pace_total(&p), 400);
    ck_assert_int_eq(pace_due_us(&p, 0), 10 * SEC);
    ck_assert_int_eq(pace_due_us(&p, 199), 19950000);
    ck_assert_int_eq(pace_due_us(&p, 200), 30 * SEC);
    ck_assert(pace_init(&p, 7, 3 * SEC, "1,1,0"));
    for (uint64_t n = 0; n < pace_total(&p); n++)
        ck_assert_int_le(pace_due_us(&p, n), 2 * SEC);
}
END_TEST

START_TEST(times_never_go_back)
{
    struct pace p;
    int64_t last_us = 0;

    ck_assert(pace_init(&p, 1160, 600 * (int64_t)SEC, "0.1,0.3,5,0.7,1.3"));
    for (uint64_t n = 0; n < pace_total(&p); n++) {
        int64_t due_us = pace_due_us(&p, n);

        if (due_us < last_us) /* an assertion each would be most of the time */
            ck_abort_msg("%lld is before %lld", (long long)due_us, (long long)last_us);
        last_us = due_us;
    }
    ck_assert_int_lt(last_us, 600 * (int64_t)SEC);
    ck_assert_uint_eq(pace_total(&p), 1160 * 600);
}
END_TEST

START_TEST(what_is_no_curve_is_refused)
{
    static const char *const bad[] = {",",  "1,", ",1",  "1,,2",  "0",   "0,0",
                                      "-1", "x",  "1 2", "1,nan", "inf", "1e7"};
    char many[2 * (PACE_PARTS_MAX + 1) + 1] = "";
    struct pace p;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_msg(!pace_init(&p, 1, SEC, bad[i]), "%s", bad[i]);
    for (size_t i = 0; i <= PACE_PARTS_MAX; i++)
        memcpy(many + 2 * i, "1,", 3);
    many[2 * PACE_PARTS_MAX + 1] = '\0';
    ck_assert(!pace_init(&p, 1, SEC, many));
    many[2 * PACE_PARTS_MAX - 1] = '\0';
    ck_assert(pace_init(&p, 1, SEC, many));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pace");
    TCase *t = tcase_create("pace");

    tcase_add_test(t, an_even_rate);
    tcase_add_test(t, an_even_rate_does_not_drift);
    tcase_add_test(t, a_curve);
    tcase_add_test(t, a_part_may_be_silent);
    tcase_add_test(t, times_never_go_back);
    tcase_add_test(t, what_is_no_curve_is_refused);
    suite_add_tcase(s, t);
    return suite_run(s);
}
