#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/delivery.h"
#include "test/unit/suite.h"

/*
 * Scenarios as text: what happens, and what the delivery wants next, alternately.
 *
 *   wants     S0 submit to operator 0; Q1 question to operator 1; W2 backoff number 2; D0 done at
 * 0; F failed; L later; H held; I wait for a lookup to settle happens   a verdict's name after a
 * submission, an answer's after a question; blocked; timer; stop
 *
 * "@n" in front of an event: the clock stands at n from here on. The retry window ends at 1000.
 */

struct scenario {
    const char *name;
    const char *script;
    unsigned operators; /* 0: two */
    uint32_t unknown;   /* noted on the row */
    bool any, hold, gone;
    int64_t settles; /* lookups do, that long after a submission */
    uint32_t unknown_after;
    uint32_t mute;   /* operators that cannot be asked */
    uint32_t unsafe; /* operators where a repeat may deliver twice */
    enum delivery_failure failure;
};

#define A 1u
#define B 2u

static const struct scenario scenarios[] = {
    {"accepted at once", .script = "S0 accepted D0"},
    {"transient failures, then accepted",
     .script = "S0 transient W1 timer S0 transient W2 timer S0 accepted D0"},
    {"tries spent at one operator: the next",
     .script = "S0 transient W1 timer S0 transient W2 timer S0 transient S1 accepted D1"},
    {"breaker open: the next", .script = "S0 blocked S1 accepted D1"},
    {"breaker opens during the backoff",
     .script = "S0 transient W1 timer S0 blocked S1 accepted D1"},
    {"throttled: the operator rests, the next one is used",
     .script = "S0 throttled S1 accepted D1"},
    {"both breakers open: later", .script = "S0 blocked S1 blocked L"},
    {"final no: the next", .script = "S0 rejected S1 accepted D1"},
    {"final no from all: failed now", .script = "S0 rejected S1 rejected F",
     .failure = DELIVERY_REJECTED},
    {"one no, one transient: not final",
     .script = "S0 rejected S1 transient W1 timer S1 transient W2 timer S1 transient L"},
    {"one no, one breaker open: not final", .script = "S0 rejected S1 blocked L"},
    {"no retry window left: failed", .script = "@1000 S0 rejected S1 blocked F"},

    {"unknown: asked first, found", .script = "S0 unknown Q0 found D0"},
    {"unknown, then not found: the same operator again",
     .script = "S0 unknown Q0 not_found S0 accepted D0"},
    {"unknown each time, never found: the next; the last may still get there",
     .script =
         "S0 unknown Q0 not_found S0 unknown Q0 not_found S0 unknown Q0 not_found S1 accepted D1",
     .unknown_after = A},
    {"unknown, not found, breaker open: the next; it may still get there",
     .script = "S0 unknown Q0 not_found S0 blocked S1 accepted D1", .unknown_after = A},
    {"a found answer after repeats",
     .script = "S0 transient W1 timer S0 unknown Q0 unreachable W1 timer Q0 found D0"},
    {"still unknown: remembered, then failover",
     .script = "S0 unknown Q0 unreachable W1 timer Q0 unreachable S1 accepted D1",
     .unknown_after = A},
    {"still unknown and no other operator: later",
     .script = "S0 unknown Q0 unreachable W1 timer Q0 unreachable S1 blocked L",
     .unknown_after = A},
    {"an unknown outcome is no final no",
     .script = "S0 unknown Q0 unreachable W1 timer Q0 unreachable S1 rejected L",
     .unknown_after = A},
    {"a final no settles an unknown outcome",
     .script = "Q0 unreachable W1 timer Q0 unreachable S0 rejected S1 rejected F", .unknown = A,
     .failure = DELIVERY_REJECTED},
    {"policy hold: no other operator",
     .script = "S0 unknown Q0 unreachable W1 timer Q0 unreachable L", .hold = true,
     .unknown_after = A},
    {"policy hold, next round: asked, then the same one only",
     .script =
         "Q0 unreachable W1 timer Q0 unreachable S0 transient W1 timer S0 transient W2 timer S0 "
         "transient L",
     .unknown = A, .hold = true, .unknown_after = A},
    {"policy hold, next round: known not to have it: all may be used",
     .script = "Q0 not_found S0 blocked S1 accepted D1", .unknown = A, .hold = true,
     .unknown_after = A},

    {"next round: the unknown one is asked first, found", .script = "Q0 found D0", .unknown = A},
    {"next round: not found there: submitted there first", .script = "Q1 not_found S1 accepted D1",
     .unknown = B},
    {"next round: not found, breaker open: the others in order",
     .script = "Q1 not_found S1 blocked S0 accepted D0", .unknown = B, .unknown_after = B},
    {"next round: unreachable: in order, remembered",
     .script = "Q1 unreachable W1 timer Q1 unreachable S0 accepted D0", .unknown = B,
     .unknown_after = B},

    {"takeover: all are asked, first has it", .script = "Q0 found D0", .any = true,
     .unknown_after = B},
    {"takeover: all are asked, second has it", .script = "Q0 not_found Q1 found D1", .any = true},
    {"takeover: nobody has it: in order", .script = "Q0 not_found Q1 not_found S0 accepted D0",
     .any = true},
    {"takeover: one is away: remembered",
     .script = "Q0 unreachable W1 timer Q0 unreachable Q1 not_found S0 blocked S1 accepted D1",
     .any = true, .unknown_after = A},
    {"takeover, policy hold: nothing is sent elsewhere",
     .script = "Q0 unreachable W1 timer Q0 unreachable Q1 not_found S0 blocked L", .any = true,
     .hold = true, .unknown_after = A},

    {"window over: a last question, found",
     .script = "@1000 S0 unknown Q0 unreachable W1 timer Q0 unreachable S1 blocked Q0 found D0"},
    {"window over: a last question, not there: failed",
     .script = "@1000 S0 unknown Q0 unreachable W1 timer Q0 unreachable S1 blocked Q0 not_found F",
     .unknown_after = A},
    {"window over: nobody knows: failed, remembered",
     .script = "@1000 S0 unknown Q0 unreachable W1 timer Q0 unreachable S1 blocked Q0 unreachable "
               "W1 timer "
               "Q0 unreachable F",
     .unknown_after = A},
    {"window over: both are asked a last time",
     .script =
         "@1000 Q0 unreachable W1 timer Q0 unreachable Q1 unreachable W1 timer Q1 unreachable S0 "
         "blocked S1 blocked "
         "Q0 unreachable W1 timer Q0 unreachable Q1 found D1",
     .unknown = A | B, .unknown_after = A},
    {"one operator only", .script = "S0 transient W1 timer S0 transient W2 timer S0 transient L",
     .operators = 1},
    {"one operator's final no", .script = "S0 rejected F", .operators = 1,
     .failure = DELIVERY_REJECTED},

    {"stopping: the call in flight may still succeed", .script = "S0 stop accepted D0"},
    {"stopping: no further try", .script = "S0 stop transient L"},
    {"stopping: no failover",
     .script = "S0 transient W1 timer S0 transient W2 timer S0 stop transient L"},
    {"stopping: unknown is left to the next consumer", .script = "S0 stop unknown L",
     .unknown_after = A},
    {"stopping: a final no from all is still final", .script = "S0 rejected S1 stop rejected F",
     .failure = DELIVERY_REJECTED},
    {"stopping: an answered question counts", .script = "S0 unknown Q0 stop found D0"},

    {"unfit: the next at once", .script = "S0 unfit S1 accepted D1"},
    {"unfit everywhere: waits for its window", .script = "S0 unfit S1 unfit L"},
    {"unfit is no final no", .script = "S0 unfit S1 rejected L"},
    {"unfit, window over: expired", .script = "@1000 S0 unfit S1 rejected F"},
    {"unfit after a transient failure: no further try here",
     .script = "S0 transient W1 timer S0 unfit S1 accepted D1"},
    {"unfit says nothing of an earlier unknown outcome",
     .script = "Q0 unreachable W1 timer Q0 unreachable S0 unfit S1 accepted D1", .unknown = A,
     .unknown_after = A},
    {"unfit, policy hold: still held",
     .script = "Q0 unreachable W1 timer Q0 unreachable S0 unfit L", .unknown = A, .hold = true,
     .unknown_after = A},
    {"takeover, the one in doubt is unfit: the next",
     .script = "Q0 not_found Q1 not_found S0 unfit S1 accepted D1", .any = true},
    {"stopping: unfit is later", .script = "S0 stop unfit L"},

    {"opted out: failed at once", .script = "S0 opted_out F", .failure = DELIVERY_OPTED_OUT},
    {"opted out at the second", .script = "S0 unfit S1 opted_out F", .failure = DELIVERY_OPTED_OUT},
    {"opted out after all others said no", .script = "S0 rejected S1 opted_out F",
     .failure = DELIVERY_OPTED_OUT},
    {"opted out, the window over: no last question",
     .script = "@1000 S0 unknown Q0 unreachable W1 timer Q0 unreachable S1 opted_out F",
     .unknown_after = A, .failure = DELIVERY_OPTED_OUT},
    {"opted out settles an unknown outcome there",
     .script = "Q0 unreachable W1 timer Q0 unreachable S0 opted_out F", .unknown = A, .hold = true,
     .failure = DELIVERY_OPTED_OUT},
    {"takeover: opted out", .script = "Q0 not_found Q1 not_found S0 opted_out F", .any = true,
     .failure = DELIVERY_OPTED_OUT},
    {"stopping: opted out is final", .script = "S0 stop opted_out F",
     .failure = DELIVERY_OPTED_OUT},

    {"cannot be asked: unknown stays, failover", .script = "S0 unknown S1 accepted D1", .mute = A,
     .unknown_after = A},
    {"cannot be asked: unknown stays, hold", .script = "S0 unknown L", .mute = A, .hold = true,
     .unknown_after = A},
    {"cannot be asked, next round: not asked; a repeat is safe", .script = "S0 accepted D0",
     .unknown = A, .mute = A, .hold = true},
    {"cannot be asked, next round: only the other one is",
     .script = "Q1 not_found S1 blocked S0 accepted D0", .unknown = A | B, .mute = A,
     .unknown_after = B},
    {"cannot be asked: takeover asks the others", .script = "Q1 found D1", .any = true, .mute = A,
     .unknown_after = A},
    {"none can be asked: takeover begins to submit", .script = "S0 accepted D0", .any = true,
     .mute = A | B, .unknown_after = B},
    {"none can be asked, takeover, hold: nobody gets it", .script = "L", .any = true, .hold = true,
     .mute = A | B, .unknown_after = A | B},
    {"cannot be asked, window over: no last question", .script = "@1000 S0 unknown S1 blocked F",
     .mute = A, .unknown_after = A},
    {"cannot be asked, window over: the others are",
     .script = "@1000 S0 unknown S1 unknown Q1 unreachable W1 timer Q1 unreachable Q1 found D1",
     .mute = A, .unknown_after = A},
    {"cannot be asked: a final no from the others is not final",
     .script = "S0 unknown S1 rejected L", .mute = A, .unknown_after = A},
    {"cannot be asked: stopping", .script = "S0 stop unknown L", .mute = A, .unknown_after = A},

    {"a repeat is not safe: not after an unknown outcome, though not found",
     .script = "S0 unknown Q0 not_found S1 accepted D1", .unsafe = A, .unknown_after = A},
    {"a repeat is not safe: found is found", .script = "S0 unknown Q0 found D0", .unsafe = A},
    {"a repeat is not safe: after a transient failure it is",
     .script = "S0 transient W1 timer S0 accepted D0", .unsafe = A},
    {"a repeat is not safe: nor in a later round", .script = "Q0 not_found S1 blocked L",
     .unknown = A, .unsafe = A, .unknown_after = A},
    {"a repeat is not safe: nor in a later round that hears nothing",
     .script = "Q0 unreachable W1 timer Q0 unreachable S1 accepted D1", .unknown = A, .unsafe = A,
     .unknown_after = A},
    {"a repeat is not safe, hold: held", .script = "Q0 unreachable W1 timer Q0 unreachable L",
     .unknown = A, .hold = true, .unsafe = A, .unknown_after = A},
    {"a repeat is not safe, hold: known not to have it, the others",
     .script = "Q0 not_found S1 accepted D1", .unknown = A, .hold = true, .unsafe = A,
     .unknown_after = A},
    {"a repeat is not safe: a takeover is an unknown outcome",
     .script = "Q0 not_found Q1 not_found S1 accepted D1", .any = true, .unsafe = A,
     .unknown_after = A},
    {"a repeat is safe nowhere: a takeover waits to be found",
     .script = "Q0 not_found Q1 not_found L", .any = true, .unsafe = A | B, .unknown_after = A | B},
    {"a repeat is not safe, window over: failed", .script = "@1000 Q0 not_found S1 blocked F",
     .unknown = A, .unsafe = A, .unknown_after = A},

    {"neither asked nor repeated: failover", .script = "S0 unknown S1 accepted D1", .mute = A,
     .unsafe = A, .unknown_after = A},
    {"neither asked nor repeated: hold, later rounds", .script = "L", .unknown = A, .hold = true,
     .mute = A, .unsafe = A, .unknown_after = A},
    {"neither asked nor repeated: hold, window over", .script = "@1000 H", .unknown = A,
     .hold = true, .mute = A, .unsafe = A, .unknown_after = A},
    {"neither asked nor repeated: takeover, failover", .script = "Q1 not_found S1 accepted D1",
     .any = true, .mute = A, .unsafe = A, .unknown_after = A},
    {"neither asked nor repeated: takeover, hold", .script = "Q1 not_found L", .any = true,
     .hold = true, .mute = A, .unsafe = A, .unknown_after = A},
    {"neither asked nor repeated: the only operator", .script = "S0 unknown L", .operators = 1,
     .mute = A, .unsafe = A, .unknown_after = A},

    {"held: asked and nothing else, found", .script = "@1000 Q0 found D0", .unknown = A,
     .hold = true},
    {"held: not found: failed", .script = "@1000 Q0 not_found F", .unknown = A, .hold = true,
     .unknown_after = A},
    {"held: unreachable: held on", .script = "@1000 Q0 unreachable W1 timer Q0 unreachable H",
     .unknown = A, .hold = true, .unknown_after = A},
    {"held: one of two has not answered: held on",
     .script = "@1000 Q0 not_found Q1 unreachable W1 timer Q1 unreachable H", .unknown = A | B,
     .hold = true, .unknown_after = A | B},
    {"held: the second has it",
     .script = "@1000 Q0 unreachable W1 timer Q0 unreachable Q1 found D1", .unknown = A | B,
     .hold = true, .unknown_after = A},
    {"held: one of two cannot be asked", .script = "@1000 Q1 not_found H", .unknown = A | B,
     .hold = true, .mute = A, .unknown_after = A | B},
    {"held, taken over: asked and nothing else", .script = "@1000 Q0 not_found Q1 not_found F",
     .unknown = A, .any = true, .hold = true, .unknown_after = A},
    {"hold: the window ends in the round: held",
     .script = "S0 unknown @1000 Q0 unreachable W1 timer Q0 unreachable H", .hold = true,
     .unknown_after = A},
    {"hold, no window: held after the first try",
     .script = "@1000 S0 unknown Q0 unreachable W1 timer Q0 unreachable H", .hold = true,
     .unknown_after = A},
    {"hold, no window, nothing in doubt: failed",
     .script = "@1000 S0 transient W1 timer S0 transient "
               "W2 timer S0 transient S1 unfit F",
     .hold = true},
    {"hold: two may have it: neither gets it again",
     .script = "Q0 unreachable W1 timer Q0 unreachable Q1 unreachable W1 timer Q1 unreachable L",
     .unknown = A | B, .hold = true, .unknown_after = A | B},
    {"held: stopping", .script = "@1000 Q0 stop unreachable L", .unknown = A, .hold = true,
     .unknown_after = A},

    {"gone: the others, in order", .script = "S0 accepted D0", .gone = true},
    {"gone: a final no from the others is not final", .script = "S0 rejected S1 rejected L",
     .gone = true},
    {"gone, window over: failed", .script = "@1000 S0 rejected S1 rejected F", .gone = true,
     .failure = DELIVERY_REJECTED},
    {"gone, hold: nothing is sent elsewhere", .script = "L", .gone = true, .hold = true},
    {"gone, hold, another unknown: it is asked, nothing is sent", .script = "Q0 not_found L",
     .unknown = A, .gone = true, .hold = true, .unknown_after = A},
    {"gone, hold, window over: held", .script = "@1000 H", .gone = true, .hold = true},
    {"gone, hold, window over, another unknown: found", .script = "@1000 Q0 found D0", .unknown = A,
     .gone = true, .hold = true},

    {"marked: all are asked, nobody has it: it goes on, the window over or not",
     .script = "@1000 Q0 not_found Q1 not_found S0 accepted D0", .any = true},
    {"marked, hold: all are asked, nobody has it: it goes on, the window over or not",
     .script = "@1000 Q0 not_found Q1 not_found S0 accepted D0", .any = true, .hold = true},
    {"marked, hold, window over: one is away: held",
     .script = "@1000 Q0 unreachable W1 timer Q0 unreachable Q1 not_found H", .any = true,
     .hold = true, .unknown_after = A},
    {"marked: what is left unknown takes the mark's place",
     .script = "Q0 unreachable W1 timer Q0 unreachable Q1 not_found S0 blocked S1 blocked L",
     .any = true, .unknown_after = A},
    {"marked, a repeat is not safe: not even when not found",
     .script = "Q0 not_found Q1 not_found S1 accepted D1", .any = true, .unsafe = A,
     .unknown_after = A},

    {"a lookup that settles late: asked at once, waited for, asked again",
     .script = "S0 @50 unknown Q0 @60 not_found I490 timer Q0 @560 found D0", .settles = 500},
    {"a lookup that has settled: not found is not found",
     .script = "S0 @50 unknown Q0 @60 not_found I490 timer Q0 @550 not_found S0 accepted D0",
     .settles = 500},
    {"each submission counts anew",
     .script = "S0 unknown Q0 @500 not_found S0 @600 unknown Q0 not_found I500 timer Q0 @1100 "
               "found D0",
     .settles = 500},
    {"a long wait is spent in the outbox, not at another operator",
     .script = "S0 unknown Q0 not_found L", .settles = 3001, .unknown_after = A},
    {"a long wait after the window: there is no later",
     .script = "S0 unknown Q0 @1000 not_found I9000 timer Q0 @10000 not_found S0 rejected S1 "
               "rejected F",
     .settles = 10000, .failure = DELIVERY_REJECTED},
    {"next round, still too early",
     .script = "@100 Q0 not_found I400 timer Q0 @500 not_found S0 "
               "accepted D0",
     .unknown = A, .settles = 500},
    {"next round, late enough", .script = "@500 Q0 not_found S0 accepted D0", .unknown = A,
     .settles = 500},
    {"settling, unreachable is unreachable",
     .script = "S0 unknown Q0 unreachable W1 timer Q0 unreachable S1 accepted D1", .settles = 500,
     .unknown_after = A},
    {"settling: a stop ends the wait", .script = "S0 unknown Q0 stop not_found L", .settles = 500,
     .unknown_after = A},
    {"held, settling: waited for", .script = "@1000 Q0 not_found I200 timer Q0 @1200 not_found F",
     .unknown = A, .hold = true, .settles = 1200, .unknown_after = A},
};

