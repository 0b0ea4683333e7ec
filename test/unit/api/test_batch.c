#include "api/batch.h"

#include <check.h>
#include <string.h>

#include "test/unit/api/make.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

#define OPS 4

static const struct operation *expired;

static bool enter(struct operation *op, enum operation_stage stage)
{
    ck_assert_int_eq(stage, STAGE_BEGUN);
    return op != expired;
}

static const struct batch_settings settings = {
    .enter = enter,
    .exchange = "exchange",
    .queues = {[MESSAGE_NORMAL] = "normal", [MESSAGE_EXPRESS] = "express"}};
static struct db *db;
static struct batch *batch;
static struct operation *ops[OPS];
static size_t n;
static bool writes;

static void setup(void)
{
    fake_db_begin();
    batch_register();
    db = fake_db_new();
    batch = batch_new(&settings);
    expired = NULL;
    n = 0;
}

static void teardown(void)
{
    for (size_t i = 0; i < n; i++)
        operation_free(ops[i]);
    batch_free(batch);
    db_free(db);
    fake_db_end();
}

static void take(struct operation *op, const char *key)
{
    struct operation_fault fault;

    if (key)
        ck_assert_int_eq(operation_set_key(op, key, &fault), 0);
    ops[n++] = op;
}

static void take_send(int customer, const char *text, const char *key)
{
    take(make_send(customer, text), key);
}

static void take_topup(int customer, const char *amount)
{
    take(make_topup(customer, amount), NULL);
}

static void decide(bool skip_locked)
{
    struct err err;

    ck_assert_int_eq(batch_start(batch, ops, n), 0);
    ck_assert_int_eq(batch_decide(batch, db, skip_locked, &writes, &err), 0);
}

static const char *response(size_t i)
{
    return ops[i]->response.data ? ops[i]->response.data : "";
}

START_TEST(refusals_stand_among_what_is_accepted)
{
    struct err err;

    take_send(1, "a", NULL);
    take_send(2, "b", NULL); /* not enough */
    take_send(3, "c", NULL); /* unknown */
    take_send(1, "d", NULL); /* what the first one left is not enough */
    EXPECT("commit_lock", .has = {"IN (1,2,3) ORDER BY user_id FOR UPDATE"},
           .lacks = {"SKIP LOCKED", "idempotency"},
           .answers = {{.name = "balances", .rows = "1|35|0\n2|19|0"}});
    decide(false);
    ck_assert(writes);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
    for (size_t i = 1; i < OPS; i++)
        ck_assert_int_eq(ops[i]->outcome, OUTCOME_INSUFFICIENT);

    EXPECT("commit_write",
           .has = {ops[0]->message.transaction_id,
                   "WHEN user_id IN (1) THEN -20 ELSE 0 END) WHERE user_id IN (1)",
                   "(1,-20,'withdrawal'", ";COMMIT"},
           .lacks = {ops[1]->message.id, ops[2]->message.id, ops[3]->message.id});
    ck_assert_int_eq(batch_write(batch, db, &err), 0);
    ck_assert_str_eq(fake_db_ran(), "begin commit_lock commit_write");
}
END_TEST

/* Whoever has moved in the meantime changes nothing; a key that is known is answered as ever. */
START_TEST(behind_a_fence_nothing_is_charged_and_keys_still_tell)
{
    take_send(1, "a", NULL);
    take_send(2, "b", NULL);
    take_topup(2, "5");
    EXPECT("ledger_open", .has = {"'[2]'"});
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|100|1\n2|100|2"}});
    decide(false);
    ck_assert(!writes);
    for (size_t i = 0; i < 3; i++)
        ck_assert_int_eq(ops[i]->outcome, OUTCOME_FENCED);
    db_rollback(db);
}
END_TEST

START_TEST(all_of_a_batch_is_written_by_one_packet)
{
    struct err err;

    take_send(1, "a", "key");
    take_send(2, "it's", NULL);
    take_topup(1, "7");
    EXPECT("ledger_open", .has = {"'[1]'"});
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|20|0\n2|20|0"}});
    decide(false);
    EXPECT("commit_write", .has = {"'it\\'s'", "(1,7,'deposit'",
                                   "WHEN user_id IN (2) THEN -20 ELSE -13 END", "x'6b6579'"});
    ck_assert_int_eq(batch_write(batch, db, &err), 0);
    for (size_t i = 0; i < 2; i++)
        ck_assert_ptr_nonnull(strstr(fake_db_sql("commit_write"), ops[i]->message.id));
    ck_assert_str_eq(fake_db_ran(), "ledger_open begin commit_lock commit_write");
    ck_assert_ptr_nonnull(strstr(response(2), "\"balance\":7,"));
}
END_TEST

