#include "outboxd/claim.h"

#include <check.h>
#include <string.h>

#include "outboxd/settings.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

static struct claim claim;

static void setup(void)
{
    fake_db_begin();
    claim_register();
    outboxd_settings.max_attempts = 3;
    outboxd_settings.retry_base_ms = 1000;
    outboxd_settings.retry_max_ms = 60000;
    claim_init(&claim, &outboxd_settings.db, MESSAGE_NORMAL);
}

static void teardown(void)
{
    claim_free(&claim);
    fake_db_end();
}

/* Three rows: the first is published, the second is to be parked, the third to be put off. */
static void take(enum poller_look look, const char *label)
{
    const struct poller_task task = {.look = look, .limit = 10};
    struct err err;

    fake_db_expect(&(struct fake_db_step){
        .query = label,
        .has = {look == LOOK_ASK ? "kind=2" : "kind=1",
                look == LOOK_FRESH ? "next_run_at IS NULL" : "next_run_at<=NOW(6)"},
        .answers = {{"mode", .rows = "0"},
                    {"rows", .rows = "1|m-1|message.send|0|{}\n2|m-2|message.send|2|{}\n"
                                     "3|m-3|message.send|0|{}"}}});
    ck_assert_int_eq(claim_take(&claim, &task, 10, &err), 0);
    ck_assert_uint_eq(claim.n, 3);
    ck_assert_int_eq(claim.put_off, look != LOOK_FRESH);
    claim.rows[0].state = ROW_CONFIRMED;
    claim.rows[1].state = claim.rows[2].state = ROW_REFUSED;
}

START_TEST(what_was_refused_is_parked_or_put_off)
{
    struct err err;

    take(LOOK_FRESH, "outbox_look_fresh");
    EXPECT("outbox_delete", .has = {"[1]", "SAVEPOINT confirmed"}, .lacks = {"COMMIT"});
    EXPECT("outbox_burn_attempt",
           .has = {"INTO outbox_parked", "WHERE id=2;", "attempts=attempts+1", "WHERE id=3;"});
    ck_assert_int_eq(claim_finish(&claim, &err), 0);
    claim_end(&claim);
}
END_TEST

/* The mode is read, and held, by the transaction that locks the rows. */
START_TEST(restore_mode_takes_nothing)
{
    const struct poller_task task = {.look = LOOK_FRESH, .limit = 10};
    struct err err;

    EXPECT("outbox_look_fresh",
           .has = {"platform_modes WHERE name='restore' LOCK IN SHARE MODE;SELECT d.id"},
           .answers = {{"mode", .rows = "1"}, {"rows", .rows = "1|m-1|message.send|0|{}"}});
    ck_assert_int_eq(claim_take(&claim, &task, 10, &err), 0);
    ck_assert(claim.held_back);
    ck_assert_uint_eq(claim.n, 0);
    ck_assert_uint_eq(claim.seen, 0);
    claim_end(&claim);
    take(LOOK_FRESH, "outbox_look_fresh");
    ck_assert(!claim.held_back);
    claim_return(&claim);
}
END_TEST

START_TEST(what_asks_is_of_another_kind)
{
    take(LOOK_ASK, "outbox_look_ask");
    claim_return(&claim);
}
END_TEST

/* A look for put-off rows that finds none tells how long there will be none. */
START_TEST(put_off_rows_say_when_the_next_is_due)
{
    const struct poller_task task = {.look = LOOK_DUE, .limit = 10};
    struct err err;

    EXPECT(
        "outbox_look_due", .has = {"TIMESTAMPDIFF(MICROSECOND,NOW(6),next_run_at)", "kind=2"},
        .answers = {{"mode", .rows = "0"}, {"rows", .rows = ""}, {"next", .rows = "1500000|-3"}});
    ck_assert_int_eq(claim_take(&claim, &task, 10, &err), 0);
    ck_assert_int_eq(claim.next_us, 1500000);
    ck_assert_int_eq(claim.next_ask_us, 0);
    claim_end(&claim);
    EXPECT("outbox_look_due",
           .answers = {{"mode", .rows = "0"}, {"rows", .rows = ""}, {"next", .rows = "\\N|\\N"}});
    ck_assert_int_eq(claim_take(&claim, &task, 10, &err), 0);
    ck_assert_int_eq(claim.next_us, POLLER_NONE);
    ck_assert_int_eq(claim.next_ask_us, POLLER_NONE);
    claim_end(&claim);
}
END_TEST

