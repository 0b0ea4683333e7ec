#include "libcommon/domain/recipient_receipt.h"

#include <stdio.h>
#include <string.h>

#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

static struct db *db;
static struct recipient_receipt receipts[4];
static struct recipient_hearing hearing;
static size_t n;

static void setup(void)
{
    fake_db_begin();
    recipient_register();
    db = fake_db_new();
    hearing = (struct recipient_hearing){.refund_undelivered = false, .wait_hours = 72};
    n = 0;
}

static void teardown(void)
{
    db_free(db);
    fake_db_end();
}

static struct recipient_receipt *add(const char *name, bool delivered)
{
    struct recipient_receipt *r = &receipts[n++];

    *r = (struct recipient_receipt){.delivered = delivered};
    snprintf(r->operator_name, sizeof(r->operator_name), "%s", name);
    return r;
}

/* Of m-1's recipient at position 0, whose row is 7. */
static struct recipient_receipt *tell(const char *name, bool delivered)
{
    struct recipient_receipt *r = add(name, delivered);

    strcpy(r->message_id, "m-1");
    return r;
}

static int hear(void)
{
    struct err err = {0};

    return recipient_hear(db, &hearing, receipts, n, &err);
}

#define FOUND(rows_) EXPECT("receipt_find", .answers = {{"references", .rows = (rows_)}})
/* id|status|delivery|refunded|user|price|position|message|provider|unknown|attempt */
#define ROW(status_, delivery_, provider_, unknown_) \
    "7|" status_ "|" delivery_ "|0|10|5|0|m-1|" provider_ "|" unknown_ "|1"
#define MOVING(row_, lines_, state_)                                        \
    EXPECT("receipt_lock", .has = {"LOCK IN SHARE MODE", "customer_moves"}, \
           .answers = {{"recipients", .rows = (row_), .affected = 1},       \
                       {"lines", .rows = (lines_), .affected = 3},          \
                       {"moves", .rows = "10|" state_}})
#define UNDELIVERED_AND_REFUNDED "7|done|3|1|10|5|0|m-1|alfa||1"
/* status id|operator|state|parts|seen|match|waited */
#define LINE(name_, state_) "7|" name_ "|" state_ "|1||x|1500"
#define LOCKED(row_, lines_)                                                  \
    EXPECT("receipt_lock", .has = {"WHERE id IN (7) ORDER BY id FOR UPDATE"}, \
           .answers = {{"recipients", .rows = (row_), .affected = 1},         \
                       {"lines", .rows = (lines_), .affected = 3},            \
                       {"moves", .rows = ""}})

/* Nothing is written down here, whatever it says; the other cell finds it by the reference. */
START_TEST(of_who_has_left_it_is_for_the_other_cell)
{
    static const char *const states[] = {"3", "4"};

    tell("alfa", false);
    FOUND("0|7");
    if (_i)
        MOVING(ROW("done", "1", "alfa", ""), LINE("alfa", "1"), "4");
    else
        MOVING(ROW("moved", "0", "", ""), "", "3");
    ck_assert_int_eq(hear(), 0);
    ck_assert_msg(receipts[0].result == RECEIPT_MOVED, "state %s", states[_i]);
    ck_assert_int_eq(receipts[0].user_id, 10);
    ck_assert_str_eq(receipts[0].message_id, "m-1");
    ck_assert_str_eq(fake_db_ran(), "receipt_find receipt_lock");
}
END_TEST

START_TEST(of_who_is_on_the_way_here_it_waits)
{
    tell("alfa", true);
    FOUND("0|7");
    MOVING(ROW("done", "1", "alfa", ""), LINE("alfa", "1"), "5");
    ck_assert_int_eq(hear(), 0);
    ck_assert_int_eq(receipts[0].result, RECEIPT_EARLY);
    ck_assert_str_eq(fake_db_ran(), "receipt_find receipt_lock");
}
END_TEST

START_TEST(delivered_is_the_recipients)
{
    tell("alfa", true);
    FOUND("0|7");
    LOCKED(ROW("done", "1", "alfa", ""), LINE("alfa", "1"));
    EXPECT("deliveries_write", .has = {"(7,'alfa','x',2,1,"});
    EXPECT("receipt_update",
           .has = {"SET delivery=2,delivery_refunded=0 WHERE id IN (7)", "status IN ('done')",
                   "delivery NOT IN (2,3)"},
           .affected = 1);
    ck_assert_int_eq(hear(), 0);
    ck_assert_int_eq(receipts[0].result, RECEIPT_CHANGED);
    ck_assert_int_eq(receipts[0].waited_ms, 1500);
    ck_assert_int_eq(receipts[0].user_id, 10);
}
END_TEST

