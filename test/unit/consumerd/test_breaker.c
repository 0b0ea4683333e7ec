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
    CALL_UNFIT,   /* allowed, it cannot serve us */
    CALL_MAYBE_A, /* allowed, it cannot serve us, or not message A ... */
    CALL_MAYBE_B,
    CALL_MAYBE_C,
    LOOK,    /* nobody calls */
    REFUSED, /* a call is not allowed */
    TAKE,    /* allowed; its result comes later, with GIVE_* */
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

static const struct {
    enum breaker_result result;
    const char *message;
    int64_t duration_ms;
} calls[] = {
    [CALL_OK] = {BREAKER_SUCCESS, "a", 1000},       [CALL_FAILS] = {BREAKER_FAILURE, "a", 1000},
    [CALL_SLOW] = {BREAKER_SUCCESS, "a", 1001},     [CALL_NEUTRAL] = {BREAKER_NEUTRAL, "a", 1},
    [CALL_REFUSED] = {BREAKER_REFUSAL, "a", 1000},  [CALL_UNFIT] = {BREAKER_UNFIT, "a", 1},
    [CALL_MAYBE_A] = {BREAKER_MAYBE_UNFIT, "a", 1}, [CALL_MAYBE_B] = {BREAKER_MAYBE_UNFIT, "b", 1},
    [CALL_MAYBE_C] = {BREAKER_MAYBE_UNFIT, "c", 1},
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
        case LOOK:
            breaker_look(&b, s->at_ms);
            break;
        case GIVE_OK:
        case GIVE_FAILED:
        case GIVE_NEUTRAL:
            ck_assert(first < last);
            breaker_record(&b, taken[first++],
                           s->event == GIVE_OK       ? BREAKER_SUCCESS
                           : s->event == GIVE_FAILED ? BREAKER_FAILURE
                                                     : BREAKER_NEUTRAL,
                           "a", 1, s->at_ms);
            break;
        default:
            ck_assert_msg(!breaker_blocks(&b, s->at_ms), "step %zu: blocked", i);
            ck_assert_msg(breaker_allow(&b, s->at_ms, &permit), "step %zu: refused", i);
            if (s->event == TAKE)
                taken[last++] = permit;
            else
                breaker_record(&b, permit, calls[s->event].result, calls[s->event].message,
                               calls[s->event].duration_ms, s->at_ms);
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

START_TEST(unfit_opens_at_once)
{
    RUN({0, CALL_OK, BREAKER_CLOSED}, {1, CALL_UNFIT, BREAKER_OPEN}, {5000, REFUSED, BREAKER_OPEN},
        {5001, CALL_OK, BREAKER_HALF_OPEN}, {5002, CALL_OK, BREAKER_CLOSED});
}
END_TEST

START_TEST(unfit_opens_a_half_open_breaker_again)
{
    RUN({0, CALL_UNFIT, BREAKER_OPEN}, {5000, CALL_UNFIT, BREAKER_OPEN},
        {10000, CALL_OK, BREAKER_HALF_OPEN}, {10000, CALL_MAYBE_A, BREAKER_OPEN},
        {15000, CALL_OK, BREAKER_HALF_OPEN}, {15000, CALL_OK, BREAKER_CLOSED});
}
END_TEST

START_TEST(maybe_unfit_opens_after_three_messages_in_a_row)
{
    RUN({0, CALL_MAYBE_A, BREAKER_CLOSED}, {1, CALL_MAYBE_B, BREAKER_CLOSED},
        {2, CALL_MAYBE_C, BREAKER_OPEN});
}
END_TEST

/* A message that comes again, or to many recipients, is one message. */
START_TEST(maybe_unfit_counts_messages)
{
    RUN({0, CALL_MAYBE_A, BREAKER_CLOSED}, {1, CALL_MAYBE_A, BREAKER_CLOSED},
        {2, CALL_MAYBE_B, BREAKER_CLOSED}, {3, CALL_MAYBE_A, BREAKER_CLOSED},
        {4, CALL_MAYBE_B, BREAKER_CLOSED}, {5, CALL_MAYBE_C, BREAKER_OPEN});
}
END_TEST

/* A final no and a throttling are no acceptances; and it fills no window of failures. */
START_TEST(maybe_unfit_begins_anew_after_an_acceptance)
{
    RUN({0, CALL_MAYBE_A, BREAKER_CLOSED}, {1, CALL_MAYBE_B, BREAKER_CLOSED},
        {2, CALL_OK, BREAKER_CLOSED}, {3, CALL_MAYBE_C, BREAKER_CLOSED},
        {4, CALL_MAYBE_B, BREAKER_CLOSED}, {5, CALL_REFUSED, BREAKER_CLOSED},
        {6, CALL_NEUTRAL, BREAKER_CLOSED}, {7, CALL_OK, BREAKER_CLOSED},
        {8, CALL_MAYBE_A, BREAKER_CLOSED}, {9, CALL_MAYBE_B, BREAKER_CLOSED},
        {10, CALL_OK, BREAKER_CLOSED}, {11, CALL_MAYBE_A, BREAKER_CLOSED},
        {12, CALL_MAYBE_B, BREAKER_CLOSED}, {13, CALL_REFUSED, BREAKER_CLOSED},
        {14, CALL_MAYBE_C, BREAKER_OPEN});
}
END_TEST

START_TEST(opening_forgets_who_was_told)
{
    RUN({0, CALL_MAYBE_A, BREAKER_CLOSED}, {1, CALL_MAYBE_B, BREAKER_CLOSED},
        {2, CALL_UNFIT, BREAKER_OPEN}, {6000, CALL_OK, BREAKER_HALF_OPEN},
        {6001, CALL_OK, BREAKER_CLOSED}, {6002, CALL_MAYBE_C, BREAKER_CLOSED});
}
END_TEST

START_TEST(time_opens_half_without_a_call)
{
    RUN({0, LOOK, BREAKER_CLOSED}, {1, CALL_UNFIT, BREAKER_OPEN}, {5000, LOOK, BREAKER_OPEN},
        {5001, LOOK, BREAKER_HALF_OPEN}, {9000, LOOK, BREAKER_HALF_OPEN},
        {9001, CALL_OK, BREAKER_HALF_OPEN}, {9002, CALL_OK, BREAKER_CLOSED});
}
END_TEST

/* However the probes of a half-open breaker end, and in whatever order with its other events, a
 * healthy operator closes it: no place for probes is lost. */
static const struct {
    struct step steps[8];
    int64_t healthy_ms;
    unsigned succeeded; /* probes, by then */
} endings[] = {
    /* both hang, then fail */
    {.steps = {{5000, TAKE, BREAKER_HALF_OPEN},
               {5000, TAKE, BREAKER_HALF_OPEN},
               {7000, GIVE_FAILED, BREAKER_OPEN},
               {7000, GIVE_FAILED, BREAKER_OPEN}},
     .healthy_ms = 12000},
    /* one is cut, one hangs */
    {.steps = {{5000, TAKE, BREAKER_HALF_OPEN},
               {5000, TAKE, BREAKER_HALF_OPEN},
               {6000, GIVE_NEUTRAL, BREAKER_HALF_OPEN},
               {7000, GIVE_FAILED, BREAKER_OPEN}},
     .healthy_ms = 12000},
    /* both throttled, or cut */
    {.steps = {{5000, TAKE, BREAKER_HALF_OPEN},
               {5000, TAKE, BREAKER_HALF_OPEN},
               {5000, GIVE_NEUTRAL, BREAKER_HALF_OPEN},
               {5000, GIVE_NEUTRAL, BREAKER_HALF_OPEN}},
     .healthy_ms = 5001},
    /* one succeeds, one is cut */
    {.steps = {{5000, TAKE, BREAKER_HALF_OPEN},
               {5000, TAKE, BREAKER_HALF_OPEN},
               {5000, GIVE_OK, BREAKER_HALF_OPEN},
               {5000, GIVE_NEUTRAL, BREAKER_HALF_OPEN}},
     .healthy_ms = 5001,
     .succeeded = 1},
    /* refused connections, twice */
    {.steps = {{5000, CALL_FAILS, BREAKER_OPEN}, {10000, CALL_FAILS, BREAKER_OPEN}},
     .healthy_ms = 15000},
    /* unfit */
    {.steps = {{5000, CALL_UNFIT, BREAKER_OPEN}}, .healthy_ms = 10000},
    /* a probe that outlives the next half-open */
    {.steps = {{5000, TAKE, BREAKER_HALF_OPEN},
               {5000, TAKE, BREAKER_HALF_OPEN},
               {5001, GIVE_FAILED, BREAKER_OPEN},
               {10001, TAKE, BREAKER_HALF_OPEN},
               {10002, GIVE_NEUTRAL, BREAKER_HALF_OPEN},
               {10003, GIVE_NEUTRAL, BREAKER_HALF_OPEN}},
     .healthy_ms = 10004},
};

START_TEST(a_healthy_operator_closes_it_whatever_became_of_probes)
{
    struct step steps[16] = {{0, CALL_FAILS, BREAKER_CLOSED},
                             {0, CALL_FAILS, BREAKER_CLOSED},
                             {0, CALL_FAILS, BREAKER_OPEN}};
    size_t n = 3;

    for (const struct step *s = endings[_i].steps; s->at_ms; s++)
        steps[n++] = *s;
    for (unsigned i = endings[_i].succeeded; i < config.successes; i++)
        steps[n++] = (struct step){endings[_i].healthy_ms, CALL_OK,
                                   i + 1 < config.successes ? BREAKER_HALF_OPEN : BREAKER_CLOSED};
    run(steps, n);
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
    tcase_add_test(tc, unfit_opens_at_once);
    tcase_add_test(tc, unfit_opens_a_half_open_breaker_again);
    tcase_add_test(tc, maybe_unfit_opens_after_three_messages_in_a_row);
    tcase_add_test(tc, maybe_unfit_counts_messages);
    tcase_add_test(tc, maybe_unfit_begins_anew_after_an_acceptance);
    tcase_add_test(tc, opening_forgets_who_was_told);
    tcase_add_test(tc, time_opens_half_without_a_call);
    tcase_add_loop_test(tc, a_healthy_operator_closes_it_whatever_became_of_probes, 0,
                        (int)(sizeof(endings) / sizeof(endings[0])));
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
