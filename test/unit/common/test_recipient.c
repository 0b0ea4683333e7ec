#include <check.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/domain/recipient.h"
#include "libcommon/domain/webhook_set.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

#define ME 7

START_TEST(states_parse_back_in_either_case)
{
    enum recipient_state state;

    for (int i = 0; i < RECIPIENT_STATES; i++) {
        ck_assert(recipient_state_parse(recipient_state_name((enum recipient_state)i), &state));
        ck_assert_int_eq(state, i);
    }
    ck_assert(recipient_state_parse("DONE", &state));
    ck_assert_int_eq(state, RECIPIENT_DONE);
    ck_assert(!recipient_state_parse("processing", &state));
    ck_assert(recipient_state_parse("moved", &state));
    ck_assert(!recipient_state_parse_shown("moved", &state));
    ck_assert_str_eq(recipient_state_shown("moved"), "pending");
    ck_assert_str_eq(recipient_state_shown("done"), "done");
    ck_assert_str_eq(recipient_state_shown("of a newer release"), "of a newer release");
}
END_TEST

/* What the audit adds up: every state is open, kept, refunded or away, and one of them only. */
START_TEST(every_state_is_in_one_set)
{
    for (int i = 0; i < RECIPIENT_STATES; i++) {
        enum recipient_state state = (enum recipient_state)i;
        static const enum recipient_set sets[] = {RECIPIENT_OPEN, RECIPIENT_KEPT,
                                                  RECIPIENT_REFUNDED, RECIPIENT_AWAY};
        int in = 0;

        for (int k = 0; k < 4; k++) {
            struct buf list = {0};

            recipient_put_states(&list, sets[k]);
            in += strstr(list.data, recipient_state_name(state)) != NULL;
            buf_free(&list);
        }
        ck_assert_int_eq(in, 1);
        ck_assert(!recipient_is_refunded(state) || recipient_is_final(state));
    }
}
END_TEST

START_TEST(a_template_gets_its_words)
{
    struct buf sql = {0};

    recipient_put_template(&sql, "a {open} b {refunded} {unknown} {");
    ck_assert_str_eq(sql.data, "a 'pending','sending' b 'failed' {unknown} {");
    buf_reset(&sql);
    recipient_put_sentence(&sql);
    ck_assert_str_eq(sql.data, "pending, sending, done or failed");
    buf_free(&sql);
}
END_TEST

START_TEST(a_row_is_pending_and_has_its_own_price)
{
    const char *numbers[] = {"111", "+222"};
    struct message m = {
        .customer_id = 7, .type = MESSAGE_EXPRESS, .recipients = numbers, .recipient_count = 2};
    struct buf sql = {0};

    strcpy(m.id, "m-1");
    recipient_put_row(&sql, &m, 1, 5);
    ck_assert_str_eq(sql.data, "(7,'pending','express','+222','m-1',1,5)");
    buf_free(&sql);
}
END_TEST

START_TEST(what_is_dropped_is_held_by_the_caller)
{
    struct recipient r = {.id = 9,
                          .state = RECIPIENT_SENDING,
                          .message_id = "m-1",
                          .user_id = 7,
                          .price = 3,
                          .position = 2,
                          .attempt = 4};
    struct recipient_change c = recipient_drop(&r, "why");

    ck_assert_int_eq(c.transition, RECIPIENT_DROP);
    ck_assert_int_eq(c.result, RECIPIENT_HELD);
    ck_assert_uint_eq(c.attempt, 4);
    ck_assert_int_eq(c.price, 3);
    ck_assert_ptr_null(c.unknown); /* as the row says */
    ck_assert(c.any);              /* it died in the middle: who knows what it had sent */
    r.state = RECIPIENT_PENDING;
    ck_assert(!recipient_drop(&r, "why").any);
}
END_TEST

START_TEST(what_a_person_knows_is_written_without_an_id)
{
    struct recipient r = {
        .id = 9, .state = RECIPIENT_PENDING, .message_id = "m-1", .position = 2, .attempt = 4};
    struct recipient_change c = recipient_confirm(&r, "alfa", "beta");

    ck_assert_int_eq(c.transition, RECIPIENT_CONFIRM);
    ck_assert_int_eq(c.result, RECIPIENT_HELD);
    ck_assert_str_eq(c.provider_id, "");
    ck_assert_str_eq(c.unknown, "beta");
}
END_TEST

