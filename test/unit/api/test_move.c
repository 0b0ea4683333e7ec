#include <check.h>
#include <string.h>

#include "api/move_copy.h"
#include "api/move_take_in.h"
#include "api/settings.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

static struct db *here, *there;
static struct move_copy copy;

static void setup(void)
{
    fake_db_begin();
    move_copy_register();
    move_take_in_register();
    here = fake_db_new();
    there = fake_db_new();
    copy = (struct move_copy){.db = {here, there}, .customer_id = 7};
}

static void teardown(void)
{
    db_free(here);
    db_free(there);
    fake_db_end();
}

static const struct move_table *table(const char *name)
{
    for (size_t i = 0; i < MOVE_TABLES; i++)
        if (!strcmp(move_tables[i].name, name))
            return &move_tables[i];
    ck_abort_msg("no table %s", name);
    return NULL;
}

/* ---- what belongs to a customer ---- */

START_TEST(a_template_gets_the_customer_and_the_sets)
{
    struct buf sql = {0};

    move_table_put(&sql, "a={customer} AND b IN ({open}) {0}", 7);
    ck_assert_str_eq(sql.data, "a=7 AND b IN ('pending','sending') {0}");
    buf_free(&sql);
}
END_TEST

static void check_schema(const char *more, bool ok, const char *says)
{
    struct err err = {0};

    EXPECT("move_check", .rows = more);
    ck_assert_int_eq(move_table_check(here, &err), ok ? 0 : -1);
    if (!ok) {
        ck_assert_int_eq(err.kind, ERR_PERMANENT);
        ck_assert_ptr_nonnull(strstr(err.msg, says));
    }
}

START_TEST(a_table_or_column_that_is_not_known_stops_it)
{
    check_schema("webhooks|url\nwebhooks|owner\nmessage_status|id\nworkers|anything", true, "");
    check_schema("webhooks|url\nwebhooks|colour", false, "webhooks.colour");
    check_schema("customers_hats|customer_id", false, "customers_hats");
}
END_TEST

/* ---- comparing ---- */

START_TEST(spans_are_the_same_in_count_content_and_amount)
{
    const struct move_span a = {.at = 1, .rows = 2, .check = "99", .sum = "5", .first = "1"};
    struct move_span b = a;

    strcpy(b.first, "77"); /* where they lie is each side's own */
    ck_assert(move_span_same(&a, &b));
    ck_assert(!move_span_same(&a, NULL));
    ck_assert(!move_span_same(NULL, &b));
    strcpy(b.sum, "6");
    ck_assert(!move_span_same(&a, &b));
    b = a;
    strcpy(b.check, "98");
    ck_assert(!move_span_same(&a, &b));
    b = a;
    b.rows = 3;
    ck_assert(!move_span_same(&a, &b));
}
END_TEST

/* Of four minutes one is the same, one differs, one is not there, and one differs again. */
START_TEST(what_differs_is_read_here_and_written_there)
{
    struct move_figures f;
    struct err err;

    EXPECT("move_compare",
           .has = {"UNIX_TIMESTAMP(t.created_at) DIV 60", "t.user_id=7",
                   "IF(t.status IN ('pending','sending'),'moved',t.status)"},
           .rows = "1|2|11|4|1|2\n2|1|22|2|5|5\n3|1|33|2|9|10\n4|1|44|2|11|11\n5|1|55|2|12|12");
    EXPECT("move_compare",
           .rows = "1|2|11|4|101|102\n2|1|23|2|105|105\n4|1|44|2|106|106\n5|1|56|2|112|112");
    EXPECT("move_read", .has = {"t.id BETWEEN '5' AND '10'", "t.id>=5 ORDER BY t.id"},
           .rows = "7|done|normal|0912|alfa|m-2|0|2|1|0|x|||\\N|t|u|r|0|0|5");
    EXPECT("move_write",
           .has = {"INSERT INTO message_status(user_id,status,", "('7','done','normal','0912',",
                   "NULL,'t','u'", "ON DUPLICATE KEY UPDATE user_id=VALUES(user_id),"},
           .lacks = {"owner"});
    EXPECT("move_read", .has = {"t.id BETWEEN '12' AND '12'"}, .rows = "");
    ck_assert_int_eq(move_copy_table(&copy, table("message_status"), &f, &err), 0);
    ck_assert_uint_eq(f.spans, 5);
    ck_assert_uint_eq(f.different, 3);
    ck_assert_uint_eq(f.rows[MOVE_HERE], 6);
    ck_assert_uint_eq(f.rows[MOVE_THERE], 5);
    ck_assert_int_eq(f.sum[MOVE_HERE], 12);
}
END_TEST

