#include <check.h>
#include <stdlib.h>

#include "consumerd/breaker.h"
#include "test/unit/suite.h"

/* Each row: at that time, an event and the state after it. */
enum event {
    CALL_OK,      /* allowed, succeeds at once */
    CALL_FAILS,   /* allowed, fails at once */
    CALL_SLOW,    /* allowed, succeeds, slowly */
    CALL_NEUTRAL, /* allowed, says nothing */
    CALL_REFUSED, /* allowed, a final no */
    REFUSED,      /* a call is not allowed */
    TAKE,         /* allowed; its result comes later, with GIVE_* */
    GIVE_OK,
    GIVE_FAILED,
    GIVE_NEUTRAL,
};

struct step {
    int64_t at_ms;
    enum event event;
    enum breaker_state after;
};

static const struct breaker_config config = {
    .failures = 3,
    .open_ms = 5000,
    .probes = 2,
    .successes = 2,
    .window_ms = 10000,
    .window_calls = 10,
    .failure_pct = 50,
    .slow_pct = 80,
    .slow_ms = 1000,
};

static void run(const struct step *steps, size_t n)
{
    struct breaker b;
    uint32_t taken[16];
    size_t first = 0;
    size_t last = 0;

    breaker_init(&b, &config);
    for (size_t i = 0; i < n; i++) {
        const struct step *s = &steps[i];
        uint32_t permit = 0;

        switch (s->event) {
        case REFUSED:
            ck_assert_msg(breaker_blocks(&b, s->at_ms), "step %zu: not blocked", i);
            ck_assert_msg(!breaker_allow(&b, s->at_ms, &permit), "step %zu: allowed", i);
            break;
        case GIVE_OK:
        case GIVE_FAILED:
        case GIVE_NEUTRAL:
            ck_assert(first < last);
            breaker_record(&b, taken[first++],
                           s->event == GIVE_OK       ? BREAKER_SUCCESS
                           : s->event == GIVE_FAILED ? BREAKER_FAILURE
                                                     : BREAKER_NEUTRAL,
                           1, s->at_ms);
            break;
        default:
            ck_assert_msg(!breaker_blocks(&b, s->at_ms), "step %zu: blocked", i);
            ck_assert_msg(breaker_allow(&b, s->at_ms, &permit), "step %zu: refused", i);
            if (s->event == TAKE)
                taken[last++] = permit;
            else
                breaker_record(&b, permit,
                               s->event == CALL_FAILS     ? BREAKER_FAILURE
                               : s->event == CALL_NEUTRAL ? BREAKER_NEUTRAL
                               : s->event == CALL_REFUSED ? BREAKER_REFUSAL
                                                          : BREAKER_SUCCESS,
                               s->event == CALL_SLOW ? 1001 : 1000, s->at_ms);
        }
        ck_assert_msg(b.state == s->after, "step %zu: %s", i, breaker_state_name(b.state));
    }
}

#define RUN(...)                                      \
    do {                                              \
        const struct step steps[] = {__VA_ARGS__};    \
        run(steps, sizeof(steps) / sizeof(steps[0])); \
    } while (0)

START_TEST(opens_after_failures_in_a_row)
{
    RUN({0, CALL_FAILS, BREAKER_CLOSED}, {1, CALL_FAILS, BREAKER_CLOSED},
        {2, CALL_OK, BREAKER_CLOSED}, {3, CALL_FAILS, BREAKER_CLOSED},
        {4, CALL_FAILS, BREAKER_CLOSED}, {5, CALL_FAILS, BREAKER_OPEN}, {6, REFUSED, BREAKER_OPEN},
        {5004, REFUSED, BREAKER_OPEN});
}
END_TEST

START_TEST(neutral_results_neither_fail_nor_heal)
{
    RUN({0, CALL_FAILS, BREAKER_CLOSED}, {1, CALL_FAILS, BREAKER_CLOSED},
        {2, CALL_NEUTRAL, BREAKER_CLOSED}, {3, CALL_NEUTRAL, BREAKER_CLOSED},
        {4, CALL_NEUTRAL, BREAKER_CLOSED}, {5, CALL_FAILS, BREAKER_OPEN});
}
END_TEST

START_TEST(half_open_lets_a_few_through_and_closes_after_two)
{
    RUN({0, CALL_FAILS, BREAKER_CLOSED}, {0, CALL_FAILS, BREAKER_CLOSED},
        {0, CALL_FAILS, BREAKER_OPEN}, {5000, TAKE, BREAKER_HALF_OPEN},
        {5001, TAKE, BREAKER_HALF_OPEN}, {5002, REFUSED, BREAKER_HALF_OPEN},
        {5003, GIVE_OK, BREAKER_HALF_OPEN}, {5004, GIVE_OK, BREAKER_CLOSED},
        {5005, CALL_FAILS, BREAKER_CLOSED});
}
END_TEST

START_TEST(half_open_opens_again_at_the_first_failure)
{
    RUN({0, CALL_FAILS, BREAKER_CLOSED}, {0, CALL_FAILS, BREAKER_CLOSED},
        {0, CALL_FAILS, BREAKER_OPEN}, {5000, CALL_OK, BREAKER_HALF_OPEN},
        {5001, CALL_FAILS, BREAKER_OPEN}, {10000, REFUSED, BREAKER_OPEN},
        {10001, CALL_OK, BREAKER_HALF_OPEN}, {10002, CALL_OK, BREAKER_CLOSED});
}
END_TEST

