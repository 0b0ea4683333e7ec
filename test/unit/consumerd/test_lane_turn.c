#include <check.h>
#include <string.h>

#include "test/unit/consumerd/make_lane.h"
#include "test/unit/suite.h"

/* ---- settling ---- */

START_TEST(what_is_done_is_settled_together_and_then_acknowledged)
{
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    finish(in_hand("m-2", 2), 2, JOB_DONE);
    EXPECT("settle_done", .affected = 2);
    EXPECT("commit");
    turn();
    expect_acks("ack:1 ack:2");
    ck_assert(!lane->hand.by_id && !lane->hand.recipients && !lane->out);
    ck_assert(!lane_turn_has_work(lane));
}
END_TEST

START_TEST(nothing_is_acknowledged_before_a_lost_commit_is_settled)
{
    lane->settle_limit = 1; /* a bad row would be given up at once */
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    EXPECT("settle_done", .affected = 1);
    EXPECT("commit", .error = FAKE_LOST);
    turn();
    ck_assert_str_eq(fake_broker_calls(), "open");
    ck_assert(lane_turn_has_work(lane));
    ck_assert_int_gt(lane->db_retry_at_ms, 0);

    EXPECT("settle_done", .affected = 0);
    EXPECT("settle_lock", .rows = "1|done|5|1");
    EXPECT("commit");
    turn();
    expect_acks("ack:1");
    ck_assert_uint_eq(lane->db_failures, 0);
}
END_TEST

START_TEST(what_was_taken_over_is_acknowledged_and_counted_as_lost)
{
    uint64_t lost = events(STATS_LOST), success = events(STATS_SUCCESS);

    finish(in_hand("m-1", 1), 1, JOB_DONE);
    EXPECT("settle_done", .affected = 0);
    EXPECT("settle_lock", .rows = "1|sending|6|2");
    EXPECT("commit");
    turn();
    expect_acks("ack:1");
    ck_assert_uint_eq(events(STATS_LOST), lost + 1);
    ck_assert_uint_eq(events(STATS_SUCCESS), success);
}
END_TEST

START_TEST(one_bad_row_is_given_up_alone)
{
    static const char *const ids[] = {"m-1", "m-2", "m-3", "m-4"};

    for (unsigned i = 0; i < 4; i++)
        finish(in_hand(ids[i], i + 1), i + 1, JOB_DONE);
    EXPECT("settle_done", .has = {"[1,", "[4,"}, .error = FAKE_OUT_OF_RANGE);
    EXPECT("settle_done", .has = {"[1,", "[2,"}, .lacks = {"[3,"}, .affected = 2);
    EXPECT("commit");
    EXPECT("settle_done", .has = {"[3,", "[4,"}, .error = FAKE_OUT_OF_RANGE);
    EXPECT("settle_done", .has = {"[3,"}, .lacks = {"[4,"}, .error = FAKE_OUT_OF_RANGE);
    EXPECT("settle_done", .has = {"[4,"}, .affected = 1);
    EXPECT("commit");
    turn();
    expect_acks("ack:1 ack:2 dead_letter:3 ack:4");
    ck_assert_uint_eq(lane->settle_limit, 4); /* as before */
    ck_assert(!lane->hand.by_id);
}
END_TEST

START_TEST(a_database_in_trouble_gives_nothing_up)
{
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    EXPECT("settle_done", .error = FAKE_READ_ONLY);
    turn();
    EXPECT("acquire", .error = FAKE_AWAY);
    turn();
    ck_assert_str_eq(fake_broker_calls(), "open");
    ck_assert_uint_eq(lane->db_failures, 2);
    ck_assert_uint_eq(lane->settle_limit, 4);
    EXPECT("settle_done", .affected = 1);
    EXPECT("commit");
    turn();
    expect_acks("ack:1");
}
END_TEST

static void expect_put_off(const char *message)
{
    EXPECT("retry_lock_messages", .rows = message);
    EXPECT("retry_count");
}

START_TEST(what_is_put_off_of_a_message_stays_together)
{
    struct inflight *m = in_hand("m-1", 1);

    for (unsigned i = 1; i <= 5; i++) /* more than settle_batch */
        finish(m, i, JOB_LATER);
    finish(m, 6, JOB_DONE);
    EXPECT("settle_done", .has = {"[6,"}, .affected = 1); /* before that, one was still open */
    EXPECT("commit");
    EXPECT("settle_lock", .has = {"(1,2,3,4,5)"},
           .rows = "1|sending|5|1\n2|sending|5|1\n3|sending|5|1\n4|sending|5|1\n5|sending|5|1");
    EXPECT("settle_later", .affected = 5);
    expect_put_off("m-1|0");
    EXPECT("retry_insert_outbox",
           .has = {"\"recipients\":[\"091\",\"092\",\"093\",\"094\",\"095\"]"});
    EXPECT("commit");
    turn();
    expect_acks("ack:1");
}
END_TEST