/* Janitors of both cells delete at their own times. */
START_TEST(what_has_gone_here_goes_there)
{
    struct move_figures f;
    struct err err;

    EXPECT("move_compare", .rows = "2|1|22|0|b|b");
    EXPECT("move_compare", .rows = "1|3|9|0|a|a\n2|2|44|0|b|c");
    EXPECT("move_remove", .has = {"DELETE t FROM idempotency_keys t WHERE t.customer_id=7 AND "
                                  "t.created_at BETWEEN 'a' AND 'a'"});
    EXPECT("move_remove", .has = {"BETWEEN 'b' AND 'c'"});
    EXPECT("move_read", .has = {"BETWEEN 'b' AND 'b'"}, .lacks = {"LIMIT"},
           .rows = "7|1|k|h|{}|2026-01-01|b");
    EXPECT("move_write", .has = {"('7','1',x'6b',x'68','{}','2026-01-01')"});
    ck_assert_int_eq(move_copy_table(&copy, table("idempotency_keys"), &f, &err), 0);
}
END_TEST

START_TEST(a_dry_run_writes_nothing)
{
    struct move_figures f;
    struct err err;

    copy.dry_run = true;
    EXPECT("move_compare", .rows = "0|1|22|0|1|1");
    EXPECT("move_compare", .rows = "");
    ck_assert_int_eq(move_copy_table(&copy, table("webhooks"), &f, &err), 0);
    ck_assert_uint_eq(f.different, 1);
    ck_assert_str_eq(fake_db_ran(), "move_compare move_compare");
}
END_TEST

/* A number of this cell's is written as what stands for it there. */
START_TEST(numbers_are_written_as_what_they_stand_for)
{
    struct move_figures f;
    struct err err;

    EXPECT("move_compare", .rows = "1|1|22|0|5|5");
    EXPECT("move_compare", .has = {"s.user_id=7"}, .rows = "");
    EXPECT("move_read", .rows = "m-1|0912|alfa|id|1|1||||||t|l|0|5\n"
                                "m-1|0911|alfa|id|1|1||||||t|l|0|5");
    EXPECT("move_numbers", .has = {"message_identifier IN ('m-1')"},
           .rows = "m-1/0911|71\nm-1/0912|70\nm-1/0913|72");
    EXPECT("move_write", .has = {"INSERT INTO deliveries(status_id,operator,",
                                 "(71,'alfa','id','1','1',x''", "(70,'alfa',"});
    ck_assert_int_eq(move_copy_table(&copy, table("deliveries"), &f, &err), 0);
}
END_TEST

/* While the customer lives here, another look will find it; afterwards there is none. */
START_TEST(what_belongs_to_nothing_there_waits_or_stops_it)
{
    struct move_figures f;
    struct err err;

    for (int lives = 1; lives >= 0; lives--) {
        copy.lives = lives;
        EXPECT("move_compare", .rows = "1|1|22|0|5|5");
        EXPECT("move_compare", .rows = "");
        EXPECT("move_read", .rows = "4|0|1|t|e|1|delivered|200|5|0");
        EXPECT("move_numbers", .has = {"moved_webhooks WHERE customer_id=7"}, .rows = "3|33");
        ck_assert_int_eq(move_copy_table(&copy, table("webhook_attempts"), &f, &err),
                         lives ? 0 : -1);
    }
    ck_assert_int_eq(err.kind, ERR_BUG);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("move");
    TCase *t = tcase_create("move");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_template_gets_the_customer_and_the_sets);
    tcase_add_test(t, a_table_or_column_that_is_not_known_stops_it);
    tcase_add_test(t, spans_are_the_same_in_count_content_and_amount);
    tcase_add_test(t, what_differs_is_read_here_and_written_there);
    tcase_add_test(t, what_has_gone_here_goes_there);
    tcase_add_test(t, a_dry_run_writes_nothing);
    tcase_add_test(t, numbers_are_written_as_what_they_stand_for);
    tcase_add_test(t, what_belongs_to_nothing_there_waits_or_stops_it);
    suite_add_tcase(s, t);
    return suite_run(s);
}