START_TEST(what_nobody_knows_is_early_and_nothing_is_written)
{
    strcpy(add("alfa", true)->match_id, "17");
    EXPECT("receipt_find", .has = {"[[0,\"alfa\",\"17\"]]"},
           .answers = {{"matches", .rows = "0|\\N"}});
    ck_assert_int_eq(hear(), 0);
    ck_assert_int_eq(receipts[0].result, RECEIPT_EARLY);
    ck_assert_str_eq(fake_db_ran(), "receipt_find");
}
END_TEST

START_TEST(what_is_being_sent_is_its_owners)
{
    tell("alfa", true);
    FOUND("0|7");
    LOCKED(ROW("sending", "0", "", ""), "");
    ck_assert_int_eq(hear(), 0);
    ck_assert_int_eq(receipts[0].result, RECEIPT_EARLY);
    ck_assert_str_eq(fake_db_ran(), "receipt_find receipt_lock");
}
END_TEST

START_TEST(a_repeated_one_costs_no_write)
{
    tell("alfa", true);
    tell("alfa", false);
    FOUND("0|7\n1|7");
    LOCKED(ROW("done", "2", "alfa", ""), LINE("alfa", "2"));
    ck_assert_int_eq(hear(), 0);
    ck_assert_int_eq(receipts[0].result, RECEIPT_REPEATED);
    ck_assert_int_eq(receipts[1].result, RECEIPT_REPEATED);
    ck_assert_str_eq(fake_db_ran(), "receipt_find receipt_lock");
}
END_TEST

/* ---- everybody who may have it ---- */

static const struct {
    const char *unknown;
    const char *lines;
    const char *name;
    bool delivered;
    int becomes; /* RECIPIENT_DELIVERIES: as it was */
} words[] = {
    {"", LINE("alfa", "1"), "alfa", false, RECIPIENT_DELIVERY_UNDELIVERED},
    {"beta", LINE("alfa", "1") "\n" LINE("beta", "1"), "alfa", false, RECIPIENT_DELIVERIES},
    {"beta", LINE("alfa", "3") "\n" LINE("beta", "1"), "beta", false,
     RECIPIENT_DELIVERY_UNDELIVERED},
    {"beta", LINE("alfa", "3") "\n" LINE("beta", "1"), "beta", true, RECIPIENT_DELIVERY_DELIVERED},
    {"beta", LINE("alfa", "1") "\n" LINE("beta", "1"), "beta", true, RECIPIENT_DELIVERY_DELIVERED},
    {"beta", LINE("alfa", "1"), "alfa", false, RECIPIENT_DELIVERIES}, /* beta tells nothing */
    {"beta,gone", LINE("alfa", "3") "\n" LINE("beta", "1"), "beta", false, RECIPIENT_DELIVERIES},
    {"*", LINE("alfa", "1"), "alfa", false, RECIPIENT_DELIVERIES},
    {"beta,?", LINE("alfa", "3") "\n" LINE("beta", "1"), "beta", false, RECIPIENT_DELIVERIES},
    {"", LINE("alfa", "1"), "beta", false, RECIPIENT_DELIVERIES}, /* not its provider */
    {"", LINE("alfa", "1"), "beta", true, RECIPIENT_DELIVERY_DELIVERED},
    {"", LINE("alfa", "4"), "alfa", true, RECIPIENT_DELIVERY_DELIVERED},
};

START_TEST(undelivered_takes_the_word_of_all)
{
    char row[200];
    char update[64];

    snprintf(row, sizeof(row), "7|done|1|0|10|5|0|m-1|alfa|%s|1", words[_i].unknown);
    snprintf(update, sizeof(update), "SET delivery=%d", words[_i].becomes);
    tell(words[_i].name, words[_i].delivered);
    FOUND("0|7");
    LOCKED(row, words[_i].lines);
    EXPECT("deliveries_write", .has = {words[_i].name});
    if (words[_i].becomes != RECIPIENT_DELIVERIES)
        EXPECT("receipt_update", .has = {update}, .affected = 1);
    ck_assert_int_eq(hear(), 0);
    ck_assert_int_eq(receipts[0].result,
                     words[_i].becomes == RECIPIENT_DELIVERIES ? RECEIPT_NOTED : RECEIPT_CHANGED);
}
END_TEST