/* Its rows go together or not at all. The batch shrinks to it and no further. */
START_TEST(a_message_that_cannot_be_put_off_is_given_up_alone_and_for_good)
{
    struct inflight *m = in_hand("m-1", 1);

    for (unsigned i = 1; i <= 5; i++) /* more than settle_batch */
        finish(m, i, JOB_LATER);
    finish(in_hand("m-2", 2), 6, JOB_LATER);
    for (int tries = 0; tries < 3; tries++)
        EXPECT("settle_lock", .has = {"(1,2,3,4,5)"}, .error = FAKE_SYNTAX);
    EXPECT("settle_lock", .has = {"(6)"}, .rows = "6|sending|5|1");
    EXPECT("settle_later", .affected = 1);
    expect_put_off("m-2|0");
    EXPECT("retry_insert_outbox");
    EXPECT("commit");
    turn();
    expect_acks("dead_letter:1 ack:2");
}
END_TEST

START_TEST(what_is_put_off_waits_for_the_message_to_be_over)
{
    struct inflight *m = in_hand("m-1", 1);
    struct job *open = make_job(m, 2, JOB_LATER);

    lane->hand.recipients++;
    lane->out++;
    finish(m, 1, JOB_LATER);
    turn(); /* the operators still work on the second */
    ck_assert(!lane_turn_has_work(lane));
    open->outcome = JOB_FAILED;
    job_queue_put(queue, open);
    EXPECT("settle_lock", .has = {"(2)"}, .rows = "2|sending|5|1");
    EXPECT("settle_failed", .affected = 1);
    EXPECT("refund_lock_balances", .rows = "7|0");
    EXPECT("refund");
    EXPECT("refund");
    EXPECT("commit");
    EXPECT("settle_lock", .has = {"(1)"}, .rows = "1|sending|5|1");
    EXPECT("settle_later", .affected = 1);
    expect_put_off("m-1|0");
    EXPECT("retry_insert_outbox");
    EXPECT("commit");
    turn();
    expect_acks("ack:1");
}
END_TEST

/* A refund that exists already, among others of its message: it alone is given up, the rest of the
 * message is failed and put off as it should be, and the lane goes on. */
START_TEST(one_bad_row_of_a_message_is_given_up_alone)
{
    struct inflight *m = in_hand("m-1", 1);

    for (unsigned i = 1; i <= 3; i++)
        finish(m, i, JOB_LATER);
    finish(m, 4, JOB_FAILED);
    finish(m, 5, JOB_FAILED);
    for (int tries = 0; tries < 2; tries++) { /* both, then the bad one */
        EXPECT("settle_lock", .has = {tries ? "(4)" : "(4,5)"},
               .rows = tries ? "4|sending|5|1" : "4|sending|5|1\n5|sending|5|1");
        EXPECT("settle_failed", .affected = tries ? 1 : 2);
        EXPECT("refund_lock_balances", .rows = "7|0");
        EXPECT("refund", .error = FAKE_DUPLICATE);
    }
    EXPECT("settle_lock", .has = {"(5)"}, .rows = "5|sending|5|1");
    EXPECT("settle_failed", .affected = 1);
    EXPECT("refund_lock_balances", .rows = "7|0");
    EXPECT("refund");
    EXPECT("refund");
    EXPECT("commit");
    EXPECT("settle_lock", .has = {"(1,2,3)"},
           .rows = "1|sending|5|1\n2|sending|5|1\n3|sending|5|1");
    EXPECT("settle_later", .affected = 3);
    expect_put_off("m-1|0");
    EXPECT("retry_insert_outbox", .has = {"\"recipients\":[\"091\",\"092\",\"093\"]"});
    EXPECT("commit");
    turn();
    expect_acks("dead_letter:1");
    ck_assert(!lane->hand.by_id && !lane_turn_has_work(lane));
}
END_TEST

START_TEST(a_message_without_its_row_is_dead_lettered)
{
    finish(in_hand("m-1", 1), 1, JOB_LATER);
    EXPECT("settle_lock", .rows = "1|sending|5|1");
    EXPECT("settle_later", .affected = 1);
    EXPECT("retry_lock_messages", .rows = "");
    EXPECT("commit");
    turn();
    expect_acks("dead_letter:1");
}
END_TEST

START_TEST(an_incarnation_that_is_over_settles_nothing)
{
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    arrive("m-2", 2);
    holds = false;
    turn();
    ck_assert_str_eq(fake_db_ran(), "");
    ck_assert_str_eq(fake_broker_calls(), "open");
}
END_TEST