static void wanted(const struct scenario *s, const char *word, struct delivery_action action)
{
    static const char letters[] = {
        [DELIVERY_SUBMIT] = 'S', [DELIVERY_LOOKUP] = 'Q', [DELIVERY_WAIT] = 'W',
        [DELIVERY_DONE] = 'D',   [DELIVERY_FAILED] = 'F', [DELIVERY_LATER] = 'L',
        [DELIVERY_HELD] = 'H'};
    unsigned number = action.step == DELIVERY_WAIT ? action.attempt : action.op;
    char got[16];

    if (action.step > DELIVERY_DONE)
        snprintf(got, sizeof(got), "%c", letters[action.step]);
    else if (action.step == DELIVERY_WAIT && action.wait_ms)
        snprintf(got, sizeof(got), "I%d", (int)action.wait_ms);
    else
        snprintf(got, sizeof(got), "%c%u", letters[action.step], number % 100);
    ck_assert_msg(!strcmp(got, word), "%s: wants %s, expected %s", s->name, got, word);
}

static struct delivery_action happens(struct delivery *d, const char *word, int64_t now_ms)
{
    for (int i = 0; i < VERDICTS; i++)
        if (!strcmp(word, verdict_name((enum verdict)i)))
            return delivery_on_submit(d, (enum verdict)i, now_ms);
    for (int i = 0; i < LOOKUP_ANSWERS; i++)
        if (!strcmp(word, lookup_answer_name((enum lookup_answer)i)))
            return delivery_on_lookup(d, (enum lookup_answer)i, now_ms);
    if (!strcmp(word, "blocked"))
        return delivery_on_blocked(d, now_ms);
    ck_assert_str_eq(word, "timer");
    return delivery_on_timer(d);
}