START_TEST(twins_share_the_first_ones_fate_and_charge_once)
{
    struct err err;

    take_send(1, "a", "key");
    take_send(1, "a", "key");
    take_send(1, "another text", "key");
    take_send(2, "a", "key"); /* another customer's key is another key */
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|100|0\n2|0|0"}});
    decide(false);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_REPLAYED);
    ck_assert_str_eq(response(1), response(0));
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_KEY_REUSED);
    ck_assert_int_eq(ops[3]->outcome, OUTCOME_INSUFFICIENT);
    EXPECT("commit_write", .has = {ops[0]->message.id, "ELSE -20 END) WHERE user_id IN (1)"},
           .lacks = {ops[1]->message.id, ops[2]->message.id, ops[3]->message.id});
    ck_assert_int_eq(batch_write(batch, db, &err), 0);
}
END_TEST

START_TEST(a_refusal_decides_nothing_for_its_twins)
{
    take_send(1, "dear", "key"); /* more than there is */
    ops[0]->total = 1000;
    take_send(1, "a", "key");
    take_send(1, "a", "key");
    take_send(1, "dear", "key");
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|20|0"}});
    decide(false);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_INSUFFICIENT);
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_REPLAYED);
    ck_assert_str_eq(response(2), response(1));
    ck_assert_int_eq(ops[3]->outcome, OUTCOME_KEY_REUSED);
}
END_TEST

START_TEST(a_top_up_that_is_refused_decides_nothing_for_its_twins)
{
    take(make_topup(9, "4503599627370495"), "key");
    take(make_topup(9, "2"), "key");
    take(make_topup(9, "2"), "key");
    EXPECT("ledger_open");
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "9|1|0"}});
    decide(false);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_BALANCE_TOO_HIGH);
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_REPLAYED);
}
END_TEST

START_TEST(twins_are_compared_with_what_is_stored)
{
    take_send(1, "another text", "key");
    take_send(1, "a", "key");
    take_send(1, "another text", "key");
    take_send(1, "a", "key");
    memset(ops[1]->body_hash, 'a', sizeof(ops[1]->body_hash));
    memset(ops[3]->body_hash, 'a', sizeof(ops[3]->body_hash));
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|100|0"},
                                      {.name = "keys",
                                       .rows = "0|aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|first answer"}});
    decide(false);
    ck_assert(!writes);
    for (size_t i = 0; i < OPS; i++)
        ck_assert_int_eq(ops[i]->outcome, i % 2 ? OUTCOME_REPLAYED : OUTCOME_KEY_REUSED);
    ck_assert_str_eq(response(1), "first answer");
    ck_assert_str_eq(response(3), "first answer");
}
END_TEST

START_TEST(the_first_to_come_is_the_first_of_its_key)
{
    static const char *const texts[] = {"a", "b", "c", "d"};

    for (size_t i = 0; i < OPS; i++)
        take_send(1, texts[i], "key");
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|100|0"}});
    decide(false);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
    for (size_t i = 1; i < OPS; i++)
        ck_assert_int_eq(ops[i]->outcome, OUTCOME_KEY_REUSED);
}
END_TEST

START_TEST(a_key_that_is_known_is_answered_as_it_was)
{
    take_send(1, "a", "key");
    take_send(1, "b", "other");
    take_send(1, "c", "under pressure");
    ops[2]->replay_only = true;
    memset(ops[0]->body_hash, 'a', sizeof(ops[0]->body_hash));
    EXPECT("commit_lock",
           .answers = {{.name = "balances", .rows = "1|100|0"},
                       {.name = "keys",
                        .rows = "0|aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|first answer\n"
                                "1|bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb|another answer"}});
    decide(false);
    ck_assert(!writes);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_REPLAYED);
    ck_assert_str_eq(response(0), "first answer");
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_KEY_REUSED);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_OVERLOADED);
}
END_TEST

START_TEST(a_new_customer_gets_a_row_before_the_transaction)
{
    take_topup(9, "50");
    EXPECT("ledger_open", .has = {"INSERT IGNORE", "'[9]'"});
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "9|0|0"}});
    decide(false);
    ck_assert_str_eq(fake_db_ran(), "ledger_open begin commit_lock");
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
    ck_assert_ptr_nonnull(strstr(response(0), "\"balance\":50,"));
}
END_TEST

