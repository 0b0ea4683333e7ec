#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/delivery.h"
#include "test/unit/suite.h"

/*
 * Scenarios as text: what happens, and what the delivery wants next, alternately.
 *
 *   wants     P0 POST to operator 0; G1 GET at operator 1; W2 backoff number 2; D0 done at 0;
 *             F failed; L later
 *   happens   ok transient rest no unknown (POST); found missing away (GET); blocked; timer; stop
 *
 * "@n" in front of an event: the clock stands at n from here on. The retry window ends at 1000.
 */

struct scenario {
    const char *name;
    const char *script;
    unsigned operators;
    uint32_t unknown; /* noted on the row */
    bool takeover, hold;
    uint32_t unknown_after;
};

#define A 1u
#define B 2u

static const struct scenario scenarios[] = {
    {"accepted at once", "P0 ok D0", 2, 0, false, false, 0},
    {"transient failures, then accepted", "P0 transient W1 timer P0 transient W2 timer P0 ok D0", 2,
     0, false, false, 0},
    {"tries spent at one operator: the next",
     "P0 transient W1 timer P0 transient W2 timer P0 transient P1 ok D1", 2, 0, false, false, 0},
    {"breaker open: the next", "P0 blocked P1 ok D1", 2, 0, false, false, 0},
    {"breaker opens during the backoff", "P0 transient W1 timer P0 blocked P1 ok D1", 2, 0, false,
     false, 0},
    {"429: the operator rests, the next one is used", "P0 rest P1 ok D1", 2, 0, false, false, 0},
    {"both breakers open: later", "P0 blocked P1 blocked L", 2, 0, false, false, 0},
    {"final no: the next", "P0 no P1 ok D1", 2, 0, false, false, 0},
    {"final no from all: failed now", "P0 no P1 no F", 2, 0, false, false, 0},
    {"one no, one transient: not final",
     "P0 no P1 transient W1 timer P1 transient W2 timer P1 transient L", 2, 0, false, false, 0},
    {"one no, one breaker open: not final", "P0 no P1 blocked L", 2, 0, false, false, 0},
    {"no retry window left: failed", "@1000 P0 no P1 blocked F", 2, 0, false, false, 0},

    {"unknown: asked first, found", "P0 unknown G0 found D0", 2, 0, false, false, 0},
    {"unknown, then not found: the same operator again", "P0 unknown G0 missing P0 ok D0", 2, 0,
     false, false, 0},
    {"unknown each time, never found: the next; the last may still get there",
     "P0 unknown G0 missing P0 unknown G0 missing P0 unknown G0 missing P1 ok D1", 2, 0, false,
     false, A},
    {"unknown, not found, breaker open: the next; it may still get there",
     "P0 unknown G0 missing P0 blocked P1 ok D1", 2, 0, false, false, A},
    {"a found answer after repeats",
     "P0 transient W1 timer P0 unknown G0 away W1 timer G0 found D0", 2, 0, false, false, 0},
    {"still unknown: remembered, then failover", "P0 unknown G0 away W1 timer G0 away P1 ok D1", 2,
     0, false, false, A},
    {"still unknown and no other operator: later",
     "P0 unknown G0 away W1 timer G0 away P1 blocked L", 2, 0, false, false, A},
    {"an unknown outcome is no final no", "P0 unknown G0 away W1 timer G0 away P1 no L", 2, 0,
     false, false, A},
    {"a final no settles an unknown outcome", "G0 away W1 timer G0 away P0 no P1 no F", 2, A, false,
     false, 0},
    {"policy hold: no other operator", "P0 unknown G0 away W1 timer G0 away L", 2, 0, false, true,
     A},
    {"policy hold, next round: asked, then the same one only",
     "G0 away W1 timer G0 away P0 transient W1 timer P0 transient W2 timer P0 transient L", 2, A,
     false, true, A},
    {"policy hold, next round: known not to have it: all may be used",
     "G0 missing P0 blocked P1 ok D1", 2, A, false, true, A},

    {"next round: the unknown one is asked first, found", "G0 found D0", 2, A, false, false, 0},
    {"next round: not found there: POST there first", "G1 missing P1 ok D1", 2, B, false, false, 0},
    {"next round: not found, breaker open: the others in order", "G1 missing P1 blocked P0 ok D0",
     2, B, false, false, B},
    {"next round: unreachable: in order, remembered", "G1 away W1 timer G1 away P0 ok D0", 2, B,
     false, false, B},

    {"takeover: all are asked, first has it", "G0 found D0", 2, 0, true, false, B},
    {"takeover: all are asked, second has it", "G0 missing G1 found D1", 2, 0, true, false, 0},
    {"takeover: nobody has it: in order", "G0 missing G1 missing P0 ok D0", 2, 0, true, false, 0},
    {"takeover: one is away: remembered", "G0 away W1 timer G0 away G1 missing P0 blocked P1 ok D1",
     2, 0, true, false, A},
    {"takeover, policy hold: nothing is sent elsewhere",
     "G0 away W1 timer G0 away G1 missing P0 blocked L", 2, 0, true, true, A},

    {"window over: a last question, found",
     "@1000 P0 unknown G0 away W1 timer G0 away P1 blocked G0 found D0", 2, 0, false, false, 0},
    {"window over: a last question, not there: failed",
     "@1000 P0 unknown G0 away W1 timer G0 away P1 blocked G0 missing F", 2, 0, false, false, A},
    {"window over: nobody knows: failed, remembered",
     "@1000 P0 unknown G0 away W1 timer G0 away P1 blocked G0 away W1 timer G0 away F", 2, 0, false,
     false, A},
    {"window over: both are asked a last time",
     "@1000 G0 away W1 timer G0 away G1 away W1 timer G1 away P0 blocked P1 blocked "
     "G0 away W1 timer G0 away G1 found D1",
     2, A | B, false, false, A},
    {"one operator only", "P0 transient W1 timer P0 transient W2 timer P0 transient L", 1, 0, false,
     false, 0},
    {"one operator's final no", "P0 no F", 1, 0, false, false, 0},

    {"stopping: the call in flight may still succeed", "P0 stop ok D0", 2, 0, false, false, 0},
    {"stopping: no further try", "P0 stop transient L", 2, 0, false, false, 0},
    {"stopping: no failover", "P0 transient W1 timer P0 transient W2 timer P0 stop transient L", 2,
     0, false, false, 0},
    {"stopping: unknown is left to the next consumer", "P0 stop unknown L", 2, 0, false, false, A},
    {"stopping: a final no from all is still final", "P0 no P1 stop no F", 2, 0, false, false, 0},
    {"stopping: an answered question counts", "P0 unknown G0 stop found D0", 2, 0, false, false, 0},
};

