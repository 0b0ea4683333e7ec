#include "libcommon/domain/webhook_queue.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/domain/webhook_store.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

#define NOT_RESTORING "NOT EXISTS (SELECT 1 FROM platform_modes WHERE name='restore' AND is_on=1)"

static struct db *db;
static struct err err;
static const struct webhook_schedule schedule = {.sec = {5, 300}, .n = 2};

static void setup(void)
{
    fake_db_begin();
    webhook_queue_register();
    webhook_store_register();
    db = fake_db_new();
}

static void teardown(void)
{
    db_free(db);
    fake_db_end();
}

START_TEST(what_is_due_is_found_and_how_late_it_is)
{
    struct webhook_due due[2];
    size_t n;
    int64_t lag_ms;

    /* id, how long due, failing, free, since when due */
    EXPECT("webhook_find",
           .has = {"GROUP BY webhook_id", "disabled_at IS NULL", NOT_RESTORING, "OR w.owner=9)"},
           .rows = "4|9000|1|1|1000\n5|700|0|0|9300\n6|600|0|1|9400\n7|500|0|1|9500");
    ck_assert_int_eq(webhook_queue_find(db, 9, false, due, 2, &n, &lag_ms, &err), 0);
    ck_assert(n == 2 && due[0].id == 4 && due[1].id == 6);
    ck_assert(due[0].since_us == 1000 && due[1].since_us == 9400);
    ck_assert_int_eq(lag_ms, 700); /* of one that works, whoever has it */
    EXPECT("webhook_find", .has = {"next_at>=NOW(6)-INTERVAL 10 SECOND"}, .rows = "");
    ck_assert_int_eq(webhook_queue_find(db, 9, true, due, 2, &n, &lag_ms, &err), 0);
    ck_assert(n == 0 && lag_ms == 0);
}
END_TEST

START_TEST(only_what_is_free_is_taken)
{
    uint64_t ids[] = {4, 6, 7};
    size_t n = 3;

    EXPECT("webhook_claim", .has = {"id IN (4,6,7)", "FOR UPDATE SKIP LOCKED"}, .rows = "6");
    EXPECT("webhook_claim", .has = {"SET owner=9,", "WHERE id IN (6)"}, .affected = 1);
    EXPECT("commit");
    ck_assert_int_eq(webhook_queue_claim(db, 9, 1000, ids, &n, &err), 0);
    ck_assert(n == 1 && ids[0] == 6);
    n = 1;
    EXPECT("webhook_claim", .rows = "");
    EXPECT("commit");
    ck_assert_int_eq(webhook_queue_claim(db, 9, 1000, ids, &n, &err), 0);
    ck_assert_uint_eq(n, 0);
}
END_TEST

START_TEST(a_page_of_an_endpoint)
{
    struct webhook_page page;

    EXPECT("webhook_load",
           .has = {"id=6 AND owner=9", "b.kind<e.kind", NOT_RESTORING,
                   "+INTERVAL 400 MICROSECOND AND", "LIMIT 100"},
           .lacks = {"messages"}, /* nobody collects spans */
           .answers = {{"hook", "https://a/|1|secret|\\N|2|5000|-3|7"},
                       {"due", "m-0|0|1|5|{\"a\":1}|500\nm-1|77|0|5|{}|510\nm-2|1|0|6|{}|520", 3}});
    ck_assert_int_eq(webhook_queue_load(db, 9, 6, 400, 100, &page, &err), 0);
    ck_assert_int_eq(page.since_us, 500);
    ck_assert(page.ours && page.batch == 1 && page.failures == 2 && page.calls == 7);
    ck_assert(page.failing_ms == 5000 && page.paused_ms == 0);
    ck_assert(page.secrets[0].len == 6 && page.secrets[1].len == 0);
    ck_assert_uint_eq(page.n, 2); /* a kind that nobody knows waits */
    ck_assert_str_eq(page.events[0].subject, "m-0");
    ck_assert(page.events[0].attempts == 1 && page.events[1].kind == WEBHOOK_FAILED);
    webhook_page_free(&page);
    EXPECT("webhook_load", .answers = {{"hook", ""}, {"due", ""}});
    ck_assert_int_eq(webhook_queue_load(db, 9, 6, 0, 100, &page, &err), 0);
    ck_assert(!page.ours);
    webhook_page_free(&page);
}
END_TEST