START_TEST(an_ack_of_an_earlier_connection_is_void)
{
    struct err err;

    finish(in_hand("m-1", 1), 1, JOB_DONE);
    ck_assert_int_eq(broker_open(lane->broker, &err), 0); /* again */
    EXPECT("settle_done", .affected = 1);
    EXPECT("commit");
    turn();
    ck_assert_str_eq(fake_broker_calls(), "open open");
    ck_assert(!lane->hand.by_id);
}
END_TEST

/* ---- claiming ---- */

#define FRESH(id, message) id "|" message "|0912|0|pending|0|0|0|7|10||\\N|0"

START_TEST(what_is_claimed_goes_to_the_operators)
{
    arrive("m-1", 1);
    arrive("m-2", 2);
    EXPECT("recipient_lock", .has = {"('m-1','m-2')"},
           .rows = FRESH("1", "m-1") "\n2|m-2|0912|0|done|1|0|6|7|10||0|0");
    EXPECT("claim_update", .has = {"owner=5", "IN (1)"}, .affected = 1);
    EXPECT("commit");
    turn();
    expect_acks("ack:2"); /* nothing left to do */
    ck_assert_uint_eq(submitted_count, 1);
    ck_assert_uint_eq(submitted[0]->status_id, 1);
    ck_assert_uint_eq(submitted[0]->attempt, 1);
    ck_assert_uint_eq(lane->out, 1);
}
END_TEST

START_TEST(what_the_row_says_of_operators_goes_along)
{
    arrive("m-1", 1);
    EXPECT("recipient_lock", .rows = "1|m-1|0912|0|pending|3|0|0|7|10|beta,old|90000|4000\n"
                                     "2|m-1|0913|1|pending|0|0|0|7|10|*|\\N|0");
    EXPECT("claim_update", .affected = 2);
    EXPECT("commit");
    turn();
    ck_assert_uint_eq(submitted_count, 2);
    ck_assert_uint_eq(submitted[0]->unknown, 2);
    ck_assert_str_eq(submitted[0]->gone, "old");
    ck_assert(submitted[0]->noted && !submitted[0]->any);
    ck_assert_int_le(submitted[0]->submitted_at_ms, clock_mono_ms() - 4000);
    ck_assert_ptr_null(submitted[1]->gone);
    ck_assert(submitted[1]->noted && submitted[1]->any);
}
END_TEST

/* What is in hand comes to its end; what has arrived waits, and nothing spins over it. */
START_TEST(restore_mode_claims_nothing)
{
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    arrive("m-2", 2);
    may_claim = false;
    EXPECT("settle_done", .affected = 1);
    EXPECT("commit");
    turn();
    expect_acks("ack:1");
    ck_assert(!lane_turn_has_work(lane));
    may_claim = true;
    EXPECT("recipient_lock", .rows = FRESH("2", "m-2"));
    EXPECT("claim_update", .affected = 1);
    EXPECT("commit");
    turn();
    ck_assert_uint_eq(submitted_count, 1);
}
END_TEST

START_TEST(a_claim_that_fails_is_tried_again)
{
    arrive("m-1", 1);
    EXPECT("recipient_lock", .rows = FRESH("1", "m-1"));
    EXPECT("claim_update", .error = FAKE_DEADLOCK);
    turn();
    ck_assert_uint_eq(submitted_count, 0);
    ck_assert_uint_eq(lane->arrived_count, 1);
    ck_assert_str_eq(fake_db_ran(), "begin recipient_lock claim_update rollback");
    EXPECT("recipient_lock", .rows = FRESH("1", "m-1"));
    EXPECT("claim_update", .affected = 1);
    EXPECT("commit");
    turn();
    ck_assert_uint_eq(submitted_count, 1);
    ck_assert(!submitted[0]->any);
}
END_TEST

START_TEST(a_claim_whose_commit_was_lost_is_found_as_ours)
{
    arrive("m-1", 1);
    EXPECT("recipient_lock", .rows = FRESH("1", "m-1"));
    EXPECT("claim_update", .affected = 1);
    EXPECT("commit", .error = FAKE_LOST);
    turn();
    ck_assert_uint_eq(submitted_count, 0);
    EXPECT("recipient_lock", .rows = "1|m-1|0912|0|sending|1|0|5|7|10||20|5");
    EXPECT("claim_update", .has = {"('sending')"}, .affected = 1);
    EXPECT("commit");
    turn();
    ck_assert_uint_eq(submitted_count, 1);
    ck_assert(submitted[0]->any); /* its operators are asked first */
    ck_assert_uint_eq(submitted[0]->attempt, 2);
}
END_TEST