START_TEST(a_probe_that_says_nothing_gives_its_place_back)
{
    RUN({0, CALL_FAILS, BREAKER_CLOSED}, {0, CALL_FAILS, BREAKER_CLOSED},
        {0, CALL_FAILS, BREAKER_OPEN}, {5000, TAKE, BREAKER_HALF_OPEN},
        {5000, TAKE, BREAKER_HALF_OPEN}, {5001, GIVE_NEUTRAL, BREAKER_HALF_OPEN},
        {5002, TAKE, BREAKER_HALF_OPEN}, {5002, REFUSED, BREAKER_HALF_OPEN});
}
END_TEST

/* An operator that says no is at work: it must not stay half-open for want of acceptances. */
START_TEST(final_noes_close_a_half_open_breaker)
{
    RUN({0, CALL_FAILS, BREAKER_CLOSED}, {0, CALL_FAILS, BREAKER_CLOSED},
        {0, CALL_REFUSED, BREAKER_CLOSED}, {0, CALL_FAILS, BREAKER_OPEN},
        {5000, CALL_REFUSED, BREAKER_HALF_OPEN}, {5001, CALL_REFUSED, BREAKER_CLOSED});
}
END_TEST

/* Calls that began before a change of state say nothing about the state after it. */
START_TEST(late_results_are_ignored)
{
    RUN({0, TAKE, BREAKER_CLOSED}, {0, TAKE, BREAKER_CLOSED}, {0, TAKE, BREAKER_CLOSED},
        {1, CALL_FAILS, BREAKER_CLOSED}, {1, CALL_FAILS, BREAKER_CLOSED},
        {1, CALL_FAILS, BREAKER_OPEN}, {2, GIVE_OK, BREAKER_OPEN},
        {5001, CALL_OK, BREAKER_HALF_OPEN}, {5002, GIVE_FAILED, BREAKER_HALF_OPEN},
        {5003, GIVE_OK, BREAKER_HALF_OPEN}, {5004, CALL_OK, BREAKER_CLOSED});
}
END_TEST

START_TEST(opens_on_a_failure_rate)
{
    RUN({0, CALL_OK, BREAKER_CLOSED}, {0, CALL_FAILS, BREAKER_CLOSED}, {0, CALL_OK, BREAKER_CLOSED},
        {0, CALL_FAILS, BREAKER_CLOSED}, {0, CALL_OK, BREAKER_CLOSED},
        {0, CALL_FAILS, BREAKER_CLOSED}, {0, CALL_OK, BREAKER_CLOSED},
        {0, CALL_FAILS, BREAKER_CLOSED}, {0, CALL_OK, BREAKER_CLOSED},
        {0, CALL_FAILS, BREAKER_OPEN});
}
END_TEST

START_TEST(old_failures_leave_the_window)
{
    RUN({0, CALL_OK, BREAKER_CLOSED}, {0, CALL_FAILS, BREAKER_CLOSED}, {0, CALL_OK, BREAKER_CLOSED},
        {0, CALL_FAILS, BREAKER_CLOSED}, {0, CALL_OK, BREAKER_CLOSED},
        {0, CALL_FAILS, BREAKER_CLOSED}, {0, CALL_OK, BREAKER_CLOSED},
        {0, CALL_FAILS, BREAKER_CLOSED}, {0, CALL_OK, BREAKER_CLOSED},
        {10000, CALL_FAILS, BREAKER_CLOSED});
}
END_TEST

START_TEST(opens_on_slow_calls)
{
    RUN({0, CALL_SLOW, BREAKER_CLOSED}, {0, CALL_SLOW, BREAKER_CLOSED},
        {0, CALL_SLOW, BREAKER_CLOSED}, {0, CALL_SLOW, BREAKER_CLOSED},
        {0, CALL_SLOW, BREAKER_CLOSED}, {0, CALL_SLOW, BREAKER_CLOSED},
        {0, CALL_SLOW, BREAKER_CLOSED}, {0, CALL_OK, BREAKER_CLOSED}, {0, CALL_OK, BREAKER_CLOSED},
        {0, CALL_SLOW, BREAKER_OPEN});
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("breaker");
    TCase *tc = tcase_create("breaker");

    tcase_add_test(tc, opens_after_failures_in_a_row);
    tcase_add_test(tc, neutral_results_neither_fail_nor_heal);
    tcase_add_test(tc, half_open_lets_a_few_through_and_closes_after_two);
    tcase_add_test(tc, half_open_opens_again_at_the_first_failure);
    tcase_add_test(tc, a_probe_that_says_nothing_gives_its_place_back);
    tcase_add_test(tc, final_noes_close_a_half_open_breaker);
    tcase_add_test(tc, late_results_are_ignored);
    tcase_add_test(tc, opens_on_a_failure_rate);
    tcase_add_test(tc, old_failures_leave_the_window);
    tcase_add_test(tc, opens_on_slow_calls);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