static void wanted(const struct scenario *s, const char *word, struct delivery_action action)
{
    static const char letters[] = {
        [DELIVERY_POST] = 'P', [DELIVERY_LOOKUP] = 'G', [DELIVERY_WAIT] = 'W',
        [DELIVERY_DONE] = 'D', [DELIVERY_FAILED] = 'F', [DELIVERY_LATER] = 'L'};
    unsigned number = action.step == DELIVERY_WAIT ? action.attempt : action.op;
    char got[8];

    if (action.step == DELIVERY_FAILED || action.step == DELIVERY_LATER)
        snprintf(got, sizeof(got), "%c", letters[action.step]);
    else
        snprintf(got, sizeof(got), "%c%u", letters[action.step], number % 100);
    ck_assert_msg(!strcmp(got, word), "%s: wants %s, expected %s", s->name, got, word);
}

static struct delivery_action happens(struct delivery *d, const char *word, int64_t now_ms)
{
    static const char *const posts[] = {[POST_ACCEPTED] = "ok",
                                        [POST_TRANSIENT] = "transient",
                                        [POST_RESTING] = "rest",
                                        [POST_REJECTED] = "no",
                                        [POST_UNKNOWN] = "unknown"};
    static const char *const lookups[] = {
        [LOOKUP_FOUND] = "found", [LOOKUP_NOT_FOUND] = "missing", [LOOKUP_UNREACHABLE] = "away"};

