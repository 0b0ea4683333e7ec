#include "consumerd/results.h"

#include <check.h>
#include <string.h>

#include "test/unit/consumerd/make.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

static struct settings settings;
static struct results results;
static struct inflight *one, *two;
static struct job *jobs[4];
static size_t n;

static void setup(void)
{
    fake_db_begin();
    results_register();
    make_settings(&settings);
    results = (struct results){fake_db_new(), &settings, make_operators};
    one = make_message("m-1", 1);
    two = make_message("m-2", 2);
    n = 0;
}

static void teardown(void)
{
    inflight_free(one);
    inflight_free(two);
    db_free(results.db);
    fake_db_end();
}

static struct job *take(struct inflight *m, uint64_t status_id, enum job_outcome outcome)
{
    return jobs[n++] = make_job(m, status_id, outcome);
}

static void expect_ours(bool a, bool b, bool c)
{
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(jobs[i]->ours == (jobs[i]->status_id == 1   ? a
                                        : jobs[i]->status_id == 2 ? b
                                                                  : c),
                      "row %d", (int)jobs[i]->status_id);
}

static void take_three(enum job_outcome outcome)
{
    take(two, 3, outcome);
    take(one, 1, outcome);
    take(one, 2, outcome);
}

/* ---- done ---- */

#define DONE(count) .answers = {{"done-1", .affected = (count)}}

START_TEST(what_is_done_is_written_with_who_has_it)
{
    struct err err;

    take_three(JOB_DONE);
    jobs[0]->op = 1;
    jobs[0]->unknown = 1;
    EXPECT("settle_done",
           .has = {"provider=CASE id WHEN 1 THEN 'alfa' WHEN 2 THEN 'alfa' WHEN 3 THEN 'beta' END",
                   "WHEN 1 THEN 'p-1' WHEN 2 THEN 'p-2' WHEN 3 THEN 'p-3' END",
                   "unknown_operators=CASE id WHEN 1 THEN '' WHEN 2 THEN '' WHEN 3 THEN 'alfa' END",
                   "WHERE id IN (1,2,3) AND status IN ('sending') AND attempt=1 AND owner=5"},
           DONE(3));
    ck_assert_int_eq(results_done(&results, MAKE_ME, jobs, n, NULL, &err), 0);
    expect_ours(true, true, true);
    ck_assert_str_eq(fake_db_ran(), "settle_done"); /* a statement is a transaction */
}
END_TEST

START_TEST(rows_that_were_taken_over_are_not_ours)
{
    struct err err;

    take_three(JOB_DONE);
    EXPECT("settle_done", DONE(1));
    EXPECT("settle_lock", .lacks = {"FOR UPDATE"}, .rows = "1|done|5|1\n2|sending|6|2\n3|done|6|2");
    ck_assert_int_eq(results_done(&results, MAKE_ME, jobs, n, NULL, &err), 0);
    expect_ours(true, false, false);
}
END_TEST

START_TEST(done_is_found_done_after_a_lost_commit)
{
    struct err err;

    take_three(JOB_DONE);
    EXPECT("settle_done", .error = FAKE_LOST);
    ck_assert_int_eq(results_done(&results, MAKE_ME, jobs, n, NULL, &err), -1);
    ck_assert_int_eq(err.kind, ERR_UNKNOWN);
    expect_ours(false, false, false); /* nobody knows yet */

    ck_assert_int_eq(db_acquire(results.db, &err), 0);
    EXPECT("settle_done", DONE(0));
    EXPECT("settle_lock", .rows = "1|done|5|1\n2|done|5|1\n3|done|5|1");
    ck_assert_int_eq(results_done(&results, MAKE_ME, jobs, n, NULL, &err), 0);
    expect_ours(true, true, true);
}
END_TEST