START_TEST(what_costs_nothing_needs_no_balance)
{
    struct err err;

    take_send(1, "a", "key");
    take_send(2, "b", NULL);
    take_send(3, "c", NULL); /* this one costs */
    ops[0]->total = ops[1]->total = 0;
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "2|0|0"}});
    EXPECT("ledger_open", .has = {"'[1]'"}); /* 2 has one */
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|0|0\n2|0|0"}});
    decide(false);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_INSUFFICIENT);
    EXPECT("commit_write", .has = {ops[0]->message.id, "(1,0,'withdrawal'"},
           .lacks = {"UPDATE", ops[2]->message.id});
    ck_assert_int_eq(batch_write(batch, db, &err), 0);
    ck_assert_str_eq(fake_db_ran(), "begin commit_lock rollback ledger_open begin commit_lock "
                                    "commit_write");
}
END_TEST

START_TEST(a_balance_has_a_ceiling)
{
    take_topup(9, "2");
    take_topup(9, "1");
    EXPECT("ledger_open");
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "9|4503599627370494|0"}});
    decide(false);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_BALANCE_TOO_HIGH);
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
}
END_TEST

START_TEST(whose_row_is_held_waits_and_the_others_do_not)
{
    struct err err;

    take_send(1, "a", NULL);
    take_send(2, "b", NULL); /* held */
    take_send(3, "c", NULL); /* unknown */
    take_topup(4, "1");      /* its row was made, and somebody was faster */
    EXPECT("ledger_open");
    EXPECT("commit_lock", .has = {"IN (1,2,3,4)", "SKIP LOCKED"},
           .answers = {{.name = "balances", .rows = "1|20|0"}});
    EXPECT("ledger_find_elsewhere", .has = {"IN (2,3,4)"}, .rows = "2\n4");
    decide(true);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_LOCKED);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_INSUFFICIENT);
    ck_assert_int_eq(ops[3]->outcome, OUTCOME_LOCKED);
    EXPECT("commit_write", .has = {ops[0]->message.id}, .lacks = {ops[1]->message.id});
    ck_assert_int_eq(batch_write(batch, db, &err), 0);
}
END_TEST

START_TEST(a_new_decision_forgets_the_last_one)
{
    take_send(1, "a", NULL);
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|20|0"}});
    decide(false);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
    db_rollback(db);
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|19|0"}});
    decide(false);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_INSUFFICIENT);
    ck_assert(!writes);
}
END_TEST

START_TEST(whose_deadline_comes_before_the_decision_is_left_out)
{
    struct err err;

    take_send(1, "a", "key");
    take_send(1, "a", "key"); /* gets the key in its place */
    take_send(1, "b", NULL);  /* and the third the money */
    expired = ops[0];
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|40|0"}});
    decide(false);
    ck_assert(writes);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_EXPIRED);
    ck_assert_int_eq(ops[1]->outcome, OUTCOME_DONE);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_DONE);
    EXPECT("commit_write", .has = {ops[1]->message.id, ops[2]->message.id, "balance+(-40)"},
           .lacks = {ops[0]->message.id});
    ck_assert_int_eq(batch_write(batch, db, &err), 0);
}
END_TEST

START_TEST(only_what_is_written_has_begun)
{
    take_send(1, "a", "key");
    take_send(1, "a", "key"); /* its answer comes with the first one's */
    take_send(1, "b", "key");
    take_send(2, "c", NULL); /* not enough */
    expired = ops[2];
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|20|0\n2|0|0"}});
    decide(false);
    ck_assert(ops[0]->begun && ops[1]->begun);
    ck_assert_int_eq(ops[2]->outcome, OUTCOME_EXPIRED);
    ck_assert(!ops[2]->begun && !ops[3]->begun);
    ck_assert_int_eq(ops[3]->outcome, OUTCOME_INSUFFICIENT);
}
END_TEST

static enum err_kind write_fails(unsigned code)
{
    struct err err;

    take_send(1, "a", NULL);
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|20|0"}});
    EXPECT("commit_write", .error = code);
    decide(false);
    ck_assert_int_eq(batch_write(batch, db, &err), -1);
    return err.kind;
}

START_TEST(what_the_server_refused_is_not_unknown)
{
    ck_assert_int_eq(write_fails(FAKE_DEADLOCK), ERR_RETRY);
    db_rollback(db);
    operation_free(ops[--n]);
    ck_assert_int_eq(write_fails(FAKE_OUT_OF_RANGE), ERR_PERMANENT);
}
END_TEST

