#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "test/loadtest/histogram.h"
#include "test/unit/suite.h"

static struct histogram h;

static void setup(void)
{
    memset(&h, 0, sizeof(h));
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

START_TEST(small_values_are_exact)
{
    for (int i = 1; i <= 100; i++)
        histogram_add(&h, i);
    ck_assert_int_eq(histogram_at(&h, 0.5), 50);
    ck_assert_int_eq(histogram_at(&h, 0.99), 99);
    ck_assert_int_eq(histogram_at(&h, 0.999), 100);
    ck_assert_int_eq(histogram_at(&h, 1), 100);
    ck_assert_int_eq(histogram_at(&h, 0), 1);
    ck_assert_int_eq(h.max, 100);
}
END_TEST

/* Against the sorted values: never below, at most 1/128 above. */
START_TEST(every_percentile_is_within_its_error)
{
    enum { N = 20000 };
    static int64_t values[N];
    uint64_t x = 88172645463325252u;

    for (int i = 0; i < N; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        values[i] = (int64_t)(x >> (20 + x % 40)); /* many magnitudes */
        histogram_add(&h, values[i]);
    }
    qsort(values, N, sizeof(values[0]), by_size);
    for (int p = 1; p <= 1000; p++) {
        int64_t exact = values[(int64_t)p * N / 1000 - 1];
        int64_t got = histogram_at(&h, p / 1000.0);

        ck_assert_int_ge(got, exact);
        ck_assert_int_le(got, exact + exact / 128);
    }
    ck_assert_int_eq(histogram_at(&h, 1), values[N - 1]);
}
END_TEST

START_TEST(extremes_fit)
{
    ck_assert_int_eq(histogram_at(&h, 0.5), 0);
    histogram_add(&h, -5);
    histogram_add(&h, INT64_MAX);
    ck_assert_int_eq(histogram_at(&h, 0.5), 0);
    ck_assert_int_eq(histogram_at(&h, 1), INT64_MAX);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("histogram");
    TCase *t = tcase_create("histogram");

    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, small_values_are_exact);
    tcase_add_test(t, every_percentile_is_within_its_error);
    tcase_add_test(t, extremes_fit);
    suite_add_tcase(s, t);
    return suite_run(s);
}
