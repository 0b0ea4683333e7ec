#include <check.h>
#include <string.h>

#include "test/unit/consumerd/make_lane.h"
#include "test/unit/suite.h"

/* ---- settling ---- */

START_TEST(what_is_done_is_settled_together_and_then_acknowledged)
{
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    finish(in_hand("m-2", 2), 2, JOB_DONE);
    EXPECT("settle_done", DONE(2));
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
    EXPECT("settle_done", .error = FAKE_LOST);
    turn();
    ck_assert_str_eq(fake_broker_calls(), "open");
    ck_assert(lane_turn_has_work(lane));
    ck_assert_int_gt(lane->db_retry_at_ms, 0);

    EXPECT("settle_done", DONE(0));
    EXPECT("settle_lock", .rows = "1|done|5|1");
    turn();
    expect_acks("ack:1");
    ck_assert_uint_eq(lane->db_failures, 0);
}
END_TEST

START_TEST(what_was_taken_over_is_acknowledged_and_counted_as_lost)
{
    uint64_t lost = events(STATS_LOST), success = events(STATS_SUCCESS);

    finish(in_hand("m-1", 1), 1, JOB_DONE);
    EXPECT("settle_done", DONE(0));
    EXPECT("settle_lock", .rows = "1|sending|6|2");
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
    EXPECT("settle_done", .has = {"IN (1,2,3,4)"}, .error = FAKE_OUT_OF_RANGE);
    EXPECT("settle_done", .has = {"IN (1,2)"}, DONE(2));
    EXPECT("settle_done", .has = {"IN (3,4)"}, .error = FAKE_OUT_OF_RANGE);
    EXPECT("settle_done", .has = {"IN (3)"}, .error = FAKE_OUT_OF_RANGE);
    EXPECT("settle_done", .has = {"IN (4)"}, DONE(1));
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
    EXPECT("settle_done", DONE(1));
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
    EXPECT("settle_done", .has = {"IN (6)"}, DONE(1)); /* before that, one was still open */
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
    EXPECT("refund_lock_balances", .rows = "7|0|0");
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
        EXPECT("refund_lock_balances", .rows = "7|0|0");
        EXPECT("refund", .error = FAKE_DUPLICATE);
    }
    EXPECT("settle_lock", .has = {"(5)"}, .rows = "5|sending|5|1");
    EXPECT("settle_failed", .affected = 1);
    EXPECT("refund_lock_balances", .rows = "7|0|0");
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
    EXPECT("settle_done", DONE(1));
    turn();
    ck_assert_str_eq(fake_broker_calls(), "open open");
    ck_assert(!lane->hand.by_id);
}
END_TEST

/* ---- claiming ---- */

START_TEST(what_is_claimed_goes_to_the_operators)
{
    arrive("m-2", 2);
    arrive("m-1", 1);
    EXPECT("claim", .has = {"('m-1','m-2')"},
           TAKEN(FRESH("1", "m-1") "\n2|m-2|0912|0|done|1|0|6|7|10||0|0", 1));
    turn();
    ck_assert_str_eq(fake_db_ran(), "begin claim");
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
    EXPECT("claim", TAKEN("1|m-1|0912|0|pending|3|0|0|7|10|beta,old|90000|4000\n"
                          "2|m-1|0913|1|pending|0|0|0|7|10|*|\\N|0",
                          2));
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
    EXPECT("settle_done", DONE(1));
    turn();
    expect_acks("ack:1");
    ck_assert(!lane_turn_has_work(lane));
    may_claim = true;
    EXPECT("claim", TAKEN(FRESH("2", "m-2"), 1));
    turn();
    ck_assert_uint_eq(submitted_count, 1);
}
END_TEST

START_TEST(a_message_without_rows_is_dead)
{
    arrive("m-1", 1);
    arrive("m-2", 2);
    EXPECT("claim", TAKEN(FRESH("2", "m-2"), 1));
    turn();
    expect_acks("dead_letter:1");
    ck_assert_uint_eq(submitted_count, 1);
}
END_TEST