START_TEST(scenario)
{
    const struct scenario *s = &scenarios[_i];
    const struct delivery_policy policy = {
        .operators = s->operators ? s->operators : 2,
        .can_lookup = ~s->mute,
        .repeat_is_safe = ~s->unsafe,
        .tries = {3, 3, 3, 3},
        .lookup_tries = 2,
        .lookup_settles_ms = {s->settles, s->settles, s->settles},
        .hold_unknown = s->hold};
    const struct delivery_row row = {
        .unknown = s->unknown, .gone = s->gone, .any = s->any, .give_up_at_ms = 1000};
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
            action = delivery_start(&d, &policy, &row, now_ms);
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
    if (action.step == DELIVERY_FAILED)
        ck_assert_msg(delivery_failure(&d) == s->failure, "%s: failed, %s", s->name,
                      delivery_failure_name(delivery_failure(&d)));
}
END_TEST

/* Repeatable: the scenario's number is the seed. */
static uint32_t dice(uint32_t *state, uint32_t sides)
{
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 16) % sides;
}

/* Anything but an acceptance; in_doubt: where the outcome has been unknown. */
static struct delivery_action happens_at_submit(struct delivery *d, uint32_t *seed, int64_t now_ms,
                                                uint32_t *in_doubt)
{
    static const enum verdict verdicts[] = {VERDICT_REJECTED,  VERDICT_THROTTLED, VERDICT_UNFIT,
                                            VERDICT_TRANSIENT, VERDICT_TRANSIENT, VERDICT_UNKNOWN,
                                            VERDICT_UNKNOWN};
    enum verdict verdict = verdicts[dice(seed, sizeof(verdicts) / sizeof(verdicts[0]))];

    if (dice(seed, 6) == 0)
        return delivery_on_blocked(d, now_ms);
    if (verdict == VERDICT_UNKNOWN)
        *in_doubt |= UINT32_C(1) << d->op;
    if (dice(seed, 50) == 0)
        verdict = VERDICT_OPTED_OUT;
    return delivery_on_submit(d, verdict, now_ms);
}

