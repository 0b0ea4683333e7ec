#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "operator-sim/fault.h"
#include "test/unit/suite.h"

static struct fault_set parsed(const char *json)
{
    struct fault_set set;
    char why[200] = "";

    ck_assert_msg(fault_parse(json, strlen(json), &set, why, sizeof(why)), "%s: %s", json, why);
    return set;
}

static unsigned strikes(struct fault_set *set, enum fault_kind kind, uint64_t seed, unsigned n)
{
    unsigned hits = 0;

    for (unsigned i = 0; i < n; i++) {
        char reference[16];

        snprintf(reference, sizeof(reference), "r-%u", i);
        hits += fault_strikes(set, kind, seed, reference, 1);
    }
    return hits;
}

START_TEST(a_share_is_kept_and_replays)
{
    struct fault_set set = parsed("{\"reset_share\":0.3,\"hang_share\":0.3}");
    unsigned hits = strikes(&set, FAULT_RESET, 7, 10000);
    unsigned both = 0;

    ck_assert_uint_ge(hits, 2800);
    ck_assert_uint_le(hits, 3200);
    ck_assert_uint_eq(strikes(&set, FAULT_RESET, 7, 10000), hits);
    for (unsigned attempt = 1; attempt <= 10000; attempt++) {
        bool reset = fault_strikes(&set, FAULT_RESET, 7, "r", attempt);

        ck_assert(reset == fault_strikes(&set, FAULT_RESET, 7, "r", attempt));
        both += reset && fault_strikes(&set, FAULT_HANG, 7, "r", attempt);
    }
    ck_assert_uint_ge(both, 700); /* the faults do not depend on each other: 900 */
    ck_assert_uint_le(both, 1100);
}
END_TEST

START_TEST(times_bound_it)
{
    struct fault_set set = parsed("{\"status\":503,\"status_times\":5}");

    ck_assert_uint_eq(strikes(&set, FAULT_STATUS, 1, 100), 5);
    ck_assert_uint_eq(strikes(&set, FAULT_STATUS, 1, 100), 0);
    set = parsed("{\"reset_share\":1}");
    ck_assert_uint_eq(strikes(&set, FAULT_RESET, 1, 1000), 1000);
    ck_assert_uint_eq(strikes(&set, FAULT_HANG, 1, 1000), 0);
}
END_TEST

START_TEST(latency_is_fixed_or_a_range)
{
    struct fault_set set = parsed("{\"latency_ms\":20}");
    int64_t least = INT64_MAX;
    int64_t most = 0;

    ck_assert_int_eq(fault_latency_us(&set, 1, "r", 1), 20000);
    set = parsed("{\"latency_ms\":20,\"latency_max_ms\":200}");
    for (unsigned i = 0; i < 1000; i++) {
        int64_t us = fault_latency_us(&set, 1, "r", i);

        least = us < least ? us : least;
        most = us > most ? us : most;
    }
    ck_assert(least >= 20000 && least < 25000 && most > 195000 && most <= 200000);
}
END_TEST

static const char *const wrong[] = {
    "",
    "[]",
    "7",
    "{\"unknown\":1}",
    "{\"status\":99}",
    "{\"status\":\"503\"}",
    "{\"status_share\":0.5}",
    "{\"status\":503,\"status_share\":1.1}",
    "{\"reset_share\":-0.1}",
    "{\"reset_share\":true}",
    "{\"reset_share\":1,\"reset_times\":-1}",
    "{\"latency_ms\":1.5}",
    "{\"latency_ms\":20,\"latency_max_ms\":10}",
    "{\"reject_prefix\":\"\"}",
    "{\"reject_prefix\":\"012345678901234567890\"}",
    "{\"refuse\":1}",
    "{\"hang_share\":1,\"hang_share\":0}",
};

START_TEST(wrong_faults_change_nothing)
{
    struct fault_set set = {.status = 77};
    char why[200] = "";

    ck_assert(!fault_parse(wrong[_i], strlen(wrong[_i]), &set, why, sizeof(why)));
    ck_assert_int_eq(set.status, 77);
    ck_assert(*why);
}
END_TEST

START_TEST(what_is_shown_parses_back)
{
    static const char *const sets[] = {
        "{}", "{\"latency_ms\":1,\"latency_max_ms\":2,\"status\":503,\"retry_after\":0,"
              "\"status_share\":0.5,\"status_times\":3,\"reset_share\":0.25,"
              "\"accept_then_hang_share\":1,\"reject_share\":1,\"reject_prefix\":\"09\"}"};

    for (int i = 0; i < 2; i++) {
        struct fault_set set = parsed(sets[i]);
        struct buf out = {0};

        fault_put_json(&out, &set);
        ck_assert_str_eq(out.data, sets[i]);
        buf_free(&out);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fault");
    TCase *t = tcase_create("fault");

    tcase_add_test(t, a_share_is_kept_and_replays);
    tcase_add_test(t, times_bound_it);
    tcase_add_test(t, latency_is_fixed_or_a_range);
    tcase_add_loop_test(t, wrong_faults_change_nothing, 0, (int)(sizeof(wrong) / sizeof(wrong[0])));
    tcase_add_test(t, what_is_shown_parses_back);
    suite_add_tcase(s, t);
    return suite_run(s);
}
