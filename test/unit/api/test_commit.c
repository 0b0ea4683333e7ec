#include "api/commit.h"

#include <check.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>

#include "api/settings.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/pause.h"
#include "libcommon/daemon/failpoint.h"
#include "test/unit/api/make.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

/*
 * One committer thread at a scripted database. So that several requests come into one batch, the
 * first of a test is held in its transaction until the others wait (open_batch).
 */

#define OPS 6
#define PATIENCE_SEC 20

static struct commit *commit;
static struct operation *ops[OPS];
static size_t n;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t answered_one;
static size_t answered;      /* under lock */
static size_t answered_then; /* as many were answered when count_answers was called */
static sem_t held, go_on;
static struct operation *expired; /* its deadline comes at the next stage */

static void answer(struct operation *op)
{
    (void)op;
    pthread_mutex_lock(&lock);
    answered++;
    pthread_cond_signal(&answered_one);
    pthread_mutex_unlock(&lock);
}

static bool enter(struct operation *op, enum operation_stage stage)
{
    (void)stage;
    return op != expired;
}

static void wait_for_answers(void)
{
    struct timespec until = pause_until(PATIENCE_SEC * 1000);

    pthread_mutex_lock(&lock);
    while (answered < n)
        if (pthread_cond_timedwait(&answered_one, &lock, &until))
            break;
    pthread_mutex_unlock(&lock);
    ck_assert_uint_eq(answered, n);
}

/* As part of the script. */
static void hold(void)
{
    sem_post(&held);
    sem_wait(&go_on);
}

static void count_answers(void)
{
    pthread_mutex_lock(&lock);
    answered_then = answered;
    pthread_mutex_unlock(&lock);
}

static void setup(void)
{
    static char name[] = "a_name";

    fake_db_begin();
    api_settings.broker.exchange = name;
    for (int i = 0; i < MESSAGE_LANES; i++)
        api_settings.broker.queues[i] = name;
    api_settings.committers = 1;
    api_settings.commit_beside_rows = api_settings.commit_max_rows = 1000;
    api_settings.commit_max_bytes = api_settings.commit_queue_bytes = 1 << 20;
    api_settings.commit_queue_max = OPS;
    api_settings.request_deadline_ms = PATIENCE_SEC * 1000;
    pause_cond_init(&answered_one);
    sem_init(&held, 0, 0);
    sem_init(&go_on, 0, 0);
    n = answered = answered_then = 0;
    expired = NULL;
}

static void teardown(void)
{
    commit_stop(commit);
    failpoint_arm("");
    for (size_t i = 0; i < n; i++)
        operation_free(ops[i]);
    sem_destroy(&held);
    sem_destroy(&go_on);
    pthread_cond_destroy(&answered_one);
    fake_db_end();
}

/* Of customer n + 1: the first is customer 1. */
static void submit(int64_t deadline_ms)
{
    ops[n] = make_send((int)n + 1, "hello");
    ops[n]->deadline_ms = deadline_ms;
    ck_assert(commit_submit(commit, ops[n++]));
}

static int64_t some_day(void)
{
    return clock_mono_ms() + PATIENCE_SEC * 1000;
}

#define PAST 1

/* As part of the script: on the committer's thread, like whoever looks at it next. */
static void time_passes(void)
{
    for (size_t i = 0; i < n; i++)
        ops[i]->deadline_ms = PAST;
}

static void time_passes_for_the_last(void)
{
    ops[n - 1]->deadline_ms = PAST;
}

static void second_expires(void)
{
    expired = ops[1];
}

static void start_with_one(int64_t deadline_ms)
{
    commit = commit_start(answer, enter);
    submit(deadline_ms);
}

/* Everything submitted until close_batch is one batch, behind the opener's own. */
static void open_batch(void)
{
    EXPECT("commit_lock", .meanwhile = hold, .answers = {{.name = "balances", .rows = "1|20|0"}});
    EXPECT("commit_write");
    start_with_one(some_day());
    sem_wait(&held);
}

static void close_batch(void)
{
    sem_post(&go_on);
    wait_for_answers();
}

