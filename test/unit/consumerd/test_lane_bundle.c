#include <check.h>
#include <poll.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/domain/bundle.h"
#include "test/unit/consumerd/make_lane.h"
#include "test/unit/suite.h"

/* Several messages in one delivery: what becomes of it, and of them. */

#define MEMBER_OF(type, id)                                                              \
    "{\"customer_id\":7,\"text\":\"hello\",\"recipients\":[\"0912\"],"                   \
    "\"type\":\"" type "\",\"transaction_id\":\"c-" id "\",\"message_identifier\":\"" id \
    "\",\"traceparent\":\"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\","    \
    "\"tracestate\":\"k=v\",\"accepted_us\":42}"
#define MEMBER(id) MEMBER_OF("normal", id)
#define BUNDLE(members) "{\"messages\":[" members "]}"
#define DELIVERED(n, json)                                                             \
    {                                                                                  \
        .type = BROKER_DELIVERED, .tag = (n), .message_id = "m-1", .traceparent = "",  \
        .tracestate = "", .is_bundle = true, .bundle = BUNDLE_VERSION, .body = (json), \
        .body_len = strlen(json)                                                       \
    }

#define OURS(id, message) id "|" message "|0912|0|sending|1|0|5|7|10||20|5"

static void setup(void)
{
    make_lane();
    lane->consuming = true;
}

static void claim(const char *rows, size_t claimed)
{
    EXPECT("claim", TAKEN(rows, claimed));
    turn();
}

/* One of them is in hand. */
static void look_and_claim(const char *rows, size_t claimed)
{
    EXPECT("recipient_lock", .rows = rows);
    EXPECT("claim_update", .affected = claimed);
    EXPECT("commit");
    turn();
}

/* The dispatch is through with what it got as number i. */
static void done(size_t i)
{
    submitted[i]->outcome = JOB_DONE;
    job_queue_put(queue, submitted[i]);
    EXPECT("settle_done", DONE(1));
    turn();
}

static uint64_t dead(enum stats_dead reason)
{
    return metrics_value(stats.dead[reason]);
}

START_TEST(every_member_is_a_message_of_its_own)
{
    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane_exchange(lane);
    ck_assert_uint_eq(lane->arrived_count, 2);
    claim(FRESH("1", "m-1") "\n" FRESH("2", "m-2"), 2);
    ck_assert_uint_eq(submitted_count, 2);
    ck_assert_str_eq(submitted[1]->message->id, "m-2");
    ck_assert_str_eq(submitted[1]->message->text, "hello");
    ck_assert_str_eq(submitted[1]->message->tracestate, "k=v");
    ck_assert_int_eq(submitted[1]->message->accepted_us, 42);
}
END_TEST

START_TEST(the_last_member_acknowledges)
{
    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2") "," MEMBER("m-3"))));
    lane_exchange(lane);
    claim(FRESH("1", "m-1") "\n" FRESH("2", "m-2") "\n3|m-3|0912|0|done|1|0|6|7|10||0|0", 2);
    expect_acks("open"); /* the third was over at once */
    done(1);
    expect_acks("open");
    done(0);
    expect_acks("ack:3");
    ck_assert(!lane->hand.by_id);
}
END_TEST

START_TEST(twins_in_a_bundle_count_as_one)
{
    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-1"))));
    lane_exchange(lane);
    claim(FRESH("1", "m-1"), 1);
    ck_assert_uint_eq(lane->arrived_count, 1);
    EXPECT("recipient_lock", .rows = OURS("1", "m-1"));
    EXPECT("commit");
    turn();
    expect_acks("open");
    ck_assert_uint_eq(submitted_count, 1);
    done(0);
    expect_acks("ack:3");
}
END_TEST

START_TEST(a_member_of_two_bundles_keeps_neither)
{
    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane_exchange(lane);
    claim(FRESH("1", "m-1") "\n" FRESH("2", "m-2"), 2);
    HEARS(DELIVERED(4, BUNDLE(MEMBER("m-2") "," MEMBER("m-3"))));
    lane_exchange(lane);
    look_and_claim(OURS("2", "m-2") "\n" FRESH("3", "m-3"), 1);
    done(2);
    expect_acks("ack:4");
    done(1);
    done(0);
    expect_acks("ack:4 ack:3");
}
END_TEST