START_TEST(a_claim_that_fails_is_tried_again)
{
    arrive("m-1", 1);
    EXPECT("claim", .error = FAKE_DEADLOCK);
    EXPECT("recipient_lock", .rows = FRESH("1", "m-1"));
    EXPECT("claim_update", .error = FAKE_DEADLOCK);
    turn();
    ck_assert_uint_eq(submitted_count, 0);
    ck_assert_uint_eq(lane->arrived_count, 1);
    ck_assert_str_eq(fake_db_ran(),
                     "begin claim rollback begin recipient_lock claim_update rollback");
    EXPECT("claim", TAKEN(FRESH("1", "m-1"), 1));
    turn();
    ck_assert_uint_eq(submitted_count, 1);
    ck_assert(!submitted[0]->any);
}
END_TEST

START_TEST(a_claim_whose_commit_was_lost_is_found_as_ours)
{
    arrive("m-1", 1);
    EXPECT("claim", .error = FAKE_LOST);
    turn();
    ck_assert_uint_eq(submitted_count, 0);
    EXPECT("claim", .error = FAKE_NULL);
    EXPECT("recipient_lock", .rows = "1|m-1|0912|0|sending|1|0|5|7|10||20|5");
    EXPECT("claim_update", .has = {"('sending')"}, .affected = 1);
    EXPECT("commit");
    turn();
    ck_assert_uint_eq(submitted_count, 1);
    ck_assert(submitted[0]->any); /* its operators are asked first */
    ck_assert_uint_eq(submitted[0]->attempt, 2);
}
END_TEST

/* Of m-1 one row is free and another has killed its consumers: nothing of it is claimed. m-2 is. */
START_TEST(a_message_that_is_given_up_is_not_claimed_by_halves)
{
    arrive("m-1", 1);
    arrive("m-2", 2);
    EXPECT("claim", .error = FAKE_NULL);
    EXPECT("recipient_lock",
           .rows = FRESH("1", "m-1") "\n2|m-1|0913|1|sending|6|5|9|7|10||0|0\n" FRESH("3", "m-2"));
    EXPECT("claim_owners", .has = {"IN (9)"}, .rows = "9|60000");
    EXPECT("claim_update", .has = {"('pending')", "IN (3)"}, .affected = 1);
    EXPECT("commit");
    turn();
    expect_acks("dead_letter:1");
    ck_assert_uint_eq(submitted_count, 1);
    ck_assert_uint_eq(submitted[0]->status_id, 3);
}
END_TEST

/* ... and one is in the hands of somebody who lives: the rest is ours, that one is put off. */
START_TEST(what_is_free_of_a_message_is_claimed_and_the_rest_put_off)
{
    arrive("m-1", 1);
    EXPECT("claim", .error = FAKE_NULL);
    EXPECT("recipient_lock", .rows = FRESH("1", "m-1") "\n2|m-1|0913|1|sending|6|0|9|7|10||0|0");
    EXPECT("claim_owners", .rows = "9|100");
    EXPECT("retry_lock_messages", .rows = "m-1|0");
    EXPECT("retry_count");
    EXPECT("retry_insert_outbox", .has = {"\"recipients\":[\"0913\"]"});
    EXPECT("claim_update", .has = {"IN (1)"}, .affected = 1);
    EXPECT("commit");
    turn();
    ck_assert_uint_eq(submitted_count, 1);
}
END_TEST

/* It is known to be no plain case: one try is saved. */
START_TEST(what_is_delivered_again_is_looked_at_first)
{
    arrive("m-1", 1);
    TAILQ_FIRST(&lane->arrived)->redelivered = true;
    EXPECT("recipient_lock", .rows = FRESH("1", "m-1"));
    EXPECT("claim_update", .has = {"owner=5", "IN (1)"}, .affected = 1);
    EXPECT("commit");
    turn();
    ck_assert_uint_eq(submitted_count, 1);
}
END_TEST