static void expect_lock(const char *has, const char *rows)
{
    EXPECT("commit_lock", .has = {has}, .lacks = {"SKIP LOCKED"},
           .answers = {{.name = "balances", .rows = rows}});
}

START_TEST(a_deadlock_is_tried_again_at_once)
{
    EXPECT("commit_lock", .error = FAKE_DEADLOCK);
    expect_lock("IN (1)", "1|20|0");
    EXPECT("commit_write", .error = FAKE_DEADLOCK);
    expect_lock("IN (1)", "1|20|0");
    EXPECT("commit_write");
    start_with_one(some_day());
    wait_for_answers();
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
    ck_assert_str_eq(fake_db_ran(), "begin commit_lock rollback begin commit_lock commit_write "
                                    "rollback begin commit_lock commit_write");
}
END_TEST

START_TEST(a_server_that_has_become_read_only_is_left_for_another)
{
    expect_lock("IN (1)", "1|20|0");
    EXPECT("commit_write", .error = FAKE_READ_ONLY);
    expect_lock("IN (1)", "1|20|0");
    EXPECT("commit_write");
    start_with_one(some_day());
    wait_for_answers();
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
}
END_TEST

START_TEST(nobody_waits_while_there_is_only_a_read_only_server)
{
    open_batch();
    submit(some_day());
    submit(some_day());
    expect_lock("IN (2,3)", "2|20|0\n3|20|0");
    EXPECT("commit_write", .error = FAKE_READ_ONLY);
    EXPECT("acquire", .error = FAKE_READ_ONLY);
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_UNAVAILABLE);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_UNAVAILABLE);
}
END_TEST

START_TEST(one_bad_request_does_not_take_its_neighbours_along)
{
    open_batch();
    for (int i = 0; i < 4; i++)
        submit(some_day());
    expect_lock("IN (2,3,4,5)", "2|20|0\n3|20|0\n4|20|0\n5|20|0");
    EXPECT("commit_write", .error = FAKE_OUT_OF_RANGE);
    expect_lock("IN (2,3)", "2|20|0\n3|20|0");
    EXPECT("commit_write", .has = {ops[1]->message.id, ops[2]->message.id});
    expect_lock("IN (4,5)", "4|20|0\n5|20|0");
    EXPECT("commit_write", .error = FAKE_OUT_OF_RANGE);
    expect_lock("IN (4)", "4|20|0");
    EXPECT("commit_write", .error = FAKE_OUT_OF_RANGE);
    expect_lock("IN (5)", "5|20|0");
    EXPECT("commit_write", .has = {ops[4]->message.id});
    close_batch();
    for (size_t i = 0; i < 5; i++)
        ck_assert_int_eq(ops[i]->outcome, i == 3 ? OUTCOME_INTERNAL : OUTCOME_DONE);
}
END_TEST

static void let_one_through(void)
{
    fake_db_set_packet_max(strlen(fake_db_sql("commit_write")) * 3 / 2);
}

static void let_none_through(void)
{
    fake_db_set_packet_max(strlen(fake_db_sql("commit_lock")) * 2);
}

START_TEST(a_packet_that_is_too_large_is_split)
{
    open_batch();
    submit(some_day());
    submit(some_day());
    EXPECT("commit_lock", .has = {"IN (2,3)"}, .meanwhile = let_one_through,
           .answers = {{.name = "balances", .rows = "2|20|0\n3|20|0"}});
    expect_lock("IN (2)", "2|20|0");
    EXPECT("commit_write", .has = {ops[1]->message.id});
    expect_lock("IN (3)", "3|20|0");
    EXPECT("commit_write", .has = {ops[2]->message.id});
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_DONE);
    ck_assert_ptr_nonnull(strstr(fake_db_ran(), "commit_lock too_large rollback begin"));
}
END_TEST

START_TEST(a_send_that_no_packet_holds_is_refused)
{
    EXPECT("commit_lock", .meanwhile = let_none_through,
           .answers = {{.name = "balances", .rows = "1|20|0"}});
    start_with_one(some_day());
    wait_for_answers();
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_TOO_LARGE);
    ck_assert_str_eq(fake_db_ran(), "begin commit_lock too_large rollback");
}
END_TEST