/* alfa gives receipts, beta does not. */
static void let_alfa_tell(void)
{
    static const char file[] =
        "[alfa]\nkind = native\nurl = http://a:1\nreceipt.format = json\n"
        "receipt.delivered = json:s == 1\nreceipt.undelivered = json:s == 2\n"
        "receipt.answer_id_form = hexadecimal\nreceipt.id_form = decimal\n"
        "receipt.from = 127.0.0.1\n[beta]\nkind = native\nurl = http://b:1\n";
    static const struct operator_reading how = {.parts = OPERATOR_SENDING};
    struct buf errors = {0};
    size_t faults = 0;

    settings.operators = operator_set_parse(file, strlen(file), "file", &how, &errors, &faults);
    ck_assert_msg(settings.operators != NULL, "%s", errors.data);
    settings.receipts.wait_hours = 72;
}

START_TEST(operators_that_may_have_it_and_tell_are_asked)
{
    struct err err;

    let_alfa_tell();
    take_three(JOB_DONE);
    strcpy(jobs[2]->provider_id, "0x1F");
    jobs[2]->parts = 2;
    jobs[0]->op = 1; /* row 3: beta has it, and perhaps alfa */
    jobs[0]->unknown = 1;
    jobs[1]->op = 1; /* row 1: beta alone */
    EXPECT("settle_done",
           .has = {"delivery=CASE id WHEN 1 THEN 0 WHEN 2 THEN 1 WHEN 3 THEN 1 END",
                   "INSERT INTO deliveries(status_id,operator,match_id,parts,look_at) VALUES "
                   "(2,'alfa','31',2,NOW(6)+INTERVAL 72 HOUR),"
                   "(3,'alfa','',1,NOW(6)+INTERVAL 72 HOUR) ON DUPLICATE"},
           DONE(3));
    ck_assert_int_eq(results_done(&results, MAKE_ME, jobs, n, NULL, &err), 0);
    operator_set_drop(settings.operators);
    settings.operators = NULL;
}
END_TEST

START_TEST(a_failure_leaves_no_transaction)
{
    struct err err;

    take_three(JOB_DONE);
    EXPECT("settle_done", .error = FAKE_DEADLOCK);
    ck_assert_int_eq(results_done(&results, MAKE_ME, jobs, n, NULL, &err), -1);
    ck_assert_int_eq(err.kind, ERR_RETRY);
    ck_assert_str_eq(fake_db_ran(), "settle_done rollback");
}
END_TEST

/* ---- the rest ---- */

#define LOCKED "1|sending|5|1\n2|sending|5|1\n3|sending|5|1"

static void expect_put_off(const char *messages)
{
    EXPECT("retry_lock_messages", .rows = messages);
    EXPECT("retry_count");
}

START_TEST(failed_and_put_off_in_one_transaction_in_the_order_of_locks)
{
    struct err err;

    take(two, 3, JOB_FAILED);
    take(one, 2, JOB_LATER);
    take(one, 1, JOB_LATER);
    EXPECT("settle_lock", .has = {"(1,2,3)"}, .rows = LOCKED);
    EXPECT("settle_later", .has = {"[1,1,\"HTTP 503\"", "[2,1,"}, .lacks = {"[3,"}, .affected = 2);
    expect_put_off("m-1|0");
    EXPECT("retry_insert_outbox", .has = {"\"recipients\":[\"091\",\"092\"]", "INTERVAL"},
           .lacks = {"m-2"});
    EXPECT("settle_failed", .has = {"[[3,1,\"HTTP 503\",\"\"]]"}, .affected = 1);
    EXPECT("refund_lock_balances", .has = {"IN (7)"}, .rows = "7|0|0");
    EXPECT("refund", .has = {"(7,10,'refund'", "'r-m-2-2'"});
    EXPECT("refund", .has = {"balance+(10) WHERE user_id IN (7)"});
    EXPECT("commit");
    ck_assert_int_eq(results_not_done(&results, MAKE_ME, jobs, n, false, &err), 0);
    expect_ours(true, true, true);
    ck_assert_str_eq(fake_db_ran(),
                     "begin settle_lock settle_later retry_lock_messages retry_count "
                     "retry_insert_outbox settle_failed refund_lock_balances refund "
                     "refund commit");
}
END_TEST