START_TEST(one_message_that_cannot_be_claimed_is_given_up_alone)
{
    arrive("m-1", 1);
    arrive("m-2", 2);
    EXPECT("claim", .error = FAKE_NULL);
    EXPECT("recipient_lock", .rows = FRESH("1", "m-1") "\n" FRESH("2", "m-2"));
    EXPECT("claim_update", .affected = 1); /* a row that changed under its lock */
    turn();
    EXPECT("claim", .has = {"('m-1')"}, .error = FAKE_OUT_OF_RANGE);
    EXPECT("recipient_lock", .has = {"('m-1')"}, .rows = FRESH("1", "m-1"));
    EXPECT("claim_update", .affected = 0);
    turn();
    expect_acks("dead_letter:1");
    EXPECT("claim", .has = {"('m-2')"}, TAKEN(FRESH("2", "m-2"), 1));
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
    lane_settle_collect(lane);
    EXPECT("settle_done", .error = FAKE_DEADLOCK);
    lane_turn_work(lane);
    ck_assert_uint_eq(lane->arrived_count, 1);
    EXPECT("settle_done", DONE(1));
    EXPECT("claim", TAKEN("1|m-1|0912|0|done|1|0|5|7|10||0|0", 0));
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
    EXPECT("settle_done", DONE(1));
    turn();
    ck_assert_str_eq(fake_broker_calls(), "open open ack:9");
}
END_TEST

/* ---- both ---- */

START_TEST(what_is_done_and_what_has_arrived_share_a_transaction)
{
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    arrive("m-2", 2);
    EXPECT("claim_and_settle", .has = {"IN (1) AND", "('m-2')"},
           .answers = {{"done-1", .affected = 1},
                       {"rows", .rows = FRESH("2", "m-2")},
                       {"taken", .affected = 1}});
    turn();
    ck_assert_str_eq(fake_db_ran(), "begin claim_and_settle");
    expect_acks("ack:1");
    ck_assert_uint_eq(submitted_count, 1);
    ck_assert_uint_eq(lane->hand.recipients, 1);
    ck_assert(!lane_turn_has_work(lane));
}
END_TEST

/* Either's trouble is not the other's. */
START_TEST(what_cannot_share_a_transaction_has_its_own)
{
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    arrive("m-2", 2);
    EXPECT("claim_and_settle", .error = FAKE_NULL);
    EXPECT("settle_done", DONE(1));
    EXPECT("claim", .error = FAKE_NULL);
    EXPECT("recipient_lock", .rows = "2|m-2|0912|0|sending|6|0|9|7|10||0|0");
    EXPECT("claim_owners", .rows = "9|60000");
    EXPECT("claim_update", .has = {"('sending')"}, .affected = 1);
    EXPECT("commit");
    turn();
    expect_acks("ack:1");
    ck_assert_uint_eq(submitted_count, 1);
}
END_TEST

START_TEST(a_deadlock_is_tried_again_in_two)
{
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    arrive("m-2", 2);
    EXPECT("claim_and_settle", .error = FAKE_DEADLOCK);
    EXPECT("settle_done", DONE(1));
    EXPECT("claim", TAKEN(FRESH("2", "m-2"), 1));
    turn();
    expect_acks("ack:1");
    ck_assert_uint_eq(submitted_count, 1);
}
END_TEST

/* All of it was done: what is done is found so, and the claim is ours as if it were taken over. */
START_TEST(a_shared_commit_that_was_lost_is_found_in_both)
{
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    arrive("m-2", 2);
    EXPECT("claim_and_settle", .error = FAKE_LOST);
    turn();
    ck_assert_str_eq(fake_broker_calls(), "open");
    ck_assert_uint_eq(submitted_count, 0);
    EXPECT("claim_and_settle", .error = FAKE_NULL);
    EXPECT("settle_done", DONE(0));
    EXPECT("settle_lock", .rows = "1|done|5|1");
    EXPECT("claim", .error = FAKE_NULL);
    EXPECT("recipient_lock", .rows = "2|m-2|0912|0|sending|1|0|5|7|10||20|5");
    EXPECT("claim_update", .has = {"takeovers+(1 AND owner<>5)"}, .affected = 1);
    EXPECT("commit");
    turn();
    expect_acks("ack:1");
    ck_assert_uint_eq(submitted_count, 1);
    ck_assert(submitted[0]->any);
}
END_TEST

/* The places of what is settled are free for what is claimed. */
START_TEST(a_full_hand_claims_what_it_settles)
{
    lane->recipients_max = 1;
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    arrive("m-2", 2);
    arrive("m-3", 3);
    EXPECT("claim_and_settle", .has = {"('m-2')"},
           .answers = {{"done-1", .affected = 1},
                       {"rows", .rows = FRESH("2", "m-2")},
                       {"taken", .affected = 1}});
    turn();
    ck_assert_uint_eq(lane->hand.recipients, 1);
    ck_assert_uint_eq(lane->arrived_count, 1);
}
END_TEST