START_TEST(a_lost_commit_is_looked_up)
{
    static const struct {
        const char *entry;
        bool committed;
    } ways[] = {{"1", true}, {"", false}};
    struct err err;
    bool committed;

    ck_assert_int_eq(write_fails(FAKE_LOST), ERR_UNKNOWN);
    for (size_t i = 0; i < 2; i++) {
        ck_assert_int_eq(db_acquire(db, &err), 0);
        EXPECT(
            "ledger_look",
            .has = {"user_id IN (1) ORDER BY user_id FOR UPDATE", ops[0]->message.transaction_id},
            .answers = {{.name = "entry", .rows = ways[i].entry}});
        ck_assert_int_eq(batch_look(batch, db, &committed, &err), 0);
        ck_assert(committed == ways[i].committed);
    }
    ck_assert_str_eq(fake_db_ran(), "begin commit_lock commit_write begin ledger_look rollback "
                                    "begin ledger_look rollback");
}
END_TEST

START_TEST(a_look_that_fails_tells_nothing)
{
    struct err err;
    bool committed;

    ck_assert_int_eq(write_fails(FAKE_LOST), ERR_UNKNOWN);
    ck_assert_int_eq(db_acquire(db, &err), 0);
    EXPECT("ledger_look", .error = FAKE_LOCK_WAIT);
    ck_assert_int_eq(batch_look(batch, db, &committed, &err), -1);
    ck_assert_ptr_nonnull(strstr(fake_db_ran(), "ledger_look rollback"));
}
END_TEST

/* ---- one packet ---- */

static bool is_easy(void)
{
    ck_assert_int_eq(batch_start(batch, ops, n), 0);
    return batch_is_easy(batch, db);
}

static enum batch_accepted accept_now(void)
{
    enum batch_accepted accepted;
    struct err err;

    ck_assert(is_easy());
    ck_assert_int_eq(batch_accept(batch, db, &accepted, &err), 0);
    return accepted;
}

START_TEST(a_few_sends_are_one_packet)
{
    take_send(2, "it's", "key");
    take_send(1, "a", NULL);
    take_send(2, "b", NULL);
    ops[1]->total = 7;
    EXPECT(
        "commit_accept",
        .has = {
            "BEGIN NOT ATOMIC START TRANSACTION;UPDATE user_balances FORCE INDEX(user_id) SET "
            "balance=balance-CASE WHEN user_id IN (2) THEN 40 ELSE 7 END WHERE user_id IN "
            "(1,2) AND fence=0 AND balance>=CASE WHEN user_id IN (2) THEN 40 ELSE 7 END ORDER BY "
            "user_id;IF ROW_COUNT()=2 THEN INSERT INTO idempotency_keys",
            "(1,-7,'withdrawal'", "'it\\'s'", ";COMMIT;ELSE ROLLBACK;SELECT 1;END IF;END"});
    ck_assert_int_eq(accept_now(), BATCH_WRITTEN);
    ck_assert_str_eq(fake_db_ran(), "commit_accept");
    for (size_t i = 0; i < n; i++) {
        ck_assert_int_eq(ops[i]->outcome, OUTCOME_DONE);
        ck_assert(ops[i]->begun);
        ck_assert_ptr_nonnull(strstr(fake_db_sql("commit_accept"), ops[i]->message.id));
        ck_assert_ptr_nonnull(strstr(response(i), ops[i]->message.id));
    }
}
END_TEST

START_TEST(what_may_be_refused_or_replayed_is_not_easy)
{
    take_send(1, "a", "key");
    ck_assert(is_easy());
    ops[0]->replay_only = true;
    ck_assert(!is_easy());
    ops[0]->replay_only = false;
    take_send(1, "b", "key"); /* a twin */
    ck_assert(!is_easy());
    operation_free(ops[--n]);
    take_topup(2, "1");
    ck_assert(!is_easy());
    operation_free(ops[--n]);
    ck_assert(is_easy());
    fake_db_set_takes_blocks(false);
    ck_assert(!is_easy());
}
END_TEST

START_TEST(a_large_batch_is_not_easy)
{
    struct operation *many[101];

    take_send(1, "a", NULL);
    for (size_t i = 0; i < 101; i++)
        many[i] = ops[0];
    ck_assert_int_eq(batch_start(batch, many, 32), 0);
    ck_assert(batch_is_easy(batch, db));
    ck_assert_int_eq(batch_start(batch, many, 101), 0);
    ck_assert(!batch_is_easy(batch, db));
}
END_TEST

START_TEST(who_was_refused_is_not_tried_so_until_he_has_paid_again)
{
    take_send(1, "a", NULL);
    EXPECT("commit_accept", .rows = "1");
    ck_assert_int_eq(accept_now(), BATCH_REFUSED);
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|19|0"}});
    decide(false);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_INSUFFICIENT);
    db_rollback(db);
    ck_assert(!is_easy());
    EXPECT("commit_lock", .answers = {{.name = "balances", .rows = "1|20|0"}});
    decide(false);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_DONE);
    ck_assert(is_easy());
}
END_TEST