START_TEST(what_is_lost_is_neither_sent_again_nor_refunded)
{
    struct err err;

    take(one, 1, JOB_LATER);
    take(one, 2, JOB_LATER);
    take(two, 3, JOB_FAILED);
    EXPECT("settle_lock", .rows = "1|sending|5|1\n2|sending|6|2\n3|sending|6|2");
    EXPECT("settle_later", .has = {"[[1,1,"}, .lacks = {"[2,"}, .affected = 1);
    expect_put_off("m-1|0");
    EXPECT("retry_insert_outbox", .has = {"\"recipients\":[\"091\"]"});
    EXPECT("commit");
    ck_assert_int_eq(results_not_done(&results, MAKE_ME, jobs, n, false, &err), 0);
    expect_ours(true, false, false);
}
END_TEST

START_TEST(the_rest_is_found_written_after_a_lost_commit)
{
    struct err err;

    take(one, 1, JOB_LATER);
    take(two, 3, JOB_FAILED);
    EXPECT("settle_lock", .rows = "1|pending|0|1\n3|failed|0|1");
    EXPECT("commit");
    ck_assert_int_eq(results_not_done(&results, MAKE_ME, jobs, n, false, &err), 0);
    expect_ours(true, true, true);
    ck_assert_str_eq(fake_db_ran(),
                     "begin settle_lock commit"); /* no second row, no second refund */
}
END_TEST

START_TEST(a_message_without_its_row_cannot_be_put_off)
{
    struct err err;

    take(one, 1, JOB_LATER);
    take(two, 2, JOB_LATER);
    EXPECT("settle_lock", .rows = LOCKED);
    EXPECT("settle_later", .affected = 2);
    expect_put_off("m-2|0");
    EXPECT("retry_insert_outbox", .has = {"'m-2'"}, .lacks = {"'m-1'"});
    EXPECT("commit");
    ck_assert_int_eq(results_not_done(&results, MAKE_ME, jobs, n, false, &err), 0);
    ck_assert(one->unwritable && !two->unwritable);
}
END_TEST

/* This process ends: another shall go on, but only when a call that was given up cannot arrive any
 * more. */
START_TEST(at_once_means_now_but_for_unknown_outcomes)
{
    struct err err;

    take(one, 1, JOB_LATER);
    take(two, 2, JOB_LATER)->unknown = 2;
    EXPECT("settle_lock", .rows = LOCKED);
    EXPECT("settle_later", .has = {"[1,1,\"HTTP 503\",\"\"]", "[2,1,\"HTTP 503\",\"beta\"]"},
           .affected = 2);
    expect_put_off("m-1|0\nm-2|0");
    EXPECT("retry_insert_outbox", .has = {",0,NULL),(", "INTERVAL 2000000 MICROSECOND)"});
    EXPECT("commit");
    ck_assert_int_eq(results_not_done(&results, MAKE_ME, jobs, n, true, &err), 0);
}
END_TEST

START_TEST(what_is_held_comes_back_to_be_asked_about)
{
    struct err err;
    struct job *held = take(one, 1, JOB_HELD);

    held->unknown = 2;
    held->gone = strdup("old");
    take(two, 2, JOB_HELD)->unknown = 1;
    take(two, 3, JOB_LATER);
    EXPECT("settle_lock", .rows = LOCKED);
    EXPECT("settle_later",
           .has = {"[1,1,\"HTTP 503\",\"beta,old\"]", "[2,1,\"HTTP 503\",\"alfa\"]"},
           .affected = 3);
    expect_put_off("m-1|0\nm-2|0");
    EXPECT("retry_insert_outbox", .has = {"(2,'message','m-1',", "(1,'message','m-2',"});
    EXPECT("commit");
    ck_assert_int_eq(results_not_done(&results, MAKE_ME, jobs, n, false, &err), 0);
    expect_ours(true, true, true);
}
END_TEST