/* ---- transitions, at a scripted database ---- */

static struct db *db;
static struct recipient_change changes[3];

static void setup(void)
{
    fake_db_begin();
    recipient_register();
    db = fake_db_new();
    for (unsigned i = 0; i < 3; i++)
        changes[i] = (struct recipient_change){.id = 3 - i, /* not in order */
                                               .transition = RECIPIENT_DELIVER,
                                               .attempt = 4,
                                               .position = i,
                                               .message_id = "m-1",
                                               .user_id = 10 + i,
                                               .price = 5,
                                               .provider = "alfa",
                                               .provider_id = "p",
                                               .unknown = "",
                                               .reason = "why"};
}

static void teardown(void)
{
    db_free(db);
    fake_db_end();
}

static void turn_into(enum recipient_transition transition)
{
    for (unsigned i = 0; i < 3; i++)
        changes[i].transition = transition;
}

static int deliver(struct err *err)
{
    struct recipient_packet packet = {.owner = ME, .changes = changes, .change_count = 3};

    return recipient_packet_run(db, &packet, err);
}

#define DONE(count) .answers = {{"done-1", .affected = (count)}}

/* Of changes, which are in the order of ids by now. */
static void expect_results(enum recipient_result a, enum recipient_result b,
                           enum recipient_result c)
{
    ck_assert_uint_eq(changes[0].id, 1);
    ck_assert_int_eq(changes[0].result, a);
    ck_assert_int_eq(changes[1].result, b);
    ck_assert_int_eq(changes[2].result, c);
}

START_TEST(what_answers_to_the_fence_is_delivered_by_one_statement)
{
    struct err err;

    EXPECT("settle_done",
           .has = {"provider='alfa',provider_message_id='p',unknown_operators=''", "status='done'",
                   "id IN (1,2,3) AND status IN ('sending') AND attempt=4 AND owner=7"},
           DONE(3));
    ck_assert_int_eq(deliver(&err), 0);
    ck_assert_str_eq(fake_db_ran(), "settle_done");
    expect_results(RECIPIENT_CHANGED, RECIPIENT_CHANGED, RECIPIENT_CHANGED);
}
END_TEST

/* Customers 10 and 12 may have endpoints; 10 is of id 3, 12 of id 1. */
static void know_two(void)
{
    static const int64_t customers[] = {10, 12};

    webhook_set_know(customers, 2, WEBHOOK_SET_FOR_GOOD);
}

START_TEST(who_may_have_an_endpoint_is_told_in_the_same_packet)
{
    struct err err;

    know_two();
    EXPECT("settle_done",
           .has = {"INSERT IGNORE INTO webhook_events", "w.kinds&1 WHERE m.id IN (1,3) ",
                   "(m.id,m.attempt) IN ((1,4),(3,4)) AND m.status='done'", "COMMIT"},
           .lacks = {"deliveries"}, DONE(3));
    ck_assert_int_eq(deliver(&err), 0);
    ck_assert_str_eq(fake_db_ran(), "begin settle_done");
    expect_results(RECIPIENT_CHANGED, RECIPIENT_CHANGED, RECIPIENT_CHANGED);
}
END_TEST

START_TEST(who_fails_is_told_behind_the_refund)
{
    struct err err;

    know_two();
    turn_into(RECIPIENT_FAIL);
    for (int i = 0; i < 3; i++)
        changes[i].result = RECIPIENT_HELD;
    EXPECT("settle_failed", .affected = 3);
    EXPECT("refund_lock_balances", .rows = "10|1|0\n11|1|0\n12|1|0");
    EXPECT("refund", .affected = 3);
    EXPECT("refund", .affected = 3);
    EXPECT("webhook_events", .has = {"w.kinds&2 WHERE m.id IN (3,1) AND m.status='failed'"});
    ck_assert_int_eq(recipient_fail(db, changes, 3, &err), 0);
}
END_TEST