START_TEST(undelivered_is_refunded_once_where_that_is_set)
{
    hearing.refund_undelivered = true;
    tell("alfa", false);
    tell("alfa", false);
    FOUND("0|7\n1|7");
    LOCKED(ROW("done", "1", "alfa", ""), LINE("alfa", "1"));
    EXPECT("deliveries_write");
    EXPECT("receipt_update", .has = {"delivery=3,delivery_refunded=1"}, .affected = 1);
    EXPECT("refund_lock_balances", .rows = "10|100|0", .affected = 1);
    EXPECT("refund", .has = {"(10,5,'refund'", "'r-m-1-0'"});
    EXPECT("refund", .has = {"balance=balance+(5)"});
    ck_assert_int_eq(hear(), 0);
    ck_assert_int_eq(receipts[0].result, RECEIPT_CHANGED);
    ck_assert_int_eq(receipts[1].result, RECEIPT_REPEATED);
}
END_TEST

/* ---- after the end ---- */

static const struct {
    const char *row, *line;
    enum receipt_result result;
} ends[] = {
    {ROW("failed", "0", "", "alfa"), "", RECEIPT_AFTER_REFUND},
    {UNDELIVERED_AND_REFUNDED, LINE("alfa", "3"), RECEIPT_AFTER_REFUND},
    {ROW("done", "2", "alfa", "beta"), LINE("alfa", "2") "\n" LINE("beta", "1"), RECEIPT_NOTED},
    {ROW("done", "3", "alfa", ""), LINE("alfa", "3"), RECEIPT_NOTED}, /* nothing was given back */
};

START_TEST(what_comes_after_the_end_is_kept_and_changes_nothing)
{
    hearing.refund_undelivered = true;
    tell(_i == 2 ? "beta" : "alfa", true);
    FOUND("0|7");
    LOCKED(ends[_i].row, ends[_i].line);
    EXPECT("deliveries_write", .has = {",2,1,"});
    ck_assert_int_eq(hear(), 0);
    ck_assert_int_eq(receipts[0].result, ends[_i].result);
    ck_assert_str_eq(fake_db_ran(), "receipt_find receipt_lock deliveries_write");
}
END_TEST

/* ---- an unknown outcome ---- */

START_TEST(a_receipt_proves_who_has_what_is_pending)
{
    strcpy(tell("beta", true)->match_id, "b-17");
    FOUND("0|7");
    LOCKED(ROW("pending", "0", "", "alfa,beta"), "");
    EXPECT("receipt_prove",
           .has = {"status='done',provider='beta',provider_message_id='b-17'",
                   "unknown_operators='alfa'", "delivery=1", "id=7 AND status IN ('pending')"},
           .affected = 1);
    EXPECT("deliveries_write", .has = {"(7,'beta','b-17',2,1,"});
    EXPECT("receipt_update", .has = {"delivery=2"}, .affected = 1);
    ck_assert_int_eq(hear(), 0);
    ck_assert_int_eq(receipts[0].result, RECEIPT_CHANGED);
}
END_TEST

START_TEST(one_that_failed_proves_it_too_and_the_other_may_still_deliver)
{
    tell("beta", false);
    FOUND("0|7");
    LOCKED(ROW("pending", "0", "", "alfa,beta"), "");
    EXPECT("receipt_prove", .affected = 1);
    EXPECT("deliveries_write", .has = {"(7,'beta','',3,1,"});
    ck_assert_int_eq(hear(), 0);
    ck_assert_int_eq(receipts[0].result, RECEIPT_CHANGED);
}
END_TEST

/* ---- parts ---- */

static const struct {
    const char *parts[4]; /* that arrive, one after the other; "-2": it does not */
    enum receipt_parts rule;
    bool delivered[4]; /* whether the recipient is so, then */
} parts[] = {
    {{"1", "2", "3"}, RECEIPT_PARTS_ALL, {false, false, true}},
    {{"3", "3", "1", "2"}, RECEIPT_PARTS_ALL, {false, false, false, true}},
    {{"a", "b", "c"}, RECEIPT_PARTS_ALL, {false, false, true}},
    {{"2", "3", "1"}, RECEIPT_PARTS_FIRST, {false, false, true}},
    {{"a"}, RECEIPT_PARTS_FIRST, {true}},
    {{"1", "2", "3"}, RECEIPT_PARTS_LAST, {false, false, true}},
    {{"3"}, RECEIPT_PARTS_LAST, {true}},
};

