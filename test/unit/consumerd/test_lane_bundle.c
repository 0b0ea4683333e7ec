#include <check.h>
#include <string.h>

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

#define ROW(id, message) id "|" message "|0912|0|pending|0|0|0|7|10||\\N|0"
#define OURS(id, message) id "|" message "|0912|0|sending|1|0|5|7|10||20|5"

static void setup(void)
{
    make_lane();
    lane->consuming = true;
}

static void claim(const char *rows, size_t claimed)
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
    EXPECT("settle_done", .affected = 1);
    EXPECT("commit");
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
    claim(ROW("1", "m-1") "\n" ROW("2", "m-2"), 2);
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
    claim(ROW("1", "m-1") "\n" ROW("2", "m-2") "\n3|m-3|0912|0|done|1|0|6|7|10||0|0", 2);
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
    claim(ROW("1", "m-1"), 1);
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
    claim(ROW("1", "m-1") "\n" ROW("2", "m-2"), 2);
    HEARS(DELIVERED(4, BUNDLE(MEMBER("m-2") "," MEMBER("m-3"))));
    lane_exchange(lane);
    claim(OURS("2", "m-2") "\n" ROW("3", "m-3"), 1);
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
    claim(ROW("1", "m-1") "\n" ROW("2", "m-2"), 2);
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
    claim(ROW("1", "m-1"), 1);
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

START_TEST(what_comes_alone_and_is_not_ours_is_put_aside_at_once)
{
    struct broker_event alone = DELIVERED(4, MEMBER_OF("express", "m-1"));

    alone.is_bundle = false;
    HEARS(DELIVERED(3, BUNDLE("17")), alone);
    lane_exchange(lane);
    expect_acks("dead_letter:3 dead_letter:4");
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
    tcase_add_test(t, what_comes_alone_and_is_not_ours_is_put_aside_at_once);
    suite_add_tcase(s, t);
    return suite_run(s);
}