START_TEST(one_message_that_cannot_be_claimed_is_given_up_alone)
{
    arrive("m-1", 1);
    arrive("m-2", 2);
    EXPECT("recipient_lock", .rows = FRESH("1", "m-1") "\n" FRESH("2", "m-2"));
    EXPECT("claim_update", .affected = 1); /* a row that changed under its lock */
    turn();
    EXPECT("recipient_lock", .has = {"('m-1')"}, .rows = FRESH("1", "m-1"));
    EXPECT("claim_update", .affected = 0);
    turn();
    expect_acks("dead_letter:1");
    EXPECT("recipient_lock", .has = {"('m-2')"}, .rows = FRESH("2", "m-2"));
    EXPECT("claim_update", .affected = 1);
    EXPECT("commit");
    turn();
    ck_assert_uint_eq(submitted_count, 1);
    ck_assert_uint_eq(submitted[0]->status_id, 2);
}
END_TEST

START_TEST(a_message_that_comes_again_is_merged_with_what_is_in_hand)
{
    struct inflight *m = in_hand("m-1", 1);
    struct err err;

    finish(m, 1, JOB_DONE);
    ck_assert_int_eq(broker_open(lane->broker, &err), 0); /* its ack is void by now */
    arrive("m-1", 9);
    lane_turn_collect(lane);
    EXPECT("settle_done", .error = FAKE_DEADLOCK);
    lane_turn_work(lane);
    ck_assert_uint_eq(lane->arrived_count, 1);
    EXPECT("settle_done", .affected = 1);
    EXPECT("commit");
    EXPECT("recipient_lock", .rows = "1|m-1|0912|0|done|1|0|5|7|10||0|0");
    EXPECT("commit");
    turn();
    ck_assert_str_eq(fake_broker_calls(), "open open ack:9");
}
END_TEST

START_TEST(while_it_is_in_hand_the_new_delivery_is_the_one_to_acknowledge)
{
    struct inflight *m = in_hand("m-1", 1);
    struct job *job = make_job(m, 1, JOB_DONE);
    struct err err;

    lane->hand.recipients++;
    lane->out++;
    ck_assert_int_eq(broker_open(lane->broker, &err), 0);
    arrive("m-1", 9);
    EXPECT("recipient_lock", .rows = "1|m-1|0912|0|sending|1|0|5|7|10||20|5");
    EXPECT("commit");
    turn();
    ck_assert_uint_eq(submitted_count, 0); /* its job is under way */
    job_queue_put(queue, job);
    EXPECT("settle_done", .affected = 1);
    EXPECT("commit");
    turn();
    ck_assert_str_eq(fake_broker_calls(), "open open ack:9");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("turn");
    TCase *t = tcase_create("settling");

    tcase_add_checked_fixture(t, make_lane, unmake_lane);
    tcase_add_test(t, what_is_done_is_settled_together_and_then_acknowledged);
    tcase_add_test(t, nothing_is_acknowledged_before_a_lost_commit_is_settled);
    tcase_add_test(t, what_was_taken_over_is_acknowledged_and_counted_as_lost);
    tcase_add_test(t, one_bad_row_is_given_up_alone);
    tcase_add_test(t, a_database_in_trouble_gives_nothing_up);
    tcase_add_test(t, what_is_put_off_of_a_message_stays_together);
    tcase_add_test(t, a_message_that_cannot_be_put_off_is_given_up_alone_and_for_good);
    tcase_add_test(t, what_is_put_off_waits_for_the_message_to_be_over);
    tcase_add_test(t, one_bad_row_of_a_message_is_given_up_alone);
    tcase_add_test(t, a_message_without_its_row_is_dead_lettered);
    tcase_add_test(t, an_incarnation_that_is_over_settles_nothing);
    tcase_add_test(t, an_ack_of_an_earlier_connection_is_void);
    suite_add_tcase(s, t);
    t = tcase_create("claiming");
    tcase_add_checked_fixture(t, make_lane, unmake_lane);
    tcase_add_test(t, what_is_claimed_goes_to_the_operators);
    tcase_add_test(t, what_the_row_says_of_operators_goes_along);
    tcase_add_test(t, restore_mode_claims_nothing);
    tcase_add_test(t, a_claim_that_fails_is_tried_again);
    tcase_add_test(t, a_claim_whose_commit_was_lost_is_found_as_ours);
    tcase_add_test(t, one_message_that_cannot_be_claimed_is_given_up_alone);
    tcase_add_test(t, a_message_that_comes_again_is_merged_with_what_is_in_hand);
    tcase_add_test(t, while_it_is_in_hand_the_new_delivery_is_the_one_to_acknowledge);
    suite_add_tcase(s, t);
    return suite_run(s);
}
