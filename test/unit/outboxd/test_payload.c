#include "outboxd/payload.h"

#include <check.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/domain/message.h"
#include "test/unit/suite.h"

static struct payload p;
static struct err err;

static int parse(const char *json)
{
    return payload_parse(json, strlen(json), &p, &err);
}

START_TEST(what_libcommon_writes_is_read)
{
    const char *recipients[] = {"+989121234567", "0912"};
    struct message m = {.customer_id = 7,
                        .type = MESSAGE_EXPRESS,
                        .id = "0190b6a0-0000-7000-8000-000000000001",
                        .transaction_id = "c-1",
                        .text = "a \"quoted\" \\ text\n}]{ \xd8\xb3",
                        .text_len = 24,
                        .recipients = recipients,
                        .recipient_count = 2};
    const char *parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    struct message back;
    struct buf out = {0};

    m.text_len = strlen(m.text);
    message_put_payload(&out, &m, "ex\"change", "key", parent, "a=b", 1234567890123456);
    ck_assert_int_eq(payload_parse(out.data, out.len, &p, &err), 0);
    ck_assert_str_eq(p.exchange, "ex\"change");
    ck_assert_str_eq(p.routing_key, "key");
    ck_assert_str_eq(p.traceparent, parent);
    ck_assert_str_eq(p.tracestate, "a=b");
    ck_assert_int_eq(p.accepted_us, 1234567890123456);
    ck_assert_int_eq(message_decode(p.body, p.body_len, &back, &err), 0);
    ck_assert_str_eq(back.text, m.text);
    ck_assert_uint_eq(back.recipient_count, 2);
    message_free(&back);
    buf_free(&out);
}
END_TEST

/* MySQL stores JSON in its own form and writes it out with blanks and in another order. */
START_TEST(order_and_blanks_do_not_matter)
{
    ck_assert_int_eq(parse(" { \"message\" : {\"a\": [1, {\"b\": \"}\"}]} , \"accepted_us\": 5,\n"
                           "\"other\": [\"]\", -1.5e3, null], \"routing_key\": \"k\","
                           "\"exchange\": \"e\" } "),
                     0);
    ck_assert_uint_eq(p.body_len, strlen("{\"a\": [1, {\"b\": \"}\"}]}"));
    ck_assert(!memcmp(p.body, "{\"a\": [1, {\"b\": \"}\"}]}", p.body_len));
    ck_assert_int_eq(p.accepted_us, 5);
    ck_assert_str_eq(p.traceparent, "");
}
END_TEST

START_TEST(what_cannot_be_published_is_refused)
{
    static const char *const bad[] = {
        "",
        "{}",
        "[]",
        "null",
        "{",
        "{\"exchange\"",
        "{\"exchange\":",
        "{\"exchange\":\"e\",\"routing_key\":\"k\"}",
        "{\"exchange\":\"e\",\"message\":{}}",
        "{\"exchange\":1,\"routing_key\":\"k\",\"message\":{}}",
        "{\"exchange\":\"\",\"routing_key\":\"k\",\"message\":{}}",
        "{\"exchange\":\"e\\u0000\",\"routing_key\":\"k\",\"message\":{}}",
        "{\"exchange\":\"e\",\"routing_key\":\"k\",\"message\":[]}",
        "{\"exchange\":\"e\",\"routing_key\":\"k\",\"message\":\"{}\"}",
        "{\"exchange\":\"e\",\"routing_key\":\"k\",\"message\":{\"a\":\"}\"",
        "{\"exchange\":\"e\",\"routing_key\":\"k\\",
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ck_assert_msg(parse(bad[i]) == -1, "%s", bad[i]);
        ck_assert_int_eq(err.kind, ERR_PERMANENT);
    }
}
END_TEST

START_TEST(names_have_amqp_length)
{
    char name[300];
    struct buf json = {0};

    for (size_t n = 254; n < 258; n++) {
        memset(name, 'x', n);
        name[n] = '\0';
        buf_reset(&json);
        buf_printf(&json, "{\"exchange\":\"%s\",\"routing_key\":\"k\",\"message\":{}}", name);
        ck_assert_int_eq(payload_parse(json.data, json.len, &p, &err), n <= 255 ? 0 : -1);
    }
    buf_free(&json);
}
END_TEST

/* A broken trace context must not keep a paid message from leaving. */
START_TEST(bad_trace_context_is_left_out)
{
    ck_assert_int_eq(parse("{\"exchange\":\"e\",\"routing_key\":\"k\",\"message\":{},"
                           "\"traceparent\":\"nonsense\",\"tracestate\":7,\"accepted_us\":\"x\"}"),
                     0);
    ck_assert_str_eq(p.traceparent, "");
    ck_assert_str_eq(p.tracestate, "");
    ck_assert_int_eq(p.accepted_us, 0);
}
END_TEST

/* Every prefix and every changed byte of a good payload: whatever the answer, no read goes astray
 * and what is accepted lies inside the text. */
START_TEST(damaged_payloads_stay_inside)
{
    static const char good[] = "{\"exchange\":\"e\\n\",\"routing_key\":\"k\",\"message\":{\"a\":"
                               "[1,{\"b\":\"\\\\}\"}]},\"tracestate\":\"\",\"accepted_us\":12}";
    static const char bytes[] = "{}[]\",:\\ 1\0";
    size_t n = sizeof(good) - 1;

    for (size_t len = 0; len <= n; len++) {
        for (size_t at = 0; at < len; at++) {
            for (size_t b = 0; b < sizeof(bytes); b++) {
                char *copy = malloc(len);

                memcpy(copy, good, len);
                copy[at] = bytes[b];
                if (!payload_parse(copy, len, &p, &err))
                    ck_assert(p.body >= copy && p.body + p.body_len <= copy + len);
                free(copy);
            }
        }
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("payload");
    TCase *tc = tcase_create("all");

    json_object_seed(1);
    tcase_add_test(tc, what_libcommon_writes_is_read);
    tcase_add_test(tc, order_and_blanks_do_not_matter);
    tcase_add_test(tc, what_cannot_be_published_is_refused);
    tcase_add_test(tc, names_have_amqp_length);
    tcase_add_test(tc, bad_trace_context_is_left_out);
    tcase_add_test(tc, damaged_payloads_stay_inside);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
