#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/domain/message.h"
#include "test/unit/suite.h"

START_TEST(a_message_survives_the_wire)
{
    const char *recipients[] = {"+491", "2"};
    struct message m = {.customer_id = 42,
                        .type = MESSAGE_EXPRESS,
                        .id = "018f-a",
                        .transaction_id = "c-018f-a",
                        .text = "line\n\"quoted\" \\ \xc3\xa9\x01",
                        .text_len = 21,
                        .recipients = recipients,
                        .recipient_count = 2};
    struct buf json = {0};
    struct message got;
    struct err err;

    m.text_len = strlen(m.text);
    message_put_json(&json, &m);
    ck_assert_int_eq(message_decode(json.data, json.len, &got, &err), 0);
    ck_assert_int_eq(got.customer_id, 42);
    ck_assert_int_eq(got.type, MESSAGE_EXPRESS);
    ck_assert_str_eq(got.id, m.id);
    ck_assert_str_eq(got.transaction_id, m.transaction_id);
    ck_assert_uint_eq(got.text_len, m.text_len);
    ck_assert_str_eq(got.text, m.text);
    ck_assert_uint_eq(got.recipient_count, 2);
    ck_assert_str_eq(got.recipients[0], "+491");
    message_free(&got);
    buf_free(&json);
}
END_TEST

/* As MySQL gives it back, too: with a blank behind every comma and colon. */
static void put_spaced(struct buf *out, const struct buf *json)
{
    bool quoted = false;

    for (size_t i = 0; i < json->len; i++) {
        char c = json->data[i];

        quoted ^= c == '"';
        buf_putc(out, c);
        if (!quoted && (c == ',' || c == ':'))
            buf_putc(out, ' ');
    }
}