/* ---- the pause ---- */

static void owe_time(void)
{
    lane->pace = (struct pace){.most_us = 60000, .paid_until_us = clock_mono_us() + 1000000000};
}

START_TEST(a_busy_lane_pauses_when_nothing_is_left)
{
    owe_time();
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    EXPECT("settle_done", DONE(1));
    turn();
    ck_assert_int_gt(lane->next_turn_at_us, clock_mono_us());
    ck_assert_int_le(lane->next_turn_at_us, clock_mono_us() + 60000);
    turn(); /* that began early, and has found nothing */
    ck_assert_int_eq(lane->next_turn_at_us, 0);
}
END_TEST

START_TEST(a_busy_lane_goes_on_with_what_is_left)
{
    owe_time();
    lane->claim_limit = 1;
    arrive("m-1", 1);
    arrive("m-2", 2);
    EXPECT("claim", .has = {"('m-1')"}, TAKEN(FRESH("1", "m-1"), 1));
    turn();
    ck_assert_int_eq(lane->next_turn_at_us, 0);
}
END_TEST

/* What is in the queue costs no wake-up each, but enough of it is a turn. */
START_TEST(enough_that_has_come_back_ends_the_pause)
{
    lane->next_turn_at_us = clock_mono_us() + 60000000;
    lane->wake_count = 2;
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    finish(in_hand("m-2", 2), 2, JOB_DONE);
    lane_wait_for_something(lane);
    ck_assert_int_lt(clock_mono_us(), lane->next_turn_at_us - 50000000);
    EXPECT("settle_done", DONE(2));
    turn();
}
END_TEST

START_TEST(a_pause_takes_its_time)
{
    int64_t start_us = clock_mono_us();

    lane->next_turn_at_us = start_us + 20000;
    lane->wake_count = 2;
    job_queue_wake_at(queue, 2); /* as during the turn before */
    finish(in_hand("m-1", 1), 1, JOB_DONE);
    lane_wait_for_something(lane);
    ck_assert_int_ge(clock_mono_us() - start_us, 20000);
    EXPECT("settle_done", DONE(1));
    turn();
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
    tcase_add_test(t, a_message_without_rows_is_dead);
    tcase_add_test(t, a_claim_that_fails_is_tried_again);
    tcase_add_test(t, a_claim_whose_commit_was_lost_is_found_as_ours);
    tcase_add_test(t, a_message_that_is_given_up_is_not_claimed_by_halves);
    tcase_add_test(t, what_is_free_of_a_message_is_claimed_and_the_rest_put_off);
    tcase_add_test(t, what_is_delivered_again_is_looked_at_first);
    tcase_add_test(t, one_message_that_cannot_be_claimed_is_given_up_alone);
    tcase_add_test(t, a_message_that_comes_again_is_merged_with_what_is_in_hand);
    tcase_add_test(t, while_it_is_in_hand_the_new_delivery_is_the_one_to_acknowledge);
    suite_add_tcase(s, t);
    t = tcase_create("both");
    tcase_add_checked_fixture(t, make_lane, unmake_lane);
    tcase_add_test(t, what_is_done_and_what_has_arrived_share_a_transaction);
    tcase_add_test(t, what_cannot_share_a_transaction_has_its_own);
    tcase_add_test(t, a_deadlock_is_tried_again_in_two);
    tcase_add_test(t, a_shared_commit_that_was_lost_is_found_in_both);
    tcase_add_test(t, a_full_hand_claims_what_it_settles);
    suite_add_tcase(s, t);
    t = tcase_create("pause");
    tcase_add_checked_fixture(t, make_lane, unmake_lane);
    tcase_add_test(t, a_busy_lane_pauses_when_nothing_is_left);
    tcase_add_test(t, a_busy_lane_goes_on_with_what_is_left);
    tcase_add_test(t, enough_that_has_come_back_ends_the_pause);
    tcase_add_test(t, a_pause_takes_its_time);
    suite_add_tcase(s, t);
    return suite_run(s);
}
