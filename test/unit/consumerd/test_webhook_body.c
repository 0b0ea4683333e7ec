#include "consumerd/webhook_body.h"

#include <check.h>
#include <jansson.h>
#include <string.h>

#include "consumerd/webhook_post.h"
#include "test/unit/suite.h"

static struct webhook_event events[2] = {
    {.subject = "0193-1", .kind = WEBHOOK_DONE, .created_us = 1, .data = (char[]){"{\"a\":1}"}},
    {.subject = "0193-2", .kind = WEBHOOK_FAILED, .created_us = 2, .data = (char[]){"{}"}},
};

START_TEST(one_event_stands_by_itself)
{
    char id[WEBHOOK_REQUEST_ID_SIZE];
    struct buf body = {0};

    ck_assert(webhook_body_put(&body, 1, events, 1));
    ck_assert_str_eq(body.data, "{\"id\":\"0193-1-done\",\"type\":\"message.done\",\"timestamp\":"
                                "\"1970-01-01T00:00:00.000001Z\",\"data\":{\"a\":1}}");
    ck_assert(webhook_body_id(id, 1, events, 1));
    ck_assert_str_eq(id, "0193-1-done");
    buf_free(&body);
}
END_TEST

START_TEST(a_batch_is_a_list_however_short)
{
    char id[WEBHOOK_REQUEST_ID_SIZE], again[WEBHOOK_REQUEST_ID_SIZE],
        other[WEBHOOK_REQUEST_ID_SIZE];
    struct buf body = {0};
    json_t *root;

    ck_assert(webhook_body_put(&body, 100, events, 2));
    root = json_loadb(body.data, body.len, 0, NULL);
    ck_assert_str_eq(json_string_value(json_object_get(root, "type")), "batch");
    ck_assert_uint_eq(json_array_size(json_object_get(root, "data")), 2);
    json_decref(root);
    ck_assert(webhook_body_id(id, 100, events, 2) && webhook_body_id(again, 100, events, 2) &&
              webhook_body_id(other, 100, events, 1));
    ck_assert_str_eq(id, again);
    ck_assert_str_ne(id, other);
    ck_assert(!strncmp(id, "batch-", 6));
    buf_free(&body);
}
END_TEST

/* Those of the specification's own tests. */
START_TEST(a_signature_is_the_known_one)
{
    static const uint8_t key[] = {0x31, 0xf2, 0x90, 0xf6, 0xbf, 0x06, 0x29, 0x8a,
                                  0xab, 0x4f, 0x08, 0xd4, 0x3c, 0x3f, 0x08, 0x2c,
                                  0xf6, 0x48, 0xa3, 0x62, 0xda, 0x2d, 0xa4, 0xb0};
    static const char known[] = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    struct webhook_secret secrets[2] = {{.len = sizeof(key)}};
    struct buf body = {0}, out = {0}, both = {0}, secret = {0};

    memcpy(secrets[0].bytes, key, sizeof(key));
    webhook_secret_put(&secret, &secrets[0]);
    ck_assert_str_eq(secret.data, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    buf_puts(&body, "{\"test\": 2432232314}");
    ck_assert(webhook_body_sign(&out, secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, &body));
    ck_assert_str_eq(out.data, known);
    secrets[1] = secrets[0];
    ck_assert(webhook_body_sign(&both, secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, &body));
    ck_assert(!strncmp(both.data, known, strlen(known)) && both.data[strlen(known)] == ' ');
    ck_assert_str_eq(both.data + strlen(known) + 1, known);
    buf_free(&body);
    buf_free(&out);
    buf_free(&both);
    buf_free(&secret);
}
END_TEST

START_TEST(statuses_and_what_they_mean)
{
    static const struct {
        long status;
        enum webhook_result result;
    } rows[] = {{200, WEBHOOK_OK},        {204, WEBHOOK_OK},       {299, WEBHOOK_OK},
                {301, WEBHOOK_REDIRECT},  {302, WEBHOOK_REDIRECT}, {308, WEBHOOK_REDIRECT},
                {400, WEBHOOK_REFUSED},   {404, WEBHOOK_REFUSED},  {410, WEBHOOK_GONE},
                {429, WEBHOOK_THROTTLED}, {500, WEBHOOK_ERROR},    {503, WEBHOOK_ERROR},
                {600, WEBHOOK_ERROR}};

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        ck_assert_int_eq(webhook_result_of(rows[i].status), rows[i].result);
}
END_TEST

START_TEST(schedules)
{
    static const char *const wrong[] = {
        "",    ",", "5,",  ",5",     "0",
        "5,0", "x", "5;6", "604801", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1"};
    struct webhook_schedule schedule;

    ck_assert(webhook_schedule_parse(WEBHOOK_SCHEDULE, &schedule));
    ck_assert_uint_eq(schedule.n, 9);
    ck_assert_int_eq(schedule.sec[0], 5);
    ck_assert_int_eq(schedule.sec[8], 86400);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_msg(!webhook_schedule_parse(wrong[i], &schedule), "%s", wrong[i]);
}
END_TEST

START_TEST(urls)
{
    static const char *const right[] = {"https://example.com", "http://example.com:8080/a?b=c@d",
                                        "HTTPS://[::1]/", "https://example.com/%20"};
    static const char *const wrong[] = {"",
                                        "example.com",
                                        "ftp://example.com",
                                        "https://",
                                        "https:///a",
                                        "https://a@b/",
                                        "https://a:b@c/",
                                        "https://a/#b",
                                        "https://a/ b",
                                        "https://a/\xc3\xa4",
                                        "https://a/\"",
                                        "https://a:0/",
                                        "https://a:99999/",
                                        "https://:80/",
                                        "file:///etc/passwd",
                                        "https://a/\n"};

    for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++)
        ck_assert_msg(!webhook_url_fault(right[i]), "%s", right[i]);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_msg(webhook_url_fault(wrong[i]) != NULL, "%s", wrong[i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("webhook_body");
    TCase *t = tcase_create("webhook_body");

    tcase_add_test(t, one_event_stands_by_itself);
    tcase_add_test(t, a_batch_is_a_list_however_short);
    tcase_add_test(t, a_signature_is_the_known_one);
    tcase_add_test(t, statuses_and_what_they_mean);
    tcase_add_test(t, schedules);
    tcase_add_test(t, urls);
    suite_add_tcase(s, t);
    return suite_run(s);
}