START_TEST(whoever_does_not_know_asks_for_all)
{
    struct err err;

    webhook_set_forget();
    EXPECT("settle_done", .has = {"INSERT IGNORE INTO webhook_events", " WHERE m.id IN (1,2,3) "},
           DONE(3));
    ck_assert_int_eq(deliver(&err), 0);
    webhook_set_know(NULL, 0, 0); /* was believed until long ago */
    ck_assert(webhook_set_any() && webhook_set_may_have(1));
    webhook_set_believe(WEBHOOK_SET_FOR_GOOD);
    ck_assert(!webhook_set_any() && !webhook_set_may_have(1));
}
END_TEST

START_TEST(each_row_gets_what_is_its_own)
{
    struct err err;

    changes[0].provider_id = "it's"; /* of 3 */
    changes[0].attempt = 5;
    EXPECT("settle_done",
           .has = {"provider='alfa'",
                   "=CASE id WHEN 1 THEN 'p' WHEN 2 THEN 'p' WHEN 3 THEN 'it\\'s' END",
                   "attempt=CASE id WHEN 1 THEN 4 WHEN 2 THEN 4 WHEN 3 THEN 5 END AND owner=7"},
           DONE(3));
    ck_assert_int_eq(deliver(&err), 0);
}
END_TEST

START_TEST(rows_that_are_lost_are_found_by_looking_and_left_alone)
{
    struct err err;

    EXPECT("settle_done", DONE(1));
    EXPECT("settle_lock", .has = {"(1,2,3)"}, .lacks = {"FOR UPDATE"},
           .rows = "1|done|7|4\n2|sending|8|5"); /* 2: taken over; 3: gone */
    ck_assert_int_eq(deliver(&err), 0);
    ck_assert_str_eq(fake_db_ran(), "settle_done settle_lock");
    expect_results(RECIPIENT_ALREADY, RECIPIENT_LOST, RECIPIENT_LOST);
}
END_TEST

START_TEST(delivered_by_a_commit_whose_answer_was_lost)
{
    struct err err;

    EXPECT("settle_done", .error = FAKE_LOST);
    ck_assert_int_eq(deliver(&err), -1);
    ck_assert_int_eq(err.kind, ERR_UNKNOWN);
    ck_assert_int_eq(db_acquire(db, &err), 0);
    EXPECT("settle_done", DONE(0));
    EXPECT("settle_lock", .rows = "1|done|7|4\n2|done|7|4\n3|done|7|5");
    ck_assert_int_eq(deliver(&err), 0);
    expect_results(RECIPIENT_ALREADY, RECIPIENT_ALREADY, RECIPIENT_LOST); /* 3: another's */
}
END_TEST

START_TEST(a_row_that_should_have_been_delivered_is_a_bug)
{
    struct err err;

    EXPECT("settle_done", DONE(2));
    EXPECT("settle_lock", .rows = "1|done|7|4\n2|sending|7|4\n3|done|7|4");
    ck_assert_int_eq(deliver(&err), -1);
    ck_assert_int_eq(err.kind, ERR_BUG);
}
END_TEST

static const char *const messages[] = {"m-1", "m-2"};

#define ROW(id, message, state) id "|" message "|0912|0|" state "|3|0|0|7|10||\\N|0"

START_TEST(what_is_free_is_claimed_by_one_packet)
{
    struct recipient_packet packet = {.owner = ME, .message_ids = messages, .message_count = 2};
    struct err err;

    EXPECT("claim",
           .has = {"IN ('m-1','m-2') ORDER BY message_identifier,recipient FOR UPDATE;UPDATE",
                   "SET owner=IF(status='pending',7,NULL),status='sending',attempt=attempt+1",
                   "IN ('m-1','m-2') AND status IN ('pending','sending');COMMIT"},
           .answers = {{"rows", .rows = ROW("1", "m-1", "pending") "\n" ROW("2", "m-2", "done")},
                       {"taken", .affected = 1}});
    ck_assert_int_eq(recipient_packet_run(db, &packet, &err), 0);
    ck_assert_str_eq(fake_db_ran(), "begin claim");
    ck_assert_uint_eq(packet.rows.n, 2);
    ck_assert_int_eq(packet.rows.all[0].state, RECIPIENT_PENDING);
    ck_assert_uint_eq(packet.rows.all[0].attempt, 3); /* as it was */
    ck_assert_int_eq(packet.rows.all[1].state, RECIPIENT_DONE);
    recipient_rows_free(&packet.rows);
}
END_TEST

