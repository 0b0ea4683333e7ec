#include <check.h>

#include "test/loadtest/zipf.h"
#include "test/unit/suite.h"

#define DRAWS 100000

START_TEST(the_ends_are_the_first_and_the_last)
{
    struct zipf *z = zipf_new(1000, 1.1);
    struct zipf *one = zipf_new(1, 1);

    ck_assert_uint_eq(zipf_at(z, 0), 0);
    ck_assert_uint_eq(zipf_at(z, 1 - 1e-12), 999);
    ck_assert_uint_eq(zipf_at(one, 0.999), 0);
    zipf_free(z);
    zipf_free(one);
    zipf_free(NULL);
}
END_TEST

START_TEST(shares_fall_as_the_law_says)
{
    struct zipf *z = zipf_new(4, 1); /* 12, 6, 4, 3 of 25 */
    unsigned counts[4] = {0};

    for (unsigned i = 0; i < DRAWS; i++)
        counts[zipf_at(z, (i + 0.5) / DRAWS)]++;
    ck_assert_uint_eq(counts[0], DRAWS * 12 / 25);
    ck_assert_uint_eq(counts[1], DRAWS * 6 / 25);
    ck_assert_uint_eq(counts[2], DRAWS * 4 / 25);
    ck_assert_uint_eq(counts[3], DRAWS * 3 / 25);
    zipf_free(z);
}
END_TEST

START_TEST(an_exponent_of_none_makes_all_alike)
{
    struct zipf *z = zipf_new(10, 0);

    for (size_t i = 0; i < 10; i++)
        ck_assert_uint_eq(zipf_at(z, ((double)i + 0.5) / 10), i);
    zipf_free(z);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("zipf");
    TCase *t = tcase_create("zipf");

    tcase_add_test(t, the_ends_are_the_first_and_the_last);
    tcase_add_test(t, shares_fall_as_the_law_says);
    tcase_add_test(t, an_exponent_of_none_makes_all_alike);
    suite_add_tcase(s, t);
    return suite_run(s);
}
