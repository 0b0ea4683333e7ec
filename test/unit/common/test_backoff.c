#include <check.h>
#include <stdlib.h>

#include "libcommon/base/backoff.h"
#include "test/unit/suite.h"

START_TEST(doubles_up_to_the_bound)
{
    static const int64_t longest[] = {200, 400, 800, 1600, 3000, 3000};

    for (unsigned i = 0; i < 6; i++)
        ck_assert_int_eq(backoff_ms(i + 1, 200, 3000, 0), longest[i]);
    ck_assert_int_eq(backoff_ms(0, 200, 3000, 0), 200);
    ck_assert_int_eq(backoff_ms(4000000000u, 200, 60000, 0), 60000);
    ck_assert_int_eq(backoff_ms(3, 5000, 1000, 0), 1000);
}
END_TEST

START_TEST(jitter_stays_in_the_upper_half)
{
    for (uint64_t random = 0; random < 2000; random++) {
        int64_t wait = backoff_ms(3, 200, 60000, random * 0x9e3779b97f4a7c15u);

        ck_assert_int_ge(wait, 400);
        ck_assert_int_le(wait, 800);
    }
    ck_assert_int_ge(backoff_ms(1, 1, 1, UINT64_MAX), 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("backoff");
    TCase *t = tcase_create("backoff");

    tcase_add_test(t, doubles_up_to_the_bound);
    tcase_add_test(t, jitter_stays_in_the_upper_half);
    suite_add_tcase(s, t);
    return suite_run(s);
}