static struct webhook_event events[] = {
    {.subject = "m-0", .kind = WEBHOOK_DONE},
    {.subject = "it's", .kind = WEBHOOK_DELIVERED},
    {.subject = "m-2", .kind = WEBHOOK_DONE},
};

START_TEST(what_came_of_calls_is_one_transaction)
{
    const struct webhook_call calls[] = {
        {.webhook_id = 6,
         .call_no = 501,
         .events = events,
         .n = 2,
         .delivered = true,
         .result = "delivered",
         .status = 200},
        {.webhook_id = 6,
         .call_no = 502,
         .events = events + 2,
         .n = 1,
         .result = "throttled",
         .status = 429,
         .rest_ms = 1500},
    };
    const struct webhook_standing standing = {
        .id = 6, .calls = 502, .failures = 1, .pause_ms = 1500};

    EXPECT("webhook_settle",
           .has = {"failures=1,failing_since=COALESCE(failing_since,NOW(6)),paused_until=NOW(6)",
                   "delivered_at=NOW(6),attempts=attempts+1,last_status=200 WHERE webhook_id=6 AND "
                   "kind=2 AND next_at IS NOT NULL AND subject IN ('it\\'s')",
                   "GREATEST(2,CAST(ELT(attempts+1,5,300) AS SIGNED)) SECOND", "(6,1,501,"});
    ck_assert_int_eq(webhook_queue_settle(db, 9, &schedule, calls, 2, &standing, 1, &err), 0);
    ck_assert_ptr_nonnull(strstr(fake_db_sql("webhook_settle"), "'m-2-done',1,'throttled',429"));
}
END_TEST

START_TEST(one_that_is_disabled_is_told_to_the_others)
{
    bool changed;

    EXPECT("webhooks_change", .has = {"change_counters"});
    EXPECT("webhooks_change", .has = {"disabled_for='gone' WHERE id=6 AND disabled_at IS NULL"},
           .affected = 1);
    EXPECT("webhooks_change", .has = {"INSERT IGNORE INTO webhook_events", "w.id<>d.id"});
    EXPECT("commit");
    ck_assert_int_eq(webhook_store_disable(db, 6, "gone", &changed, &err), 0);
    ck_assert(changed);
    EXPECT("webhooks_change");
    EXPECT("webhooks_change", .affected = 0);
    ck_assert_int_eq(webhook_store_disable(db, 6, "gone", &changed, &err), 0);
    ck_assert(!changed);
}
END_TEST

START_TEST(a_customer_has_so_many)
{
    const struct webhook_wish wish = {
        .customer_id = 1, .url = "https://a/", .kinds = 1, .batch = 1};
    struct webhook_secret secret = {.len = 2, .bytes = {1, 2}};
    uint64_t id;

    EXPECT("webhooks_change", .has = {"change_counters"});
    EXPECT("customer_moves_read", .rows = "");
    EXPECT("webhooks_change", .has = {"COUNT(*)", "customer_id=1"}, .rows = "4");
    EXPECT("webhooks_change", .has = {"'https://a/',x'0102'"});
    EXPECT("webhooks_change", .rows = "17");
    EXPECT("commit");
    ck_assert_int_eq(webhook_store_create(db, &wish, &secret, 5, &id, &err), 0);
    ck_assert_uint_eq(id, 17);
    EXPECT("webhooks_change");
    EXPECT("customer_moves_read", .rows = "");
    EXPECT("webhooks_change", .rows = "5");
    ck_assert_int_eq(webhook_store_create(db, &wish, &secret, 5, &id, &err), 0);
    ck_assert_uint_eq(id, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("webhook_queue");
    TCase *t = tcase_create("webhook_queue");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, what_is_due_is_found_and_how_late_it_is);
    tcase_add_test(t, only_what_is_free_is_taken);
    tcase_add_test(t, a_page_of_an_endpoint);
    tcase_add_test(t, what_came_of_calls_is_one_transaction);
    tcase_add_test(t, one_that_is_disabled_is_told_to_the_others);
    tcase_add_test(t, a_customer_has_so_many);
    suite_add_tcase(s, t);
    return suite_run(s);
}