START_TEST(what_is_in_anybodys_hands_leaves_all_as_it_was)
{
    struct recipient_packet packet = {.owner = ME,
                                      .changes = changes,
                                      .change_count = 3,
                                      .message_ids = messages,
                                      .message_count = 2};
    struct err err;

    EXPECT("claim_and_settle", .error = FAKE_NULL);
    ck_assert_int_eq(recipient_packet_run(db, &packet, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    ck_assert_str_eq(fake_db_ran(), "begin claim_and_settle rollback");
    ck_assert_uint_eq(packet.rows.n, 0);
}
END_TEST

START_TEST(what_is_done_and_what_is_free_share_a_commit)
{
    struct recipient_packet packet = {.owner = ME,
                                      .changes = changes,
                                      .change_count = 3,
                                      .message_ids = messages,
                                      .message_count = 1};
    struct err err;

    EXPECT("claim_and_settle", .has = {"attempt=4 AND owner=7;SELECT", ";COMMIT"},
           .answers = {{"done-1", .affected = 2},
                       {"rows", .rows = ROW("9", "m-1", "pending")},
                       {"taken", .affected = 1}});
    EXPECT("settle_lock", .rows = "1|done|7|4\n2|done|7|4\n3|pending|0|4");
    ck_assert_int_eq(recipient_packet_run(db, &packet, &err), 0);
    expect_results(RECIPIENT_ALREADY, RECIPIENT_ALREADY, RECIPIENT_LOST);
    ck_assert_uint_eq(packet.rows.n, 1);
    recipient_rows_free(&packet.rows);
}
END_TEST

START_TEST(a_claim_of_other_rows_than_were_read_is_unknown)
{
    struct recipient_packet packet = {.owner = ME, .message_ids = messages, .message_count = 1};
    struct err err;

    EXPECT("claim",
           .answers = {{"rows", .rows = ROW("1", "m-1", "pending")}, {"taken", .affected = 2}});
    ck_assert_int_eq(recipient_packet_run(db, &packet, &err), -1);
    ck_assert_int_eq(err.kind, ERR_UNKNOWN);
    ck_assert_uint_eq(packet.rows.n, 0);
}
END_TEST

/* Values by CASE are looked for one after another: a statement takes five hundred at most. */
START_TEST(many_rows_are_delivered_by_some_statements)
{
    static struct recipient_change many[501];
    struct recipient_packet packet = {.owner = ME, .changes = many, .change_count = 501};
    struct err err;

    for (unsigned i = 0; i < 501; i++) {
        many[i] = changes[0];
        many[i].id = i + 1;
    }
    EXPECT("settle_done", .has = {",500) AND", "IN (501) AND", ";COMMIT"},
           .answers = {{"done-1", .affected = 500}, {"done-2", .affected = 1}});
    ck_assert_int_eq(recipient_packet_run(db, &packet, &err), 0);
    ck_assert_str_eq(fake_db_ran(), "begin settle_done");
    ck_assert_int_eq(many[500].result, RECIPIENT_CHANGED);
}
END_TEST

START_TEST(a_claim_is_of_all_rows_or_a_bug)
{
    const uint64_t ids[] = {1, 2};
    struct err err;

    EXPECT("claim_update", .has = {"owner=7", "attempt=attempt+1", "IN (1,2)", "('pending')"},
           .affected = 2);
    EXPECT("claim_update", .has = {"('sending')", "takeovers+(1 AND"}, .affected = 1);
    db_begin(db);
    ck_assert_int_eq(recipient_claim(db, RECIPIENT_CLAIM, ME, ids, 2, &err), 0);
    ck_assert_int_eq(recipient_claim(db, RECIPIENT_TAKE_OVER, ME, ids, 2, &err), -1);
    ck_assert_int_eq(err.kind, ERR_BUG);
}
END_TEST

/* 1 is held, 2 was failed before by us, 3 is somebody else's. */
static void hold(enum recipient_transition transition, const char *to)
{
    static char rows[128];
    struct err err;

    turn_into(transition);
    snprintf(rows, sizeof(rows), "1|sending|7|4\n2|%s|0|4\n3|sending|8|5", to);
    EXPECT("settle_lock", .rows = rows);
    db_begin(db);
    ck_assert_int_eq(recipient_hold(db, ME, changes, 3, &err), 0);
    expect_results(RECIPIENT_HELD, RECIPIENT_ALREADY, RECIPIENT_LOST);
}

START_TEST(only_what_is_held_fails_and_gets_its_money_back)
{
    struct err err;

    hold(RECIPIENT_FAIL, "failed");
    EXPECT("settle_failed", .has = {"[[1,4,\"why\",\"\"]]", "m.status='failed'"}, .affected = 1);
    EXPECT("refund_lock_balances", .has = {"IN (12)", "FOR UPDATE"}, .rows = "12|100|0");
    EXPECT("refund", .has = {"(12,5,'refund'", "'r-m-1-2'"}, .lacks = {"r-m-1-1", "r-m-1-0"});
    EXPECT("refund", .has = {"balance+(5) WHERE user_id IN (12)"});
    ck_assert_int_eq(recipient_fail(db, changes, 3, &err), 0);
    expect_results(RECIPIENT_CHANGED, RECIPIENT_ALREADY, RECIPIENT_LOST);
}
END_TEST

START_TEST(a_second_refund_is_a_bug)
{
    struct err err;

    hold(RECIPIENT_FAIL, "failed");
    EXPECT("settle_failed", .affected = 1);
    EXPECT("refund_lock_balances", .rows = "12|100|0");
    EXPECT("refund", .error = FAKE_DUPLICATE);
    ck_assert_int_eq(recipient_fail(db, changes, 3, &err), -1);
    ck_assert_int_eq(err.kind, ERR_BUG);
    expect_results(RECIPIENT_HELD, RECIPIENT_ALREADY, RECIPIENT_LOST); /* nothing has changed */
}
END_TEST

START_TEST(no_money_goes_back_for_rows_that_changed_under_their_lock)
{
    struct err err;

    hold(RECIPIENT_FAIL, "failed");
    EXPECT("settle_failed", .affected = 0);
    ck_assert_int_eq(recipient_fail(db, changes, 3, &err), -1);
    ck_assert_int_eq(err.kind, ERR_BUG);
}
END_TEST

START_TEST(only_what_is_held_is_put_off)
{
    struct err err;

    hold(RECIPIENT_PUT_OFF, "pending");
    EXPECT("settle_later", .has = {"[[1,4,", "m.status='pending',m.owner=0", "m.takeovers=0"},
           .affected = 1);
    ck_assert_int_eq(recipient_put_off(db, changes, 3, &err), 0);
    expect_results(RECIPIENT_CHANGED, RECIPIENT_ALREADY, RECIPIENT_LOST);
}
END_TEST

START_TEST(nothing_held_is_nothing_to_write)
{
    struct err err;

    turn_into(RECIPIENT_FAIL);
    EXPECT("settle_lock", .rows = "");
    db_begin(db);
    ck_assert_int_eq(recipient_hold(db, ME, changes, 3, &err), 0);
    ck_assert_int_eq(recipient_put_off(db, changes, 3, &err), 0);
    ck_assert_int_eq(recipient_fail(db, changes, 3, &err), 0);
    expect_results(RECIPIENT_LOST, RECIPIENT_LOST, RECIPIENT_LOST);
}
END_TEST

START_TEST(what_is_confirmed_is_done_whoever_had_it)
{
    struct recipient r = {.id = 9, .state = RECIPIENT_PENDING, .message_id = "m-1", .attempt = 4};
    struct recipient_change c = recipient_confirm(&r, "alfa", "");
    struct err err;

    EXPECT("confirm",
           .has = {"status='done',provider='alfa',provider_message_id='',unknown_operators=''",
                   "id IN (9) AND status IN ('pending','sending') AND attempt=4"},
           .lacks = {"owner="}, .affected = 1);
    EXPECT("confirm", .affected = 0);
    db_begin(db);
    ck_assert_int_eq(recipient_confirm_all(db, &c, 1, &err), 0);
    ck_assert_int_eq(c.result, RECIPIENT_CHANGED);
    c.result = RECIPIENT_HELD;
    ck_assert_int_eq(recipient_confirm_all(db, &c, 1, &err), -1);
    ck_assert_int_eq(err.kind, ERR_BUG);
}
END_TEST

START_TEST(what_is_dropped_in_the_middle_may_be_with_any)
{
    struct recipient r = {.id = 9,
                          .state = RECIPIENT_SENDING,
                          .message_id = "m-1",
                          .user_id = 7,
                          .price = 3,
                          .attempt = 4};
    struct recipient_change c = recipient_drop(&r, "why");
    struct err err;

    EXPECT("settle_failed", .has = {"[[9,4,\"why\",null,1]]", "IF(j.any_may,CASE WHEN"},
           .affected = 1);
    EXPECT("refund_lock_balances", .rows = "7|0|0");
    EXPECT("refund");
    EXPECT("refund");
    db_begin(db);
    ck_assert_int_eq(recipient_fail(db, &c, 1, &err), 0);
}
END_TEST

START_TEST(what_a_backup_has_open_is_marked)
{
    struct err err;
    uint64_t n = 0;

    EXPECT("restore_mark",
           .has = {"first_claimed_at=NULL", "THEN '*'",
                   "id BETWEEN 5 AND 9 AND status IN ('pending','sending')",
                   "created_at<(SELECT since FROM platform_modes WHERE name='restore')"},
           .lacks = {"owner", "attempt"}, .affected = 3);
    ck_assert_int_eq(recipient_mark_restored(db, 5, 9, &n, &err), 0);
    ck_assert_uint_eq(n, 3);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("recipient");
    TCase *t = tcase_create("words");

    tcase_add_test(t, states_parse_back_in_either_case);
    tcase_add_test(t, every_state_is_in_one_set);
    tcase_add_test(t, a_template_gets_its_words);
    tcase_add_test(t, a_row_is_pending_and_has_its_own_price);
    tcase_add_test(t, what_a_person_knows_is_written_without_an_id);
    tcase_add_test(t, what_is_dropped_is_held_by_the_caller);
    suite_add_tcase(s, t);
    t = tcase_create("transitions");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, what_answers_to_the_fence_is_delivered_by_one_statement);
    tcase_add_test(t, who_may_have_an_endpoint_is_told_in_the_same_packet);
    tcase_add_test(t, who_fails_is_told_behind_the_refund);
    tcase_add_test(t, whoever_does_not_know_asks_for_all);
    tcase_add_test(t, each_row_gets_what_is_its_own);
    tcase_add_test(t, rows_that_are_lost_are_found_by_looking_and_left_alone);
    tcase_add_test(t, delivered_by_a_commit_whose_answer_was_lost);
    tcase_add_test(t, a_row_that_should_have_been_delivered_is_a_bug);
    tcase_add_test(t, many_rows_are_delivered_by_some_statements);
    tcase_add_test(t, what_is_free_is_claimed_by_one_packet);
    tcase_add_test(t, what_is_in_anybodys_hands_leaves_all_as_it_was);
    tcase_add_test(t, what_is_done_and_what_is_free_share_a_commit);
    tcase_add_test(t, a_claim_of_other_rows_than_were_read_is_unknown);
    tcase_add_test(t, a_claim_is_of_all_rows_or_a_bug);
    tcase_add_test(t, only_what_is_held_fails_and_gets_its_money_back);
    tcase_add_test(t, a_second_refund_is_a_bug);
    tcase_add_test(t, no_money_goes_back_for_rows_that_changed_under_their_lock);
    tcase_add_test(t, only_what_is_held_is_put_off);
    tcase_add_test(t, nothing_held_is_nothing_to_write);
    tcase_add_test(t, what_is_confirmed_is_done_whoever_had_it);
    tcase_add_test(t, what_is_dropped_in_the_middle_may_be_with_any);
    tcase_add_test(t, what_a_backup_has_open_is_marked);
    suite_add_tcase(s, t);
    return suite_run(s);
}