/* Names as long as they may be, all of quotes. */
static void put_largest_payload(struct buf *out, const struct message *m)
{
    char name[256];
    char state[TRACE_STATE_MAX + 1];
    char parent[TRACE_PARENT_SIZE];

    memset(name, '"', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    memset(state, '"', TRACE_STATE_MAX);
    state[TRACE_STATE_MAX] = '\0';
    memset(parent, '0', sizeof(parent) - 1);
    parent[sizeof(parent) - 1] = '\0';
    message_put_payload(out, m, name, name, parent, state, INT64_MAX);
}

START_TEST(the_largest_message_that_can_be_accepted_is_taken)
{
    static char text[MESSAGE_TEXT_MAX + 1];
    static char numbers[MESSAGE_RECIPIENTS_MAX][MESSAGE_RECIPIENT_MAX + 1];
    static const char *recipients[MESSAGE_RECIPIENTS_MAX];
    struct message m = {.customer_id = INT64_MAX,
                        .type = MESSAGE_EXPRESS,
                        .text = text,
                        .text_len = MESSAGE_TEXT_MAX,
                        .recipients = recipients,
                        .recipient_count = MESSAGE_RECIPIENTS_MAX};
    struct buf json = {0};
    struct buf spaced = {0};
    struct buf payload = {0};
    struct message got;
    struct err err;

    memset(text, 1, MESSAGE_TEXT_MAX);
    memset(m.id, 'i', MESSAGE_ID_MAX);
    memset(m.transaction_id, 't', sizeof(m.transaction_id) - 1);
    for (size_t i = 0; i < MESSAGE_RECIPIENTS_MAX; i++) {
        snprintf(numbers[i], sizeof(numbers[i]), "+%0*zu", MESSAGE_RECIPIENT_MAX - 1, i);
        recipients[i] = numbers[i];
    }
    message_put_json(&json, &m);
    put_spaced(&spaced, &json);
    ck_assert_uint_le(spaced.len, MESSAGE_JSON_MAX);
    put_largest_payload(&payload, &m);
    ck_assert_uint_le(payload.len + spaced.len - json.len + 100, MESSAGE_PAYLOAD_MAX);
    buf_free(&payload);
    ck_assert_int_eq(message_decode(spaced.data, spaced.len, &got, &err), 0);
    ck_assert_uint_eq(got.recipient_count, MESSAGE_RECIPIENTS_MAX);
    ck_assert_uint_eq(got.text_len, MESSAGE_TEXT_MAX);
    message_free(&got);
    buf_free(&json);
    buf_free(&spaced);
}
END_TEST

/* As a document it would take seventy times its bytes and more. */
START_TEST(bulk_is_poison_before_it_is_parsed)
{
    struct buf json = {0};
    struct message got;
    struct err err;

    buf_puts(&json, "{\"customer_id\":1,\"text\":\"a\",\"recipients\":[\"1\"],\"type\":\"normal\","
                    "\"transaction_id\":\"c\",\"message_identifier\":\"m\",\"x\":[{}");
    while (json.len < MESSAGE_JSON_MAX / 2)
        buf_puts(&json, ",{}");
    buf_puts(&json, "]}");
    ck_assert_int_eq(message_decode(json.data, json.len, &got, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    buf_free(&json);
}
END_TEST

static const char *const poison[] = {
    "",
    "not json",
    "[]",
    "{}",
    "{\"customer_id\":0,\"text\":\"a\",\"recipients\":[\"1\"],\"type\":\"normal\",\"transaction_"
    "id\":\"c\","
    "\"message_identifier\":\"m\"}",
    "{\"customer_id\":1,\"text\":\"a\",\"recipients\":[],\"type\":\"normal\",\"transaction_id\":"
    "\"c\","
    "\"message_identifier\":\"m\"}",
    "{\"customer_id\":1,\"text\":\"a\",\"recipients\":[\"1\"],\"type\":\"fast\",\"transaction_id\":"
    "\"c\","
    "\"message_identifier\":\"m\"}",
    "{\"customer_id\":1,\"text\":\"a\",\"recipients\":[\"1\"],\"type\":\"normal\",\"transaction_"
    "id\":\"c\","
    "\"message_identifier\":\"m' OR 1=1\"}",
    "{\"customer_id\":1,\"text\":\"a\",\"recipients\":[\"x\"],\"type\":\"normal\",\"transaction_"
    "id\":\"c\","
    "\"message_identifier\":\"m\"}",
    "{\"customer_id\":1,\"text\":\"a\",\"recipients\":[\"1\"],\"type\":\"normal\",\"transaction_"
    "id\":\"c\"}",
    "{\"customer_id\":1,\"text\":7,\"recipients\":[\"1\"],\"type\":\"normal\",\"transaction_id\":"
    "\"c\","
    "\"message_identifier\":\"m\"}",
};

START_TEST(poison_is_permanent_and_never_quoted)
{
    struct message m = {0};
    struct err err = {0};

    ck_assert_int_eq(message_decode(poison[_i], strlen(poison[_i]), &m, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    ck_assert_ptr_null(strstr(err.msg, "OR 1=1"));
    ck_assert_ptr_null(m.owned);
}
END_TEST

START_TEST(texts_are_utf8_without_nul)
{
    static const struct {
        const char *s;
        size_t n;
        bool ok;
    } cases[] = {
        {"a", 1, true},
        {"", 0, false},
        {"a\0b", 3, false},
        {"\xc3\xa9", 2, true},
        {"\xc3", 1, false},
        {"\xc0\x80", 2, false},     /* overlong NUL */
        {"\xe0\x80\x80", 3, false}, /* overlong */
        {"\xed\xa0\x80", 3, false}, /* surrogate */
        {"\xf0\x9f\x98\x80", 4, true},
        {"\xf4\x90\x80\x80", 4, false}, /* above U+10FFFF */
        {"\x80", 1, false},
        {"\xff", 1, false},
    };
    char longest[MESSAGE_TEXT_MAX + 1];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        ck_assert_msg(message_text_ok(cases[i].s, cases[i].n) == cases[i].ok, "case %zu", i);
    memset(longest, 'a', sizeof(longest));
    ck_assert(message_text_ok(longest, MESSAGE_TEXT_MAX));
    ck_assert(!message_text_ok(longest, MESSAGE_TEXT_MAX + 1));
}
END_TEST

START_TEST(types_are_parsed_exactly)
{
    enum message_type type;

    ck_assert(message_type_parse(message_type_name(MESSAGE_EXPRESS), &type));
    ck_assert_int_eq(type, MESSAGE_EXPRESS);
    ck_assert(!message_type_parse("Express", &type));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("message");
    TCase *t = tcase_create("wire");

    tcase_add_test(t, a_message_survives_the_wire);
    tcase_add_test(t, the_largest_message_that_can_be_accepted_is_taken);
    tcase_add_test(t, bulk_is_poison_before_it_is_parsed);
    tcase_add_loop_test(t, poison_is_permanent_and_never_quoted, 0,
                        (int)(sizeof(poison) / sizeof(poison[0])));
    tcase_add_test(t, texts_are_utf8_without_nul);
    tcase_add_test(t, types_are_parsed_exactly);
    suite_add_tcase(s, t);
    return suite_run(s);
}