START_TEST(refusals_write_nothing)
{
    expect_lock("IN (1)", "1|19|0");
    start_with_one(some_day());
    wait_for_answers();
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_INSUFFICIENT);
    ck_assert_str_eq(fake_db_ran(), "begin commit_lock rollback");
}
END_TEST

START_TEST(a_lost_commit_is_looked_up_before_anything_is_answered)
{
    open_batch();
    submit(some_day());
    submit(some_day());
    expect_lock("IN (2,3)", "2|20|0\n3|0|0");
    EXPECT("commit_write", .error = FAKE_LOST);
    EXPECT("ledger_look", .error = FAKE_LOCK_WAIT); /* the lost session still holds it */
    EXPECT("ledger_look", .has = {ops[1]->message.transaction_id}, .meanwhile = count_answers,
           .answers = {{.name = "entry", .rows = "1"}});
    close_batch();
    ck_assert_uint_eq(answered_then, 1); /* the opener */
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_INSUFFICIENT);
    ck_assert_ptr_nonnull(strstr(fake_db_ran(), "commit_write end_lost_session begin ledger_look "
                                                "rollback begin ledger_look rollback"));
}
END_TEST

START_TEST(a_commit_that_did_not_take_place_is_done_again)
{
    expect_lock("IN (1)", "1|20|0");
    EXPECT("commit_write", .error = FAKE_LOST);
    EXPECT("ledger_look", .answers = {{.name = "entry", .rows = ""}});
    expect_lock("IN (1)", "1|20|0");
    EXPECT("commit_write");
    start_with_one(some_day());
    wait_for_answers();
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
}
END_TEST

START_TEST(what_cannot_be_found_out_by_the_deadline_is_unknown)
{
    open_batch();
    submit(some_day());
    submit(some_day());
    expect_lock("IN (2,3)", "2|20|0\n3|0|0");
    EXPECT("commit_write", .error = FAKE_LOST, .meanwhile = time_passes);
    EXPECT("end_lost_session", .error = FAKE_READ_ONLY);
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_UNKNOWN);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_INSUFFICIENT); /* known all the same */
}
END_TEST

START_TEST(an_outage_ends_what_has_passed_its_deadline_and_nothing_else)
{
    open_batch();
    submit(some_day());
    submit(some_day());
    EXPECT("commit_lock", .error = FAKE_READ_ONLY, .meanwhile = time_passes_for_the_last);
    EXPECT("acquire", .error = FAKE_AWAY);
    expect_lock("IN (2)", "2|20|0");
    EXPECT("commit_write");
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_TOO_LATE);
}
END_TEST

START_TEST(what_has_waited_past_its_deadline_is_not_begun)
{
    open_batch();
    submit(PAST);
    submit(some_day());
    expect_lock("IN (3)", "3|20|0");
    EXPECT("commit_write", .lacks = {ops[1]->message.id});
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_TOO_LATE);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_DONE);
}
END_TEST

START_TEST(what_was_answered_at_its_deadline_is_not_written)
{
    open_batch();
    submit(some_day());
    submit(some_day());
    EXPECT("commit_lock", .has = {"IN (2,3)"}, .meanwhile = second_expires,
           .answers = {{.name = "balances", .rows = "2|20|0\n3|20|0"}});
    EXPECT("commit_write", .has = {ops[2]->message.id}, .lacks = {ops[1]->message.id});
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_EXPIRED);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_DONE);
}
END_TEST

/* Its client was told that the outcome is not known: it is, and nothing may make it true later. */
START_TEST(what_was_answered_while_it_was_written_is_not_written_again)
{
    open_batch();
    submit(some_day());
    submit(some_day());
    expect_lock("IN (2,3)", "2|20|0\n3|20|0");
    EXPECT("commit_write", .error = FAKE_DEADLOCK, .meanwhile = second_expires);
    expect_lock("IN (3)", "3|20|0");
    EXPECT("commit_write", .error = FAKE_LOST, .lacks = {ops[1]->message.id});
    EXPECT("ledger_look", .answers = {{.name = "entry", .rows = ""}});
    expect_lock("IN (3)", "3|20|0");
    EXPECT("commit_write");
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_EXPIRED);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_DONE);
}
END_TEST

