#include "api/webhook_task.h"

#include <check.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

static struct webhook_task task;
static struct webhook_fault fault;

static bool parse(const char *body, int64_t customer_id)
{
    task = (struct webhook_task){0};
    return webhook_task_parse(&task, body, strlen(body), customer_id, &fault);
}

START_TEST(what_an_endpoint_may_be)
{
    ck_assert(parse("{\"url\":\"https://a/\",\"user_id\":7}", 0));
    ck_assert(task.customer_id == 7 && task.batch == 1 && task.kinds == WEBHOOK_CHOICES);
    ck_assert_str_eq(task.url, "https://a/");
    ck_assert(parse("{\"url\":\"http://a\",\"events\":[\"balance.low\",\"message.done\"],"
                    "\"batch\":100,\"more\":1}",
                    5));
    ck_assert(task.customer_id == 5 && task.batch == 100);
    ck_assert_uint_eq(task.kinds, WEBHOOK_BIT(WEBHOOK_DONE) | WEBHOOK_BIT(WEBHOOK_BALANCE_LOW));
}
END_TEST

START_TEST(what_it_may_not)
{
    static const struct {
        const char *body, *code, *field;
    } rows[] = {
        {"", "invalid_json", NULL},
        {"[]", "invalid_json", NULL},
        {"{\"url\":\"https://a/\",\"url\":\"https://b/\"}", "invalid_json", NULL},
        {"{\"url\":\"https://a/\"}", "invalid_input", "user_id"},
        {"{\"url\":\"https://a/\",\"user_id\":0}", "invalid_input", "user_id"},
        {"{\"url\":\"https://a/\",\"user_id\":\"1\"}", "invalid_input", "user_id"},
        {"{\"user_id\":1}", "invalid_input", "url"},
        {"{\"user_id\":1,\"url\":1}", "invalid_input", "url"},
        {"{\"user_id\":1,\"url\":\"https://a/\\u0000\"}", "invalid_input", "url"},
        {"{\"user_id\":1,\"url\":\"https://a/\",\"events\":\"message.done\"}", "invalid_input",
         "events"},
        {"{\"user_id\":1,\"url\":\"https://a/\",\"events\":[\"webhook.disabled\"]}",
         "invalid_input", "events"},
        {"{\"user_id\":1,\"url\":\"https://a/\",\"events\":[1]}", "invalid_input", "events"},
        {"{\"user_id\":1,\"url\":\"https://a/\",\"batch\":0}", "invalid_input", "batch"},
        {"{\"user_id\":1,\"url\":\"https://a/\",\"batch\":1.5}", "invalid_input", "batch"},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        ck_assert_msg(!parse(rows[i].body, 0), "%s", rows[i].body);
        ck_assert_str_eq(fault.code, rows[i].code);
        ck_assert_msg(!rows[i].field == !fault.field, "%s", rows[i].body);
        if (rows[i].field)
            ck_assert_str_eq(fault.field, rows[i].field);
    }
}
END_TEST

START_TEST(paths)
{
    static const char *const wrong[] = {
        "", "0", "x", "-1", "1x", "1/", "99999999999999999999", "9223372036854775808"};
    const char *word;
    uint64_t id;

    ck_assert(webhook_task_path("17", &id, &word) && id == 17 && !*word);
    ck_assert(webhook_task_path("17/attempts", &id, &word) && !strcmp(word, "attempts"));
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_msg(!webhook_task_path(wrong[i], &id, &word), "%s", wrong[i]);
}
END_TEST

START_TEST(times)
{
    static const struct {
        const char *text;
        int64_t us;
    } right[] = {{"1970-01-01T00:00:00Z", 0},
                 {"1970-01-01t00:00:01.5z", 1500000},
                 {"1970-01-01T02:00:00.0000019+02:00", 1},
                 {"1969-12-31T23:59:59Z", -1},
                 {"2026-02-28T23:00:00-01:00", INT64_C(1772323200000000)},
                 {"2024-02-29T00:00:00Z", INT64_C(1709164800000000)}};
    static const char *const wrong[] = {"",
                                        "now",
                                        "2026-01-02",
                                        "2026-01-02T03:04:05",
                                        "2026-02-30T00:00:00Z",
                                        "2026-13-01T00:00:00Z",
                                        "2026-01-02T24:00:00Z",
                                        "2026-01-02T03:04:05.Z",
                                        "2026-01-02T03:04:05Zx",
                                        "9999-12-31T23:59:59-00:01",
                                        "2026-01-02T03:04:05+2:00"};
    int64_t us;

    for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
        bool ok = clock_read_rfc3339(right[i].text, &us);

        ck_assert_msg(ok == (right[i].us >= 0), "%s", right[i].text);
        if (ok)
            ck_assert_int_eq(us, right[i].us);
    }
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_msg(!clock_read_rfc3339(wrong[i], &us), "%s", wrong[i]);
}
END_TEST

/* The change is made: whatever fails behind it, nobody may say that it was not. */
START_TEST(a_secret_that_could_not_be_shown)
{
    struct db *db;
    struct buf out = {0};
    enum webhook_answer answer;
    struct err err;

    fake_db_begin();
    webhook_task_register();
    db = fake_db_new();
    ck_assert(parse("{\"url\":\"https://a/\",\"user_id\":7}", 0));
    task.most = 5;
    EXPECT("webhooks_change");
    EXPECT("customer_moves_read", .rows = "");
    EXPECT("webhooks_change", .rows = "0");
    EXPECT("webhooks_change");
    EXPECT("webhooks_change", .rows = "3");
    EXPECT("commit");
    EXPECT("webhooks_read", .error = FAKE_LOST);
    ck_assert_int_eq(webhook_task_run(db, &task, &out, &answer, &err), -1);
    ck_assert_int_eq(err.kind, ERR_UNKNOWN);
    buf_free(&out);
    db_free(db);
    fake_db_end();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("webhook_task");
    TCase *t = tcase_create("webhook_task");

    tcase_add_test(t, what_an_endpoint_may_be);
    tcase_add_test(t, what_it_may_not);
    tcase_add_test(t, paths);
    tcase_add_test(t, times);
    tcase_add_test(t, a_secret_that_could_not_be_shown);
    suite_add_tcase(s, t);
    return suite_run(s);
}