START_TEST(parts_are_delivered_as_the_operators_rule_says)
{
    int last = -1;

    for (int i = 0; i < 4 && parts[_i].parts[i]; i++) {
        struct recipient_receipt *r = tell("alfa", true);

        r->rule = parts[_i].rule;
        snprintf(r->part, sizeof(r->part), "%s", parts[_i].parts[i]);
        if (parts[_i].delivered[i])
            last = i;
    }
    FOUND("0|7\n1|7\n2|7\n3|7");
    LOCKED(ROW("done", "1", "alfa", ""), "7|alfa|1|3||x|1500");
    EXPECT("deliveries_write");
    EXPECT("receipt_update", .affected = 1);
    ck_assert_int_eq(hear(), 0);
    for (int i = 0; i < (int)n; i++)
        ck_assert_msg((receipts[i].result == RECEIPT_CHANGED) == (i == last), "part %d", i);
}
END_TEST

START_TEST(a_part_that_fails_fails_the_message)
{
    strcpy(tell("alfa", true)->part, "1");
    strcpy(tell("alfa", false)->part, "2");
    strcpy(tell("alfa", true)->part, "3");
    FOUND("0|7\n1|7\n2|7");
    LOCKED(ROW("done", "1", "alfa", ""), "7|alfa|1|3||x|1500");
    EXPECT("deliveries_write", .has = {"(7,'alfa','x',3,3,"});
    EXPECT("receipt_update", .has = {"delivery=3"}, .affected = 1);
    ck_assert_int_eq(hear(), 0);
    ck_assert_int_eq(receipts[1].result, RECEIPT_CHANGED);
    ck_assert_int_eq(receipts[2].result, RECEIPT_NOTED);
}
END_TEST

/* ---- the row that is meant ---- */

START_TEST(a_row_that_was_counted_to_and_is_another_one_is_looked_for)
{
    struct recipient_receipt *r = tell("alfa", true);

    r->position = 3;
    FOUND("0|10");
    EXPECT("receipt_lock",
           .answers = {{"recipients", .rows = "10|done|1|0|10|5|0|m-9|alfa||1", .affected = 1},
                       {"lines", .rows = ""},
                       {"moves", .rows = ""}});
    EXPECT("receipt_find", .has = {"message_identifier='m-1' AND position=3"}, .rows = "7");
    EXPECT("receipt_lock",
           .answers = {{"recipients", .rows = "7|done|1|0|10|5|3|m-1|alfa||1", .affected = 1},
                       {"lines", .rows = ""},
                       {"moves", .rows = ""}});
    EXPECT("deliveries_write", .has = {"(7,'alfa'"});
    EXPECT("receipt_update", .has = {"IN (7)"}, .affected = 1);
    ck_assert_int_eq(hear(), 0);
    ck_assert_int_eq(receipts[0].result, RECEIPT_CHANGED);
}
END_TEST

START_TEST(a_change_under_the_lock_is_a_bug)
{
    struct err err = {0};

    tell("alfa", true);
    FOUND("0|7");
    LOCKED(ROW("done", "1", "alfa", ""), LINE("alfa", "1"));
    EXPECT("deliveries_write");
    EXPECT("receipt_update", .affected = 0);
    ck_assert_int_eq(recipient_hear(db, &hearing, receipts, n, &err), -1);
    ck_assert_int_eq(err.kind, ERR_BUG);
}
END_TEST

/* ---- what nobody tells ---- */

START_TEST(what_has_waited_long_enough_is_unreported)
{
    struct err err = {0};
    uint64_t looked;
    uint64_t unreported;

    EXPECT("receipt_look_back", .has = {"look_at<=NOW(6) ORDER BY look_at LIMIT 100"},
           .rows = "9\n7");
    EXPECT("receipt_look_back",
           .has = {"IN (7,9) ORDER BY id FOR UPDATE", "IF(state=1,4,state)", "INTERVAL 90 DAY"},
           .answers = {{"looked", .affected = 2},
                       {"unreported", .rows = "7|m-1|0|10|5|alfa|1", .affected = 1}});
    EXPECT("receipt_update", .has = {"delivery=4", "IN (7)"}, .affected = 1);
    EXPECT("commit");
    ck_assert_int_eq(recipient_look_back(db, 90, 100, &looked, &unreported, &err), 0);
    ck_assert_uint_eq(looked, 2);
    ck_assert_uint_eq(unreported, 1);
}
END_TEST