START_TEST(who_is_left_of_a_batch_that_fails_is_tried_alone)
{
    open_batch();
    submit(some_day());
    submit(some_day());
    expect_lock("IN (2,3)", "2|20|0\n3|20|0");
    EXPECT("commit_write", .error = FAKE_SYNTAX, .meanwhile = second_expires);
    expect_lock("IN (3)", "3|20|0");
    EXPECT("commit_write", .lacks = {ops[1]->message.id});
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_EXPIRED);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_DONE);
}
END_TEST

START_TEST(a_commit_that_did_not_take_place_is_not_done_again_for_who_has_left)
{
    open_batch();
    submit(some_day());
    expect_lock("IN (2)", "2|20|0");
    EXPECT("commit_write", .error = FAKE_LOST, .meanwhile = second_expires);
    EXPECT("ledger_look", .answers = {{.name = "entry", .rows = ""}});
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_EXPIRED);
}
END_TEST

START_TEST(whose_balance_is_held_is_set_aside_and_tried_again)
{
    open_batch();
    submit(some_day());
    submit(some_day());
    submit(some_day());
    EXPECT("commit_lock", .error = FAKE_LOCK_WAIT, .meanwhile = time_passes_for_the_last);
    EXPECT("commit_lock", .has = {"IN (2,3)", "SKIP LOCKED"}, /* 4 has expired */
           .answers = {{.name = "balances", .rows = "2|20|0"}});
    EXPECT("ledger_find_elsewhere", .rows = "3");
    EXPECT("commit_write", .lacks = {ops[2]->message.id});
    EXPECT("commit_lock", .has = {"IN (3)", "SKIP LOCKED"}, .meanwhile = count_answers,
           .answers = {{.name = "balances", .rows = "3|20|0"}});
    EXPECT("commit_write", .has = {ops[2]->message.id});
    close_batch();
    ck_assert_uint_eq(answered_then, 3); /* all but the one that was held */
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[3]->outcome, OUTCOME_TOO_LATE);
}
END_TEST

START_TEST(a_balance_that_stays_held_is_waited_for_until_the_deadline)
{
    EXPECT("commit_lock", .error = FAKE_LOCK_WAIT); /* from now on nobody waits for a row */
    open_batch();
    submit(some_day());
    EXPECT("commit_lock", .has = {"IN (2)", "SKIP LOCKED"},
           .answers = {{.name = "balances", .rows = ""}});
    EXPECT("ledger_find_elsewhere", .rows = "2", .meanwhile = time_passes);
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_LOCKED_TOO_LONG);
}
END_TEST

START_TEST(a_full_queue_takes_no_more)
{
    struct operation *more = make_send(9, "one too many");

    api_settings.commit_queue_max = 2;
    open_batch();
    submit(some_day());
    submit(some_day());
    ck_assert(!commit_submit(commit, more));
    operation_free(more); /* it is still ours */
    expect_lock("IN (2,3)", "2|0|0\n3|0|0");
    close_batch();
}
END_TEST

/* ---- one packet ---- */

static void setup_blocks(void)
{
    setup();
    fake_db_set_takes_blocks(true);
}

static void open_batch_of_blocks(void)
{
    EXPECT("commit_accept", .meanwhile = hold);
    start_with_one(some_day());
    sem_wait(&held);
}

#define REFUSED .rows = "1"

START_TEST(a_refusal_is_decided_by_two_packets_and_its_neighbours_are_written)
{
    open_batch_of_blocks();
    submit(some_day());
    submit(some_day());
    EXPECT("commit_accept", .has = {"IN (2,3)"}, REFUSED);
    expect_lock("IN (2,3)", "2|20|0\n3|19|0");
    EXPECT("commit_write", .has = {ops[1]->message.id}, .lacks = {ops[2]->message.id});
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_INSUFFICIENT);
    ck_assert_str_eq(fake_db_ran(), "commit_accept commit_accept begin commit_lock commit_write");
}
END_TEST