/* What was in hand goes on under the bundle that came again. */
START_TEST(a_bundle_that_comes_again_is_acknowledged_once)
{
    struct err err;

    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane_exchange(lane);
    claim(FRESH("1", "m-1") "\n" FRESH("2", "m-2"), 2);
    done(0);
    ck_assert_int_eq(broker_open(lane->broker, &err), 0);
    HEARS(DELIVERED(1, BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane_exchange(lane);
    EXPECT("recipient_lock", .rows = "1|m-1|0912|0|done|1|0|5|7|10||0|0\n" OURS("2", "m-2"));
    EXPECT("commit");
    turn();
    ck_assert_str_eq(fake_broker_calls(), "open open");
    done(1);
    ck_assert_str_eq(fake_broker_calls(), "open open ack:1");
}
END_TEST

/* A drain lets go of what is not claimed: the broker has to keep all of it. */
START_TEST(a_bundle_with_a_member_that_was_let_go_is_not_acknowledged)
{
    lane->recipients_max = 1;
    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane_exchange(lane);
    claim(FRESH("1", "m-1"), 1);
    ck_assert_uint_eq(lane->arrived_count, 1);
    lane_drop_arrived(lane);
    done(0);
    expect_acks("open");
    ck_assert(!lane->hand.by_id);
}
END_TEST

START_TEST(what_cannot_be_read_is_put_aside_whole)
{
    uint64_t before = dead(STATS_DEAD_BODY);
    struct broker_event later = DELIVERED(4, BUNDLE(MEMBER("m-1")));

    later.bundle = BUNDLE_VERSION + 1;
    HEARS(DELIVERED(3, "{\"messages\":[]}"), later);
    lane_exchange(lane);
    expect_acks("dead_letter:3 dead_letter:4");
    ck_assert_uint_eq(dead(STATS_DEAD_BODY), before + 2);
    ck_assert_uint_eq(lane->arrived_count, 0);
}
END_TEST

START_TEST(what_comes_alone_and_is_not_ours_is_rejected)
{
    struct broker_event alone = DELIVERED(3, MEMBER_OF("express", "m-1"));
    struct broker_event garbage = DELIVERED(4, "17");

    alone.is_bundle = garbage.is_bundle = false;
    HEARS(alone, garbage);
    lane_exchange(lane);
    expect_acks("dead_letter:3 dead_letter:4");
}
END_TEST

/* ---- what keeps a bundle from its end ---- */

#define SUSPECT(id, message) id "|" message "|0912|0|sending|1|2|6|7|10||20|5"

/* Seen for what they are, and set aside. */
static void expect_suspects(const char *rows)
{
    EXPECT("recipient_lock", .rows = rows);
    EXPECT("claim_owners", .rows = "");
    EXPECT("commit");
}

/* The first of them is claimed. */
static void expect_alone(const char *message, const char *row)
{
    static char quoted[64];

    snprintf(quoted, sizeof(quoted), "('%s')", message);
    EXPECT("recipient_lock", .has = {quoted}, .rows = row);
    EXPECT("claim_owners", .rows = "");
    EXPECT("claim_update", .has = {"takeovers+(1 AND"}, .affected = 1);
    EXPECT("commit");
}

static void grow_old(const struct inflight *m)
{
    m->arrival->begun_ms -= 10000;
    lane->stale_at_ms -= 10000;
}

static void expect_put_off(const char *rows, const char *message)
{
    EXPECT("recipient_lock", .rows = rows);
    EXPECT("retry_lock_messages", .rows = message);
    EXPECT("retry_count");
    EXPECT("retry_insert_outbox", .has = {"\"recipients\":[\"0912\"]"});
    EXPECT("commit");
}

START_TEST(a_member_that_waits_too_long_comes_again_through_the_outbox)
{
    lane->recipients_max = 1;
    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane_exchange(lane);
    claim(FRESH("1", "m-1"), 1);
    ck_assert(!lane_turn_has_work(lane)); /* as many are in hand as may be */
    grow_old(submitted[0]->message);
    ck_assert(lane_turn_has_work(lane));
    expect_put_off(FRESH("2", "m-2"), "m-2|0");
    turn();
    ck_assert_uint_eq(lane->arrived_count, 0);
    expect_acks("open");
    done(0);
    expect_acks("ack:3");
}
END_TEST

/* The answer to its claim was lost: whoever else got it would wait for our death. */
START_TEST(what_is_ours_already_is_not_put_off_however_long_it_waits)
{
    lane->recipients_max = 1;
    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane_exchange(lane);
    claim(FRESH("1", "m-1"), 1);
    grow_old(submitted[0]->message);
    EXPECT("recipient_lock", .rows = OURS("2", "m-2") "\n3|m-2|0913|1|pending|0|0|0|7|10||\\N|0");
    EXPECT("commit");
    turn();
    ck_assert_uint_eq(submitted_count, 1);
    ck_assert(!lane_turn_has_work(lane)); /* and nothing spins over it */
    submitted[0]->outcome = JOB_DONE;
    job_queue_put(queue, submitted[0]);
    EXPECT("settle_done", DONE(1));
    EXPECT("claim", .error = FAKE_NULL);
    look_and_claim(OURS("2", "m-2"), 1);
    expect_acks("open");
    ck_assert_uint_eq(submitted_count, 2);
    ck_assert(submitted[1]->any);
    done(1);
    expect_acks("ack:3");
}
END_TEST

START_TEST(suspects_of_a_bundle_do_not_wait_for_each_other_for_ever)
{
    struct broker_event again = DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2")));

    again.redelivered = true;
    HEARS(again);
    lane_exchange(lane);
    expect_suspects(SUSPECT("1", "m-1") "\n" SUSPECT("2", "m-2"));
    expect_alone("m-1", SUSPECT("1", "m-1"));
    turn();
    ck_assert_uint_eq(lane->suspect_count, 1);
    grow_old(submitted[0]->message);
    EXPECT("recipient_lock", .has = {"('m-2')"}, .rows = SUSPECT("2", "m-2"));
    EXPECT("claim_owners", .rows = "");
    EXPECT("retry_lock_messages", .rows = "m-2|0");
    EXPECT("retry_count");
    EXPECT("retry_insert_outbox");
    EXPECT("commit");
    turn();
    ck_assert_uint_eq(lane->suspect_count, 0);
    done(0);
    expect_acks("ack:3");
}
END_TEST

/* What is not stale stands behind it, and goes on waiting. */
START_TEST(a_stale_suspect_does_not_have_to_be_the_last)
{
    struct broker_event again = DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2")));

    again.redelivered = true;
    HEARS(again);
    lane_exchange(lane);
    arrive("m-3", 4);
    expect_suspects(SUSPECT("1", "m-1") "\n" SUSPECT("2", "m-2") "\n" SUSPECT("3", "m-3"));
    expect_alone("m-1", SUSPECT("1", "m-1"));
    turn();
    ck_assert_uint_eq(lane->suspect_count, 2);
    grow_old(submitted[0]->message);
    arrive("m-4", 5);
    EXPECT("recipient_lock", .has = {"('m-2')"}, .rows = SUSPECT("2", "m-2"));
    EXPECT("claim_owners", .rows = "");
    EXPECT("retry_lock_messages", .rows = "m-2|0");
    EXPECT("retry_count");
    EXPECT("retry_insert_outbox");
    EXPECT("commit");
    turn();
    ck_assert_uint_eq(submitted_count, 1);
    ck_assert_uint_eq(lane->arrived_count, 1); /* m-4: not beside a suspect */
    ck_assert_uint_eq(lane->suspect_count, 1);
    ck_assert(!lane_turn_has_work(lane));
}
END_TEST

/* Which one grows old first is noted, and noted anew when that is over. */
START_TEST(a_later_bundle_grows_old_too)
{
    lane->recipients_max = 1;
    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-1"))));
    lane_exchange(lane);
    claim(FRESH("1", "m-1"), 1);
    done(0);
    HEARS(DELIVERED(4, BUNDLE(MEMBER("m-2") "," MEMBER("m-3"))));
    lane_exchange(lane);
    claim(FRESH("2", "m-2"), 1);
    lane->stale_at_ms -= 10000; /* the first one's time */
    turn();
    ck_assert(!lane_turn_has_work(lane));
    grow_old(submitted[1]->message);
    expect_put_off(FRESH("3", "m-3"), "m-3|0");
    turn();
    ck_assert_uint_eq(lane->arrived_count, 0);
}
END_TEST

START_TEST(what_came_alone_or_was_not_begun_waits_as_long_as_it_has_to)
{
    lane->recipients_max = 1;
    arrive("m-1", 1);
    claim(FRESH("1", "m-1"), 1);
    arrive("m-2", 2);
    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-3") "," MEMBER("m-4"))));
    lane_exchange(lane);
    turn();
    ck_assert_uint_eq(lane->arrived_count, 3);
    ck_assert(!lane_turn_has_work(lane));
}
END_TEST

/* With one death allowed each is alone from the start: none but the killer is ever over it. */
START_TEST(what_kills_consumers_is_alone_before_its_neighbours_are_over)
{
    struct broker_event again = DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2")));

    again.redelivered = true;
    settings.consumer.takeovers_max = 2;
    HEARS(again);
    lane_exchange(lane);
    expect_suspects("1|m-1|0912|0|sending|1|1|6|7|10||20|5\n"
                    "2|m-2|0912|0|sending|1|1|6|7|10||20|5");
    expect_alone("m-1", "1|m-1|0912|0|sending|1|1|6|7|10||20|5");
    turn();
    ck_assert_uint_eq(submitted_count, 1);
    ck_assert_uint_eq(lane->suspect_count, 1);
}
END_TEST

/* ---- suspects ---- */

static void suspects_arrive(const char *rows)
{
    struct broker_event again = DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2")));

    again.redelivered = true;
    HEARS(again);
    lane_exchange(lane);
    expect_suspects(rows);
}

static void wait_until_open_is_over(void)
{
    while (clock_mono_ms() < alone_due_ms(lanes_alone))
        poll(NULL, 0, 1);
}

START_TEST(a_suspect_waits_until_the_lane_has_nothing_in_hand)
{
    arrive("m-3", 4);
    claim(FRESH("3", "m-3"), 1);
    suspects_arrive(SUSPECT("1", "m-1") "\n" SUSPECT("2", "m-2"));
    turn();
    ck_assert_uint_eq(lane->suspect_count, 2);
    ck_assert(!lane_turn_has_work(lane));
    submitted[0]->outcome = JOB_DONE;
    job_queue_put(queue, submitted[0]);
    EXPECT("settle_done", DONE(1));
    expect_alone("m-1", SUSPECT("1", "m-1"));
    turn();
    ck_assert_uint_eq(submitted_count, 2);
}
END_TEST

START_TEST(a_suspect_waits_for_the_other_lane)
{
    alone_tell(lanes_alone, MESSAGE_EXPRESS, true, false);
    suspects_arrive(SUSPECT("1", "m-1") "\n" SUSPECT("2", "m-2"));
    turn();
    ck_assert_uint_eq(lane->suspect_count, 2);
    ck_assert(!lane_turn_has_work(lane));
    alone_tell(lanes_alone, MESSAGE_EXPRESS, false, false);
    ck_assert(lane_turn_has_work(lane));
    expect_alone("m-1", SUSPECT("1", "m-1"));
    turn();
    ck_assert(!alone_may_join(lanes_alone, MESSAGE_EXPRESS));
}
END_TEST

START_TEST(nothing_is_claimed_beside_a_suspect)
{
    suspects_arrive(SUSPECT("1", "m-1") "\n2|m-2|0912|0|done|1|0|6|7|10||0|0");
    expect_alone("m-1", SUSPECT("1", "m-1"));
    turn();
    arrive("m-3", 4);
    turn();
    ck_assert_uint_eq(lane->arrived_count, 1);
    done(0);
    claim(FRESH("3", "m-3"), 1);
    ck_assert_uint_eq(submitted_count, 2);
}
END_TEST

/* The statement for what is done does not bring along anybody either. */
START_TEST(nothing_is_claimed_while_a_suspect_waits)
{
    arrive("m-3", 4);
    arrive("m-4", 5);
    claim(FRESH("3", "m-3") "\n" FRESH("4", "m-4"), 2);
    suspects_arrive(SUSPECT("1", "m-1") "\n" SUSPECT("2", "m-2"));
    turn();
    arrive("m-5", 6);
    done(0);
    ck_assert_uint_eq(lane->arrived_count, 1);
    ck_assert_uint_eq(submitted_count, 2);
}
END_TEST

START_TEST(a_suspect_whose_claim_fails_is_still_alone)
{
    suspects_arrive(SUSPECT("1", "m-1") "\n" SUSPECT("2", "m-2"));
    EXPECT("recipient_lock", .has = {"('m-1')"}, .error = FAKE_LOST);
    turn();
    ck_assert_uint_eq(lane->suspect_count, 2);
    ck_assert_uint_eq(lane->arrived_count, 0);
    wait_until_open_is_over();
    expect_alone("m-1", SUSPECT("1", "m-1"));
    turn();
    ck_assert_uint_eq(submitted_count, 1);
}
END_TEST

/* The database does not answer this lane: the other one goes on until it is asked again. */
START_TEST(a_suspect_that_cannot_be_claimed_now_keeps_nobody)
{
    suspects_arrive(SUSPECT("1", "m-1") "\n" SUSPECT("2", "m-2"));
    EXPECT("recipient_lock", .has = {"('m-1')"}, .error = FAKE_LOST);
    turn();
    wait_until_open_is_over();
    ck_assert(alone_join(lanes_alone, MESSAGE_EXPRESS));
    alone_tell(lanes_alone, MESSAGE_EXPRESS, true, false);
    lane->db_retry_at_ms = INT64_MAX;
    lane_turn_work(lane);
    ck_assert(alone_may_join(lanes_alone, MESSAGE_NORMAL));
    turn(); /* it is due again */
    ck_assert(!alone_may_join(lanes_alone, MESSAGE_NORMAL));
}
END_TEST

/* Settled, and the next one due, in one turn: which is when the lane looks at the clock. */
START_TEST(a_slow_suspect_is_followed_by_what_waited_for_it)
{
    suspects_arrive(SUSPECT("1", "m-1") "\n" SUSPECT("2", "m-2"));
    expect_alone("m-1", SUSPECT("1", "m-1"));
    turn();
    poll(NULL, 0, 220); /* the operator takes its time */
    done(0);
    ck_assert_uint_eq(lane->suspect_count, 1);
    ck_assert_uint_eq(submitted_count, 1);
    ck_assert(alone_may_join(lanes_alone, MESSAGE_EXPRESS));
    ck_assert_int_gt(lane_turn_opens_ms(lane), clock_mono_ms());
    arrive("m-3", 4);
    claim(FRESH("3", "m-3"), 1);
    wait_until_open_is_over();
    submitted[1]->outcome = JOB_DONE;
    job_queue_put(queue, submitted[1]);
    EXPECT("settle_done", DONE(1));
    expect_alone("m-2", SUSPECT("2", "m-2"));
    turn();
    ck_assert_uint_eq(submitted_count, 3);
    ck_assert(!alone_may_join(lanes_alone, MESSAGE_EXPRESS));
}
END_TEST

START_TEST(suspects_of_two_lanes_take_turns)
{
    suspects_arrive(SUSPECT("1", "m-1") "\n" SUSPECT("2", "m-2"));
    expect_alone("m-1", SUSPECT("1", "m-1"));
    turn();
    alone_tell(lanes_alone, MESSAGE_EXPRESS, false, true);
    done(0);
    ck_assert_uint_eq(lane->suspect_count, 1);
    wait_until_open_is_over();
    ck_assert(alone_begin(lanes_alone, MESSAGE_EXPRESS));
    turn();
    alone_tell(lanes_alone, MESSAGE_EXPRESS, false, true);
    wait_until_open_is_over();
    expect_alone("m-2", SUSPECT("2", "m-2"));
    turn();
    ck_assert_uint_eq(submitted_count, 2);
}
END_TEST

START_TEST(what_is_forgotten_is_nobodys_suspect)
{
    suspects_arrive(SUSPECT("1", "m-1") "\n" SUSPECT("2", "m-2"));
    expect_alone("m-1", SUSPECT("1", "m-1"));
    turn();
    ck_assert(!alone_may_join(lanes_alone, MESSAGE_EXPRESS));
    lane_turn_forget(lane);
    ck_assert(alone_may_join(lanes_alone, MESSAGE_EXPRESS));
}
END_TEST

/* ---- how much ---- */

START_TEST(the_prefetch_counts_members)
{
    lane->prefetch = 3;
    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane_exchange(lane);
    HEARS(DELIVERED(4, BUNDLE(MEMBER("m-3") "," MEMBER("m-4"))));
    lane_exchange(lane);
    ck_assert_uint_eq(lane->messages, 4);
    HEARS(DELIVERED(5, BUNDLE(MEMBER("m-5"))));
    lane_exchange(lane);
    expect_acks("beat");
    ck_assert_uint_eq(lane->arrived_count, 4);
    claim(
        FRESH("1", "m-1") "\n2|m-2|0912|0|done|1|0|6|7|10||0|0\n3|m-3|0912|0|done|1|0|6|7|10||0|0\n"
                          "4|m-4|0912|0|done|1|0|6|7|10||0|0",
        1);
    expect_acks("beat ack:4");
    lane_exchange(lane);
    ck_assert_uint_eq(lane->arrived_count, 1);
    lane_turn_forget(lane);
    ck_assert(!lane->messages && !lane->bytes);
}
END_TEST

START_TEST(the_bytes_of_what_is_in_memory_are_bounded)
{
    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane_exchange(lane);
    claim(FRESH("1", "m-1") "\n" FRESH("2", "m-2"), 2);
    done(0); /* its text is still there: the body is one */
    ck_assert_uint_eq(lane->bytes, strlen(BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane->bytes += 8 << 20;
    lane_exchange(lane);
    expect_acks("beat");
    lane->bytes -= 8 << 20;
    done(1);
    ck_assert_uint_eq(lane->bytes, 0);
}
END_TEST

START_TEST(few_deliveries_are_asked_for_where_each_may_be_a_bundle)
{
    ck_assert_uint_eq(lane->prefetch, 100);
    ck_assert_uint_eq(lane->deliveries_max, 25);
    unmake_lane();
    make_lane_with_bundles_of(1);
    ck_assert_uint_eq(lane->deliveries_max, 100);
}
END_TEST

/* ---- members that a person is to look at ---- */

static void letters(void)
{
    lane->letter_retry_at_ms = 0; /* no test waits */
    lane_letters_turn(lane);
}

static void cannot_be_written(size_t i)
{
    submitted[i]->outcome = JOB_DONE;
    job_queue_put(queue, submitted[i]);
    EXPECT("settle_done", .error = FAKE_OUT_OF_RANGE);
    lane->settle_limit = 1;
    turn();
}

START_TEST(a_bundle_waits_for_the_letters_of_its_members)
{
    uint64_t body = dead(STATS_DEAD_BODY), wrong = dead(STATS_DEAD_QUEUE),
             rows = dead(STATS_DEAD_NO_ROWS);

    HEARS(DELIVERED(3,
                    BUNDLE("17," MEMBER_OF("express", "m-1") "," MEMBER("m-2") "," MEMBER("m-3"))));
    lane_exchange(lane);
    claim(FRESH("3", "m-3"), 1);
    letters();
    expect_acks("open confirm publish: publish:m-1 publish:m-2");
    done(0);
    HEARS({.type = BROKER_CONFIRMED, .tag = 2});
    letters();
    HEARS({.type = BROKER_CONFIRMED, .tag = 3, .multiple = true});
    letters();
    expect_acks("open confirm publish: publish:m-1 publish:m-2 ack:3");
    ck_assert_uint_eq(dead(STATS_DEAD_BODY), body + 1);
    ck_assert_uint_eq(dead(STATS_DEAD_QUEUE), wrong + 1);
    ck_assert_uint_eq(dead(STATS_DEAD_NO_ROWS), rows + 1);
}
END_TEST

START_TEST(a_member_that_cannot_be_written_is_a_letter_and_keeps_its_place)
{
    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane_exchange(lane);
    claim(FRESH("1", "m-1") "\n" FRESH("2", "m-2"), 2);
    cannot_be_written(0);
    done(1);
    expect_acks("open");
    letters();
    HEARS({.type = BROKER_CONFIRMED, .tag = 1});
    letters();
    expect_acks("open confirm publish:m-1 ack:3");
}
END_TEST

/* The bundle that it came in first is freed by then. */
START_TEST(a_letter_is_made_of_the_bundle_that_came_again)
{
    const struct inflight *m;
    struct err err;

    HEARS(DELIVERED(3, BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane_exchange(lane);
    claim(FRESH("1", "m-1") "\n" FRESH("2", "m-2"), 2);
    ck_assert_int_eq(broker_open(lane->broker, &err), 0);
    HEARS(DELIVERED(4, BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane_exchange(lane);
    EXPECT("recipient_lock", .rows = OURS("1", "m-1") "\n" OURS("2", "m-2"));
    EXPECT("commit");
    turn();
    m = submitted[0]->message;
    ck_assert_ptr_eq(m->json, m->arrival->bundle + strlen("{\"messages\":["));
    cannot_be_written(0);
    done(1);
    letters();
    HEARS({.type = BROKER_CONFIRMED, .tag = 1});
    letters();
    expect_acks("open open confirm publish:m-1 ack:4");
    ck_assert_uint_eq(lane->bytes, 0);
}
END_TEST

START_TEST(what_came_alone_and_comes_again_in_a_bundle_does_not_reject_all_of_it)
{
    struct err err;

    arrive("m-1", 3);
    claim(FRESH("1", "m-1"), 1);
    ck_assert_int_eq(broker_open(lane->broker, &err), 0);
    HEARS(DELIVERED(4, BUNDLE(MEMBER("m-1") "," MEMBER("m-2"))));
    lane_exchange(lane);
    EXPECT("recipient_lock", .rows = OURS("1", "m-1") "\n" FRESH("2", "m-2"));
    EXPECT("claim_update", .affected = 1);
    EXPECT("commit");
    turn();
    cannot_be_written(0);
    done(1);
    letters();
    HEARS({.type = BROKER_CONFIRMED, .tag = 1});
    letters();
    expect_acks("open open confirm publish:m-1 ack:4");
    ck_assert_uint_eq(lane->bytes, 0);
}
END_TEST

/* The letter comes first: without it the bundle stays with the broker. */
START_TEST(a_letter_that_is_not_taken_is_published_again)
{
    HEARS(DELIVERED(3, BUNDLE("17")));
    lane_exchange(lane);
    HEARS({.type = BROKER_RETURNED, .message_id = ""}, {.type = BROKER_CONFIRMED, .tag = 1});
    letters();
    expect_acks("open confirm publish: drop");
    ck_assert_int_gt(lane_letters_due_ms(lane), clock_mono_ms());
    HEARS({.type = BROKER_CONFIRMED, .tag = 1});
    letters();
    expect_acks("open confirm publish: drop open confirm publish: ack:3");
    ck_assert_uint_eq(lane->letter_failures, 0);
}
END_TEST

START_TEST(a_letter_that_is_refused_is_published_again_alone)
{
    HEARS(DELIVERED(3, BUNDLE("17," MEMBER_OF("express", "m-1") "," MEMBER_OF("express", "m-2"))));
    lane_exchange(lane);
    HEARS({.type = BROKER_NACKED, .tag = 2}, {.type = BROKER_CONFIRMED, .tag = 1});
    letters();
    ck_assert_int_gt(lane->letter_retry_at_ms, clock_mono_ms());
    HEARS({.type = BROKER_RETURNED, .message_id = "m-2"},
          {.type = BROKER_CONFIRMED, .tag = 4, .multiple = true});
    letters();
    expect_acks("open confirm publish: publish:m-1 publish:m-2 publish:m-1 drop");
    HEARS({.type = BROKER_CONFIRMED, .tag = 1});
    letters();
    expect_acks("open confirm publish: publish:m-1 publish:m-2 publish:m-1 drop "
                "open confirm publish:m-2 ack:3");
}
END_TEST

/* Its neighbour is over by then; the broker has a place for all of it, sooner or later. */
START_TEST(a_letter_that_is_not_taken_for_long_does_not_keep_the_lane)
{
    struct inflight *m;

    HEARS(DELIVERED(3, BUNDLE("17,18," MEMBER("m-1"))));
    lane_exchange(lane);
    claim(FRESH("1", "m-1"), 1);
    HEARS({.type = BROKER_NACKED, .tag = 2, .multiple = true});
    letters();
    TAILQ_FOREACH(m, &lane->letters, link)
    m->letter_since_ms -= 61000;
    HEARS({.type = BROKER_NACKED, .tag = 2, .multiple = true});
    letters();
    ck_assert(TAILQ_EMPTY(&lane->letters));
    expect_acks("open confirm publish: publish: drop open confirm publish: publish: drop");
    done(0);
    expect_acks("open confirm publish: publish: drop open confirm publish: publish: drop "
                "dead_letter:3");
    ck_assert(!lane->messages && !lane->bytes);
}
END_TEST

START_TEST(few_letters_wait_while_they_are_refused)
{
    lane->deliveries_max = 2;
    HEARS(DELIVERED(3, BUNDLE("17")), DELIVERED(4, BUNDLE("18")));
    lane_exchange(lane);
    letters(); /* the broker takes its time */
    ck_assert_uint_eq(lane->messages, 2);
    HEARS({.type = BROKER_NACKED, .tag = 2, .multiple = true});
    letters();
    ck_assert_uint_eq(lane->messages, 1);
    expect_acks("open confirm publish: publish: drop dead_letter:3");
}
END_TEST

START_TEST(few_letters_wait_while_the_broker_has_an_alarm)
{
    lane->deliveries_max = 2;
    HEARS(DELIVERED(3, BUNDLE("17")), DELIVERED(4, BUNDLE("18")));
    lane_exchange(lane);
    HEARS({.type = BROKER_BLOCKED, .text = "memory"});
    letters();
    ck_assert_uint_eq(lane->messages, 1);
    expect_acks("open confirm publish: publish: dead_letter:3");
}
END_TEST

/* New ones keep the connection: each has its time from when it is published. */
START_TEST(few_letters_wait_for_a_confirm_that_does_not_come)
{
    lane->deliveries_max = 2;
    HEARS(DELIVERED(3, BUNDLE("17")), DELIVERED(4, BUNDLE("18")));
    lane_exchange(lane);
    letters();
    TAILQ_FIRST(&lane->letters)->letter_since_ms -= 9000;
    letters();
    ck_assert_uint_eq(lane->messages, 2);
    TAILQ_FIRST(&lane->letters)->letter_since_ms -= 2000;
    letters();
    ck_assert_uint_eq(lane->messages, 1);
    expect_acks("open confirm publish: publish: dead_letter:3");
}
END_TEST

START_TEST(an_alarm_of_the_broker_only_makes_a_letter_wait)
{
    HEARS(DELIVERED(3, BUNDLE("17")));
    lane_exchange(lane);
    HEARS({.type = BROKER_BLOCKED, .text = "memory"});
    letters();
    lane->letter_limit_ms = 0;
    letters();
    ck_assert_int_eq(lane_letters_due_ms(lane), INT64_MAX);
    HEARS({.type = BROKER_UNBLOCKED}, {.type = BROKER_CONFIRMED, .tag = 1});
    letters();
    expect_acks("open confirm publish: ack:3");
}
END_TEST

START_TEST(a_lost_connection_forgets_the_letters_of_what_comes_again)
{
    HEARS(DELIVERED(3, BUNDLE("17," MEMBER("m-1"))));
    lane_exchange(lane);
    lane->connection_lost = true;
    lane_exchange(lane);
    letters();
    expect_acks("drop");
    ck_assert_uint_eq(lane->arrived_count, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bundle");
    TCase *t = tcase_create("whole");

    tcase_add_checked_fixture(t, setup, unmake_lane);
    tcase_add_test(t, every_member_is_a_message_of_its_own);
    tcase_add_test(t, the_last_member_acknowledges);
    tcase_add_test(t, twins_in_a_bundle_count_as_one);
    tcase_add_test(t, a_member_of_two_bundles_keeps_neither);
    tcase_add_test(t, a_bundle_that_comes_again_is_acknowledged_once);
    tcase_add_test(t, a_bundle_with_a_member_that_was_let_go_is_not_acknowledged);
    tcase_add_test(t, what_cannot_be_read_is_put_aside_whole);
    tcase_add_test(t, what_comes_alone_and_is_not_ours_is_rejected);
    suite_add_tcase(s, t);
    t = tcase_create("old");
    tcase_add_checked_fixture(t, setup, unmake_lane);
    tcase_add_test(t, a_member_that_waits_too_long_comes_again_through_the_outbox);
    tcase_add_test(t, what_is_ours_already_is_not_put_off_however_long_it_waits);
    tcase_add_test(t, suspects_of_a_bundle_do_not_wait_for_each_other_for_ever);
    tcase_add_test(t, a_stale_suspect_does_not_have_to_be_the_last);
    tcase_add_test(t, a_later_bundle_grows_old_too);
    tcase_add_test(t, what_came_alone_or_was_not_begun_waits_as_long_as_it_has_to);
    tcase_add_test(t, what_kills_consumers_is_alone_before_its_neighbours_are_over);
    suite_add_tcase(s, t);
    t = tcase_create("suspects");
    tcase_add_checked_fixture(t, setup, unmake_lane);
    tcase_add_test(t, a_suspect_waits_until_the_lane_has_nothing_in_hand);
    tcase_add_test(t, a_suspect_waits_for_the_other_lane);
    tcase_add_test(t, nothing_is_claimed_beside_a_suspect);
    tcase_add_test(t, nothing_is_claimed_while_a_suspect_waits);
    tcase_add_test(t, a_suspect_whose_claim_fails_is_still_alone);
    tcase_add_test(t, a_suspect_that_cannot_be_claimed_now_keeps_nobody);
    tcase_add_test(t, a_slow_suspect_is_followed_by_what_waited_for_it);
    tcase_add_test(t, suspects_of_two_lanes_take_turns);
    tcase_add_test(t, what_is_forgotten_is_nobodys_suspect);
    suite_add_tcase(s, t);
    t = tcase_create("how much");
    tcase_add_checked_fixture(t, setup, unmake_lane);
    tcase_add_test(t, the_prefetch_counts_members);
    tcase_add_test(t, the_bytes_of_what_is_in_memory_are_bounded);
    tcase_add_test(t, few_deliveries_are_asked_for_where_each_may_be_a_bundle);
    suite_add_tcase(s, t);
    t = tcase_create("letters");
    tcase_add_checked_fixture(t, setup, unmake_lane);
    tcase_add_test(t, a_bundle_waits_for_the_letters_of_its_members);
    tcase_add_test(t, a_member_that_cannot_be_written_is_a_letter_and_keeps_its_place);
    tcase_add_test(t, a_letter_is_made_of_the_bundle_that_came_again);
    tcase_add_test(t, what_came_alone_and_comes_again_in_a_bundle_does_not_reject_all_of_it);
    tcase_add_test(t, a_letter_that_is_not_taken_is_published_again);
    tcase_add_test(t, a_letter_that_is_refused_is_published_again_alone);
    tcase_add_test(t, a_letter_that_is_not_taken_for_long_does_not_keep_the_lane);
    tcase_add_test(t, few_letters_wait_while_they_are_refused);
    tcase_add_test(t, few_letters_wait_while_the_broker_has_an_alarm);
    tcase_add_test(t, few_letters_wait_for_a_confirm_that_does_not_come);
    tcase_add_test(t, an_alarm_of_the_broker_only_makes_a_letter_wait);
    tcase_add_test(t, a_lost_connection_forgets_the_letters_of_what_comes_again);
    suite_add_tcase(s, t);
    return suite_run(s);
}
