#include <check.h>
#include <stdlib.h>

#include "api/limiter.h"
#include "test/unit/suite.h"

#define SECOND INT64_C(1000000)

START_TEST(burst_then_rate)
{
    struct limiter *l = limiter_new(2, 3);
    int64_t now_us = 1000 * SECOND;

    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(limiter_take(l, 7, now_us), 0);
    ck_assert_int_eq(limiter_take(l, 7, now_us), 1);
    ck_assert_int_eq(limiter_take(l, 7, now_us + SECOND / 2), 0);
    ck_assert_int_eq(limiter_take(l, 7, now_us + SECOND / 2), 1);
    limiter_free(l);
}
END_TEST

START_TEST(customers_do_not_share)
{
    struct limiter *l = limiter_new(1, 1);
    int64_t now_us = 1000 * SECOND;

    ck_assert_int_eq(limiter_take(l, 1, now_us), 0);
    ck_assert_int_gt(limiter_take(l, 1, now_us), 0);
    ck_assert_int_eq(limiter_take(l, 2, now_us), 0);
    limiter_free(l);
}
END_TEST

START_TEST(zero_is_off)
{
    struct limiter *l = limiter_new(0, 1);

    for (int i = 0; i < 1000; i++)
        ck_assert_int_eq(limiter_take(l, 1, SECOND), 0);
    limiter_free(l);
}
END_TEST

START_TEST(refused_takes_cost_nothing)
{
    struct limiter *l = limiter_new(10, 1);
    int64_t now_us = 1000 * SECOND;

    ck_assert_int_eq(limiter_take(l, 1, now_us), 0);
    for (int i = 0; i < 100; i++)
        ck_assert_int_gt(limiter_take(l, 1, now_us), 0);
    ck_assert_int_eq(limiter_take(l, 1, now_us + SECOND / 10), 0);
    limiter_free(l);
}
END_TEST

START_TEST(an_active_customer_survives_a_flood_of_others)
{
    struct limiter *l = limiter_new(1, 2);
    int64_t now_us = 1000 * SECOND;

    ck_assert_int_eq(limiter_take(l, 1, now_us), 0);
    ck_assert_int_eq(limiter_take(l, 1, now_us), 0);
    for (int64_t other = 2; other < 20000; other++)
        limiter_take(l, other, now_us);
    ck_assert_int_gt(limiter_take(l, 1, now_us), 0);
    limiter_free(l);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("limiter");
    TCase *t = tcase_create("bucket");

    tcase_add_test(t, burst_then_rate);
    tcase_add_test(t, customers_do_not_share);
    tcase_add_test(t, zero_is_off);
    tcase_add_test(t, refused_takes_cost_nothing);
    tcase_add_test(t, an_active_customer_survives_a_flood_of_others);
    suite_add_tcase(s, t);
    return suite_run(s);
}