START_TEST(what_was_answered_while_it_was_refused_is_not_written)
{
    open_batch_of_blocks();
    submit(some_day());
    submit(some_day());
    EXPECT("commit_accept", .meanwhile = second_expires, REFUSED);
    expect_lock("IN (3)", "3|20|0");
    EXPECT("commit_write", .lacks = {ops[1]->message.id});
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_EXPIRED);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_DONE);
}
END_TEST

START_TEST(a_deadlock_of_the_one_packet_is_tried_again_at_once)
{
    EXPECT("commit_accept", .error = FAKE_DEADLOCK);
    EXPECT("commit_accept");
    start_with_one(some_day());
    wait_for_answers();
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
    ck_assert_str_eq(fake_db_ran(), "commit_accept rollback commit_accept");
}
END_TEST

START_TEST(behind_a_held_row_the_one_packet_is_given_up)
{
    EXPECT("commit_accept", .error = FAKE_LOCK_WAIT);
    EXPECT("commit_lock", .has = {"SKIP LOCKED"},
           .answers = {{.name = "balances", .rows = "1|20|0"}});
    EXPECT("commit_write");
    start_with_one(some_day());
    wait_for_answers();
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
}
END_TEST

START_TEST(the_lost_answer_of_the_one_packet_is_looked_up_before_anything_is_answered)
{
    open_batch_of_blocks();
    submit(some_day());
    EXPECT("commit_accept", .error = FAKE_LOST);
    EXPECT("ledger_look", .meanwhile = count_answers, .answers = {{.name = "entry", .rows = "1"}});
    close_batch();
    ck_assert_uint_eq(answered_then, 1); /* the opener */
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
}
END_TEST

/* It may not even have begun, and hold no lock that the look waits behind. */
START_TEST(the_session_of_a_lost_packet_has_ended_before_the_look_whatever_is_lost_meanwhile)
{
    EXPECT("commit_accept", .error = FAKE_LOST);
    EXPECT("end_lost_session", .has = {"session 1"}, .error = FAKE_LOST);
    EXPECT("end_lost_session", .has = {"session 1"});
    EXPECT("ledger_look", .error = FAKE_LOST);
    EXPECT("ledger_look", .answers = {{.name = "entry", .rows = "1"}});
    start_with_one(some_day());
    wait_for_answers();
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
}
END_TEST

/* The one packet of n sends, and the look for it that has found nothing. */
static void look_in_vain_for(size_t sends)
{
    open_batch_of_blocks();
    for (size_t i = 0; i < sends; i++)
        submit(some_day());
    EXPECT("commit_accept", .error = FAKE_LOST);
    EXPECT("ledger_look", .answers = {{.name = "entry", .rows = ""}});
}

START_TEST(what_was_looked_up_in_vain_is_looked_for_again_behind_its_lock)
{
    look_in_vain_for(2);
    EXPECT("commit_lock", .has = {ops[1]->message.transaction_id, ops[2]->message.transaction_id},
           .answers = {{.name = "balances", .rows = "2|20|0\n3|20|0"},
                       {.name = "written", .rows = ""}});
    EXPECT("commit_write", .has = {ops[1]->message.id, ops[2]->message.id});
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_DONE);
}
END_TEST

/* Its charge has left nothing: it must not be refused for that. */
START_TEST(what_has_committed_after_all_is_neither_written_again_nor_refused)
{
    look_in_vain_for(1);
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "2|0|0"},
                                      {.name = "written", .rows = ops[1]->message.transaction_id}});
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
    ck_assert_ptr_nonnull(strstr(ops[1]->response.data, ops[1]->message.id));
}
END_TEST

/* The neighbour's time is up while it is rolled back, or while its own answer is lost: its first
 * try may yet turn up. */
START_TEST(what_has_committed_after_all_is_answered_whatever_becomes_of_its_neighbours)
{
    static const unsigned errors[] = {FAKE_DEADLOCK, FAKE_LOST};

    look_in_vain_for(2);
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "2|0|0\n3|20|0"},
                                      {.name = "written", .rows = ops[1]->message.transaction_id}});
    EXPECT("commit_write", .lacks = {ops[1]->message.id}, .error = errors[_i],
           .meanwhile = time_passes);
    if (errors[_i] == FAKE_LOST)
        EXPECT("ledger_look", .error = FAKE_LOST);
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_UNKNOWN);
}
END_TEST