/* Each statement has a time of its own: a row that is due between them must be in one of the two.
 */
START_TEST(what_is_due_next_is_asked_first)
{
    const struct poller_task task = {.look = LOOK_DUE, .limit = 10};
    const char *sql;
    struct err err;

    EXPECT("outbox_look_due",
           .has = {"next_run_at>NOW(6) ORDER BY next_run_at LIMIT 1", "next_run_at<=NOW(6)"},
           .answers = {{"mode", .rows = "0"}, {"rows", .rows = ""}, {"next", .rows = "\\N|\\N"}});
    ck_assert_int_eq(claim_take(&claim, &task, 10, &err), 0);
    claim_end(&claim);
    sql = fake_db_sql("outbox_look_due");
    ck_assert(strstr(sql, "next_run_at>NOW(6)") < strstr(sql, "next_run_at<=NOW(6)"));
}
END_TEST

/* No lock, no transaction. */
START_TEST(a_peek_says_whether_there_is_anything)
{
    struct err err;

    EXPECT("outbox_peek", .has = {"SELECT (SELECT", "EXISTS(SELECT", "next_run_at IS NULL"},
           .lacks = {"FOR UPDATE", "SHARE"}, .rows = "-5|\\N|1");
    ck_assert_int_eq(claim_peek(&claim, &err), 0);
    ck_assert(claim.fresh);
    ck_assert_int_eq(claim.next_us, 0);
    ck_assert_int_eq(claim.next_ask_us, POLLER_NONE);
    claim_end(&claim);
}
END_TEST

/* Parked under that id is something else already: it stays, and the others go on. */
START_TEST(a_row_that_cannot_be_parked_does_not_keep_the_others)
{
    struct err err;

    take(LOOK_FRESH, "outbox_look_fresh");
    EXPECT("outbox_delete", .has = {"[1]"});
    EXPECT("outbox_burn_attempt", .has = {"WHERE id=2;", "WHERE id=3;"}, .error = FAKE_DUPLICATE);
    EXPECT("outbox_keep_delete", .has = {"ROLLBACK TO SAVEPOINT confirmed"}, .lacks = {"COMMIT"});
    EXPECT("outbox_burn_attempt", .has = {"WHERE id=2;"}, .lacks = {"WHERE id=3;"},
           .error = FAKE_DUPLICATE);
    EXPECT("outbox_keep_delete",
           .has = {"ROLLBACK TO SAVEPOINT confirmed", "next_run_at=NOW(6)+INTERVAL", "WHERE id=2"},
           .lacks = {"COMMIT"});
    EXPECT("outbox_burn_attempt", .has = {"attempts=attempts+1", "WHERE id=3;"},
           .lacks = {"WHERE id=2;"});
    EXPECT("outbox_burn_attempt", .has = {"COMMIT"});
    ck_assert_int_eq(claim_finish(&claim, &err), 0);
    ck_assert_int_eq(claim.rows[1].state, ROW_STUCK);
    ck_assert_int_eq(claim.rows[2].state, ROW_REFUSED);
    claim_end(&claim);
}
END_TEST

START_TEST(a_database_in_trouble_undoes_no_delete)
{
    struct err err;

    take(LOOK_FRESH, "outbox_look_fresh");
    EXPECT("outbox_delete", .has = {"[1]"});
    EXPECT("outbox_burn_attempt", .error = FAKE_LOCK_WAIT);
    EXPECT("outbox_keep_delete", .has = {"ROLLBACK TO SAVEPOINT confirmed;COMMIT"});
    ck_assert_int_eq(claim_finish(&claim, &err), -1);
    claim_end(&claim);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("claim");
    TCase *t = tcase_create("rows");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, what_was_refused_is_parked_or_put_off);
    tcase_add_test(t, restore_mode_takes_nothing);
    tcase_add_test(t, what_asks_is_of_another_kind);
    tcase_add_test(t, what_is_due_next_is_asked_first);
    tcase_add_test(t, a_peek_says_whether_there_is_anything);
    tcase_add_test(t, put_off_rows_say_when_the_next_is_due);
    tcase_add_test(t, a_row_that_cannot_be_parked_does_not_keep_the_others);
    tcase_add_test(t, a_database_in_trouble_undoes_no_delete);
    suite_add_tcase(s, t);
    return suite_run(s);
}