    for (unsigned i = 0; i < sizeof(posts) / sizeof(posts[0]); i++)
        if (!strcmp(word, posts[i]))
            return delivery_on_post(d, (enum delivery_post)i, now_ms);
    for (unsigned i = 0; i < sizeof(lookups) / sizeof(lookups[0]); i++)
        if (!strcmp(word, lookups[i]))
            return delivery_on_lookup(d, (enum delivery_lookup)i, now_ms);
    if (!strcmp(word, "blocked"))
        return delivery_on_blocked(d, now_ms);
    ck_assert_str_eq(word, "timer");
    return delivery_on_timer(d);
}

START_TEST(scenario)
{
    const struct scenario *s = &scenarios[_i];
    const struct delivery_policy policy = {
        .operators = s->operators, .tries = 3, .lookup_tries = 2, .hold_unknown = s->hold};
    struct delivery d;
    struct delivery_action action = {0};
    int64_t now_ms = 0;
    bool begun = false;
    bool expects_want = true;
    char script[400];
    char *save = NULL;

    ck_assert_int_lt(snprintf(script, sizeof(script), "%s", s->script), (int)sizeof(script));
    for (char *word = strtok_r(script, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        if (*word == '@') {
            now_ms = atoll(word + 1);
            continue;
        }
        if (!begun)
            action = delivery_start(&d, &policy, s->unknown, s->takeover, 1000, now_ms);
        begun = true;
        if (!strcmp(word, "stop")) {
            delivery_stop(&d);
            continue;
        }
        if (expects_want)
            wanted(s, word, action);
        else
            action = happens(&d, word, now_ms);
        expects_want = !expects_want;
    }
    ck_assert_msg(action.step >= DELIVERY_DONE, "%s: not over", s->name);
    ck_assert_msg(delivery_noted(&d) == s->unknown_after, "%s: noted %x", s->name,
                  delivery_noted(&d));
}
END_TEST

/* Repeatable: the scenario's number is the seed. */
static uint32_t dice(uint32_t *state, uint32_t sides)
{
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 16) % sides;
}

/* Whatever happens in whatever order, a round ends, and within a bound of calls. */
START_TEST(every_round_ends)
{
    const struct delivery_policy policy = {
        .operators = 4, .tries = 3, .lookup_tries = 2, .hold_unknown = _i % 2};
    struct delivery d;
    struct delivery_action action;
    uint32_t seed = (uint32_t)_i;
    int calls = 0;

    action =
        delivery_start(&d, &policy, dice(&seed, 16), dice(&seed, 4) == 0, 1000, dice(&seed, 2000));
    while (action.step < DELIVERY_DONE) {
        int64_t now_ms = dice(&seed, 2000);

        ck_assert_int_lt(calls++, 120);
        if (dice(&seed, 100) == 0)
            delivery_stop(&d);
        switch (action.step) {
        case DELIVERY_POST:
            action = dice(&seed, 6) == 0
                         ? delivery_on_blocked(&d, now_ms)
                         : delivery_on_post(&d, (enum delivery_post)(1 + dice(&seed, 4)), now_ms);
            break;
        case DELIVERY_LOOKUP:
            action = delivery_on_lookup(&d, (enum delivery_lookup)(1 + dice(&seed, 2)), now_ms);
            break;
        default:
            action = delivery_on_timer(&d);
        }
        ck_assert_uint_lt(action.op, 4);
    }
    /* Failed with everything refused, or because the window was over; never done by itself. */
    ck_assert(action.step == DELIVERY_FAILED || action.step == DELIVERY_LATER);
    if (action.step == DELIVERY_FAILED && d.unknown == 0 && d.rejected == 15)
        ck_assert_uint_eq(d.spent, 15);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("delivery");
    TCase *tc = tcase_create("delivery");

    tcase_add_loop_test(tc, scenario, 0, (int)(sizeof(scenarios) / sizeof(scenarios[0])));
    tcase_add_loop_test(tc, every_round_ends, 0, 500);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