/* Whatever happens in whatever order, a round ends, within a bound of calls, and nobody is
 * asked or submitted to who must not be. */
START_TEST(every_round_ends)
{
    const struct delivery_policy policy = {.operators = 4,
                                           .can_lookup = (uint32_t)_i / 2,
                                           .repeat_is_safe = (uint32_t)_i / 32,
                                           .tries = {3, 3, 3, 3},
                                           .lookup_tries = 2,
                                           .hold_unknown = _i % 2};
    struct delivery d;
    struct delivery_action action;
    uint32_t seed = (uint32_t)_i;
    const struct delivery_row row = {.unknown = dice(&seed, 16),
                                     .any = dice(&seed, 4) == 0,
                                     .gone = dice(&seed, 4) == 0,
                                     .give_up_at_ms = 1000};
    uint32_t in_doubt = row.any ? 15 : row.unknown;
    int calls = 0;

    action = delivery_start(&d, &policy, &row, dice(&seed, 2000));
    while (action.step < DELIVERY_DONE) {
        int64_t now_ms = dice(&seed, 2000);

        ck_assert_int_lt(calls++, 120);
        if (dice(&seed, 100) == 0)
            delivery_stop(&d);
        switch (action.step) {
        case DELIVERY_SUBMIT:
            ck_assert(!(in_doubt & ~policy.repeat_is_safe & UINT32_C(1) << action.op));
            action = happens_at_submit(&d, &seed, now_ms, &in_doubt);
            break;
        case DELIVERY_LOOKUP:
            ck_assert(policy.can_lookup & UINT32_C(1) << action.op);
            action = delivery_on_lookup(&d, (enum lookup_answer)(1 + dice(&seed, 2)), now_ms);
            break;
        default:
            action = delivery_on_timer(&d);
        }
        ck_assert_uint_lt(action.op, 4);
    }
    /* Failed with everything refused, or because the window was over; never done by itself. */
    ck_assert(action.step != DELIVERY_DONE);
    ck_assert(action.step != DELIVERY_HELD || policy.hold_unknown);
    if (action.step == DELIVERY_FAILED && policy.hold_unknown)
        ck_assert(!d.unknown && !d.gone);
    if (action.step == DELIVERY_FAILED && d.unknown == 0 && !d.gone && d.rejected == 15)
        ck_assert_uint_eq(d.spent, 15);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("delivery");
    TCase *tc = tcase_create("delivery");

    tcase_add_loop_test(tc, scenario, 0, (int)(sizeof(scenarios) / sizeof(scenarios[0])));
    tcase_add_loop_test(tc, every_round_ends, 0, 512);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