/* What is noted on the row was left by a submission: a later round that only asked does not hide
 * what that one said. */
START_TEST(the_error_of_the_call_that_is_in_doubt_stays)
{
    struct err err;
    struct job *asked = take(one, 1, JOB_HELD);
    struct job *submitted = take(two, 2, JOB_LATER);

    asked->unknown = submitted->unknown = 1;
    asked->noted = submitted->noted = true;
    asked->error_is_minor = true;
    EXPECT("settle_lock", .rows = LOCKED);
    EXPECT("settle_later",
           .has = {"[1,1,null,\"alfa\"]", "[2,1,\"HTTP 503\",", "COALESCE(j.reason"},
           .affected = 2);
    expect_put_off("m-1|0\nm-2|0");
    EXPECT("retry_insert_outbox");
    EXPECT("commit");
    ck_assert_int_eq(results_not_done(&results, MAKE_ME, jobs, n, false, &err), 0);
}
END_TEST

/* An operator whose lookup settles late is not asked before it has. */
START_TEST(what_is_in_doubt_waits_for_the_lookup_to_settle)
{
    struct err err;

    settings.consumer.lookup_settles_ms = 50000;
    take(one, 1, JOB_LATER)->unknown = 1;
    jobs[0]->give_up_at_ms = 0;
    EXPECT("settle_lock", .rows = LOCKED);
    EXPECT("settle_later", .affected = 1);
    expect_put_off("m-1|0");
    EXPECT("retry_insert_outbox", .has = {"INTERVAL 50000000 MICROSECOND)"});
    EXPECT("commit");
    ck_assert_int_eq(results_not_done(&results, MAKE_ME, jobs, n, false, &err), 0);
}
END_TEST

START_TEST(a_second_refund_undoes_everything)
{
    struct err err;

    take(one, 1, JOB_LATER);
    take(two, 3, JOB_FAILED);
    EXPECT("settle_lock", .rows = LOCKED);
    EXPECT("settle_later", .affected = 1);
    expect_put_off("m-1|0");
    EXPECT("retry_insert_outbox");
    EXPECT("settle_failed", .affected = 1);
    EXPECT("refund_lock_balances", .rows = "7|0|0");
    EXPECT("refund", .error = FAKE_DUPLICATE);
    ck_assert_int_eq(results_not_done(&results, MAKE_ME, jobs, n, false, &err), -1);
    ck_assert_int_eq(err.kind, ERR_BUG);
    ck_assert_ptr_nonnull(strstr(fake_db_ran(), "refund rollback"));
    expect_ours(false, false, false);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("results");
    TCase *t = tcase_create("done");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, what_is_done_is_written_with_who_has_it);
    tcase_add_test(t, rows_that_were_taken_over_are_not_ours);
    tcase_add_test(t, done_is_found_done_after_a_lost_commit);
    tcase_add_test(t, operators_that_may_have_it_and_tell_are_asked);
    tcase_add_test(t, a_failure_leaves_no_transaction);
    suite_add_tcase(s, t);
    t = tcase_create("rest");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, failed_and_put_off_in_one_transaction_in_the_order_of_locks);
    tcase_add_test(t, what_is_lost_is_neither_sent_again_nor_refunded);
    tcase_add_test(t, the_rest_is_found_written_after_a_lost_commit);
    tcase_add_test(t, a_message_without_its_row_cannot_be_put_off);
    tcase_add_test(t, at_once_means_now_but_for_unknown_outcomes);
    tcase_add_test(t, what_is_held_comes_back_to_be_asked_about);
    tcase_add_test(t, the_error_of_the_call_that_is_in_doubt_stays);
    tcase_add_test(t, what_is_in_doubt_waits_for_the_lookup_to_settle);
    tcase_add_test(t, a_second_refund_undoes_everything);
    suite_add_tcase(s, t);
    return suite_run(s);
}