START_TEST(a_key_that_is_known_is_no_failure_of_the_packet)
{
    take_send(1, "a", "key");
    EXPECT("commit_accept", .error = FAKE_DUPLICATE);
    ck_assert_int_eq(accept_now(), BATCH_REFUSED);
    ck_assert_str_eq(fake_db_ran(), "commit_accept rollback");
}
END_TEST

START_TEST(whose_deadline_comes_before_the_packet_is_left_out)
{
    take_send(1, "a", NULL);
    take_send(1, "b", NULL);
    expired = ops[0];
    EXPECT("commit_accept", .has = {"balance=balance-20 WHERE user_id IN (1)", ops[1]->message.id},
           .lacks = {ops[0]->message.id});
    ck_assert_int_eq(accept_now(), BATCH_WRITTEN);
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_EXPIRED);
    ck_assert(!ops[0]->begun);
    operation_free(ops[--n]);
    ck_assert_int_eq(accept_now(), BATCH_EMPTY); /* nothing is left to be written */
    ck_assert_int_eq(ops[0]->outcome, OUTCOME_EXPIRED);
}
END_TEST

START_TEST(the_lost_answer_of_the_one_packet_is_looked_up)
{
    enum batch_accepted accepted;
    struct err err;
    bool yes;

    take_send(1, "a", NULL);
    EXPECT("commit_accept", .error = FAKE_LOST);
    ck_assert(is_easy());
    ck_assert_int_eq(batch_accept(batch, db, &accepted, &err), -1);
    ck_assert_int_eq(err.kind, ERR_UNKNOWN);
    ck_assert_int_eq(db_acquire(db, &err), 0);
    EXPECT("ledger_look", .has = {ops[0]->message.transaction_id},
           .answers = {{.name = "entry", .rows = "1"}});
    ck_assert_int_eq(batch_look(batch, db, &yes, &err), 0);
    ck_assert(yes);
}
END_TEST

static void setup_blocks(void)
{
    setup();
    fake_db_set_takes_blocks(true);
}

int main(void)
{
    Suite *s = suite_create("batch");
    TCase *t = tcase_create("decisions");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, refusals_stand_among_what_is_accepted);
    tcase_add_test(t, behind_a_fence_nothing_is_charged_and_keys_still_tell);
    tcase_add_test(t, all_of_a_batch_is_written_by_one_packet);
    tcase_add_test(t, twins_share_the_first_ones_fate_and_charge_once);
    tcase_add_test(t, a_refusal_decides_nothing_for_its_twins);
    tcase_add_test(t, a_top_up_that_is_refused_decides_nothing_for_its_twins);
    tcase_add_test(t, twins_are_compared_with_what_is_stored);
    tcase_add_test(t, the_first_to_come_is_the_first_of_its_key);
    tcase_add_test(t, a_key_that_is_known_is_answered_as_it_was);
    tcase_add_test(t, a_new_customer_gets_a_row_before_the_transaction);
    tcase_add_test(t, what_costs_nothing_needs_no_balance);
    tcase_add_test(t, a_balance_has_a_ceiling);
    tcase_add_test(t, whose_row_is_held_waits_and_the_others_do_not);
    tcase_add_test(t, a_new_decision_forgets_the_last_one);
    tcase_add_test(t, whose_deadline_comes_before_the_decision_is_left_out);
    tcase_add_test(t, only_what_is_written_has_begun);
    suite_add_tcase(s, t);
    t = tcase_create("one packet");
    tcase_add_checked_fixture(t, setup_blocks, teardown);
    tcase_add_test(t, a_few_sends_are_one_packet);
    tcase_add_test(t, what_may_be_refused_or_replayed_is_not_easy);
    tcase_add_test(t, a_large_batch_is_not_easy);
    tcase_add_test(t, who_was_refused_is_not_tried_so_until_he_has_paid_again);
    tcase_add_test(t, a_key_that_is_known_is_no_failure_of_the_packet);
    tcase_add_test(t, whose_deadline_comes_before_the_packet_is_left_out);
    tcase_add_test(t, the_lost_answer_of_the_one_packet_is_looked_up);
    suite_add_tcase(s, t);
    t = tcase_create("failures");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, what_the_server_refused_is_not_unknown);
    tcase_add_test(t, a_lost_commit_is_looked_up);
    tcase_add_test(t, a_look_that_fails_tells_nothing);
    suite_add_tcase(s, t);
    return suite_run(s);
}