START_TEST(nothing_is_due)
{
    struct err err = {0};
    uint64_t looked;
    uint64_t unreported;

    EXPECT("receipt_look_back", .rows = "");
    ck_assert_int_eq(recipient_look_back(db, 90, 100, &looked, &unreported, &err), 0);
    ck_assert_uint_eq(looked, 0);
    ck_assert_str_eq(fake_db_ran(), "receipt_look_back");
}
END_TEST

/* ---- what a settle asks for ---- */

START_TEST(a_settle_writes_down_who_is_asked)
{
    static const struct recipient_asked asked[] = {{"alfa", "17", 3}, {"beta", "", 0}};
    struct recipient_change changes[2] = {{.id = 7,
                                           .transition = RECIPIENT_DELIVER,
                                           .attempt = 1,
                                           .message_id = "m-1",
                                           .provider = "alfa",
                                           .provider_id = "0x11",
                                           .unknown = "beta",
                                           .asked = asked,
                                           .asked_count = 2},
                                          {.id = 8,
                                           .transition = RECIPIENT_DELIVER,
                                           .attempt = 1,
                                           .message_id = "m-1",
                                           .provider = "gamma",
                                           .provider_id = "g",
                                           .unknown = ""}};
    struct recipient_packet packet = {
        .owner = 5, .changes = changes, .change_count = 2, .receipt_wait_hours = 72};
    struct err err = {0};

    EXPECT("settle_done",
           .has = {"delivery=CASE id WHEN 7 THEN 1 WHEN 8 THEN 0 END",
                   "INSERT INTO deliveries(status_id,operator,match_id,parts,look_at) VALUES "
                   "(7,'alfa','17',3,NOW(6)+INTERVAL 72 HOUR),(7,'beta','',1,",
                   "COMMIT"},
           .answers = {{"done-1", .affected = 2}});
    ck_assert_int_eq(recipient_packet_run(db, &packet, &err), 0);
    ck_assert_int_eq(changes[0].result, RECIPIENT_CHANGED);
}
END_TEST

/* Not a byte more than before: what is not used costs nothing. */
START_TEST(a_settle_that_asks_nobody_is_as_it_was)
{
    struct recipient_change change = {.id = 7,
                                      .transition = RECIPIENT_DELIVER,
                                      .attempt = 1,
                                      .message_id = "m-1",
                                      .provider = "alfa",
                                      .provider_id = "p",
                                      .unknown = ""};
    struct recipient_packet packet = {.owner = 5, .changes = &change, .change_count = 1};
    struct err err = {0};

    EXPECT("settle_done", .lacks = {"deliver", "COMMIT"}, .answers = {{"done-1", .affected = 1}});
    ck_assert_int_eq(recipient_packet_run(db, &packet, &err), 0);
    ck_assert_str_eq(fake_db_ran(), "settle_done");
}
END_TEST

#define COUNT(table) ((int)(sizeof(table) / sizeof((table)[0])))

int main(void)
{
    Suite *s = suite_create("recipient_receipt");
    TCase *t = tcase_create("recipient_receipt");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, of_who_has_left_it_is_for_the_other_cell, 0, 2);
    tcase_add_test(t, of_who_is_on_the_way_here_it_waits);
    tcase_add_test(t, delivered_is_the_recipients);
    tcase_add_test(t, what_nobody_knows_is_early_and_nothing_is_written);
    tcase_add_test(t, what_is_being_sent_is_its_owners);
    tcase_add_test(t, a_repeated_one_costs_no_write);
    tcase_add_loop_test(t, undelivered_takes_the_word_of_all, 0, COUNT(words));
    tcase_add_test(t, undelivered_is_refunded_once_where_that_is_set);
    tcase_add_loop_test(t, what_comes_after_the_end_is_kept_and_changes_nothing, 0, COUNT(ends));
    tcase_add_test(t, a_receipt_proves_who_has_what_is_pending);
    tcase_add_test(t, one_that_failed_proves_it_too_and_the_other_may_still_deliver);
    tcase_add_loop_test(t, parts_are_delivered_as_the_operators_rule_says, 0, COUNT(parts));
    tcase_add_test(t, a_part_that_fails_fails_the_message);
    tcase_add_test(t, a_row_that_was_counted_to_and_is_another_one_is_looked_for);
    tcase_add_test(t, a_change_under_the_lock_is_a_bug);
    tcase_add_test(t, what_has_waited_long_enough_is_unreported);
    tcase_add_test(t, nothing_is_due);
    tcase_add_test(t, a_settle_writes_down_who_is_asked);
    tcase_add_test(t, a_settle_that_asks_nobody_is_as_it_was);
    suite_add_tcase(s, t);
    return suite_run(s);
}