START_TEST(a_packet_of_nobody_has_no_answer_to_be_lost)
{
    open_batch_of_blocks();
    submit(some_day());
    expired = ops[1];
    failpoint_arm("api.after_commit:error:every=2"); /* the opener has passed there */
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_EXPIRED);
}
END_TEST

START_TEST(one_bad_send_does_not_take_the_neighbours_of_its_packet_along)
{
    open_batch_of_blocks();
    submit(some_day());
    submit(some_day());
    EXPECT("commit_accept", .error = FAKE_OUT_OF_RANGE);
    EXPECT("commit_accept", .has = {ops[1]->message.id}, .error = FAKE_OUT_OF_RANGE);
    EXPECT("commit_accept", .has = {ops[2]->message.id});
    close_batch();
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_INTERNAL);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_DONE);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("commit");
    TCase *t = tcase_create("batches");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 2 * PATIENCE_SEC);
    tcase_add_test(t, a_deadlock_is_tried_again_at_once);
    tcase_add_test(t, a_server_that_has_become_read_only_is_left_for_another);
    tcase_add_test(t, nobody_waits_while_there_is_only_a_read_only_server);
    tcase_add_test(t, one_bad_request_does_not_take_its_neighbours_along);
    tcase_add_test(t, a_packet_that_is_too_large_is_split);
    tcase_add_test(t, a_send_that_no_packet_holds_is_refused);
    tcase_add_test(t, refusals_write_nothing);
    tcase_add_test(t, a_lost_commit_is_looked_up_before_anything_is_answered);
    tcase_add_test(t, a_commit_that_did_not_take_place_is_done_again);
    tcase_add_test(t, what_cannot_be_found_out_by_the_deadline_is_unknown);
    tcase_add_test(t, an_outage_ends_what_has_passed_its_deadline_and_nothing_else);
    tcase_add_test(t, what_has_waited_past_its_deadline_is_not_begun);
    tcase_add_test(t, what_was_answered_at_its_deadline_is_not_written);
    tcase_add_test(t, what_was_answered_while_it_was_written_is_not_written_again);
    tcase_add_test(t, who_is_left_of_a_batch_that_fails_is_tried_alone);
    tcase_add_test(t, a_commit_that_did_not_take_place_is_not_done_again_for_who_has_left);
    tcase_add_test(t, whose_balance_is_held_is_set_aside_and_tried_again);
    tcase_add_test(t, a_balance_that_stays_held_is_waited_for_until_the_deadline);
    tcase_add_test(t, a_full_queue_takes_no_more);
    suite_add_tcase(s, t);
    t = tcase_create("one packet");
    tcase_add_checked_fixture(t, setup_blocks, teardown);
    tcase_set_timeout(t, 2 * PATIENCE_SEC);
    tcase_add_test(t, a_refusal_is_decided_by_two_packets_and_its_neighbours_are_written);
    tcase_add_test(t, what_was_answered_while_it_was_refused_is_not_written);
    tcase_add_test(t, a_deadlock_of_the_one_packet_is_tried_again_at_once);
    tcase_add_test(t, behind_a_held_row_the_one_packet_is_given_up);
    tcase_add_test(t, the_lost_answer_of_the_one_packet_is_looked_up_before_anything_is_answered);
    tcase_add_test(
        t, the_session_of_a_lost_packet_has_ended_before_the_look_whatever_is_lost_meanwhile);
    tcase_add_test(t, what_was_looked_up_in_vain_is_looked_for_again_behind_its_lock);
    tcase_add_test(t, what_has_committed_after_all_is_neither_written_again_nor_refused);
    tcase_add_loop_test(
        t, what_has_committed_after_all_is_answered_whatever_becomes_of_its_neighbours, 0, 2);
    tcase_add_test(t, a_packet_of_nobody_has_no_answer_to_be_lost);
    tcase_add_test(t, one_bad_send_does_not_take_the_neighbours_of_its_packet_along);
    suite_add_tcase(s, t);
    return suite_run(s);
}
