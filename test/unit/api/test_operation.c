#include <check.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/operation.h"
#include "test/unit/suite.h"

static const struct price_settings prices = {.of = {[MESSAGE_NORMAL] = 2, [MESSAGE_EXPRESS] = 5}};
static const struct operation_limits limits = {.max_recipients = 3, .prices = &prices};

static void assert_begins(const char *text, const char *start)
{
    ck_assert_msg(!strncmp(text, start, strlen(start)), "not %s but %s", start, text);
}

static struct operation *send_of(const char *body, struct operation_fault *fault)
{
    return operation_parse_send(body, strlen(body), &limits, fault);
}

static const struct {
    const char *body;
    const char *code;
    const char *field;
} refused[] = {
    {"", "invalid_json", NULL},
    {"[]", "invalid_json", NULL},
    {"{\"customer_id\":1", "invalid_json", NULL},
    {"{\"customer_id\":1,\"customer_id\":2,\"text\":\"a\",\"recipients\":[\"1\"]}", "invalid_input",
     "customer_id"},
    {"{\"customer_id\":9223372036854775808,\"text\":\"a\",\"recipients\":[\"1\"]}", "invalid_input",
     "customer_id"},
    {"{\"text\":\"\\\"{[,:\",\"customer_id\" : -9223372036854775809 }", "invalid_input",
     "customer_id"},
    {"{\"recipients\":[\"1\",[1,2],{\"a\":[3,4]},99999999999999999999]}", "invalid_input",
     "recipients[3]"},
    {"{\"recipients\":[[1,99999999999999999999]]}", "invalid_input", "recipients[0]"},
    {"{\"text\":{\"a\":[1,1e999]}}", "invalid_input", "text"},
    {"{\"a\":[],\"b\":{\"c\":1,\"c\":2}}", "invalid_input", "b"},
    {"{\"unknown\":1,\"a\":[1,2],\"unknown\":2}", "invalid_input", "unknown"},
    {"{\"\\u0061\":1,\"\\u0061\":2}", "invalid_input", NULL},
    {"{\"0123456789012345678901234567890123456789+\":1e999}", "invalid_input", NULL},
    {"{\"\\u0000\":1}", "invalid_input", NULL},
    {"[99999999999999999999]", "invalid_input", NULL},
    {"99999999999999999999", "invalid_input", NULL},
    {"{\"customer_id\":1,\"text\":\"\xff\",\"recipients\":[\"1\"]}", "invalid_json", NULL},
    {"{\"text\":\"a\",\"recipients\":[\"1\"]}", "invalid_input", "customer_id"},
    {"{\"customer_id\":0,\"text\":\"a\",\"recipients\":[\"1\"]}", "invalid_input", "customer_id"},
    {"{\"customer_id\":-1,\"text\":\"a\",\"recipients\":[\"1\"]}", "invalid_input", "customer_id"},
    {"{\"customer_id\":\"1\",\"text\":\"a\",\"recipients\":[\"1\"]}", "invalid_input",
     "customer_id"},
    {"{\"customer_id\":1.5,\"text\":\"a\",\"recipients\":[\"1\"]}", "invalid_input", "customer_id"},
    {"{\"customer_id\":1,\"recipients\":[\"1\"]}", "invalid_input", "text"},
    {"{\"customer_id\":1,\"text\":\"\",\"recipients\":[\"1\"]}", "invalid_input", "text"},
    {"{\"customer_id\":1,\"text\":\"a\\u0000b\",\"recipients\":[\"1\"]}", "invalid_input", "text"},
    {"{\"customer_id\":1,\"text\":\"a\"}", "invalid_input", "recipients"},
    {"{\"customer_id\":1,\"text\":\"a\",\"recipients\":[]}", "invalid_input", "recipients"},
    {"{\"customer_id\":1,\"text\":\"a\",\"recipients\":\"1\"}", "invalid_input", "recipients"},
    {"{\"customer_id\":1,\"text\":\"a\",\"recipients\":[1]}", "invalid_input", "recipients[0]"},
    {"{\"customer_id\":1,\"text\":\"a\",\"recipients\":[\"12a\"]}", "invalid_input",
     "recipients[0]"},
    {"{\"customer_id\":1,\"text\":\"a\",\"recipients\":[\"+\"]}", "invalid_input", "recipients[0]"},
    {"{\"customer_id\":1,\"text\":\"a\",\"recipients\":[\"1\",\"123456789012345678901\"]}",
     "invalid_input", "recipients[1]"},
    {"{\"customer_id\":1,\"text\":\"a\",\"recipients\":[\"1\",\"2\",\"3\",\"4\"]}", "invalid_input",
     "recipients"},
    {"{\"customer_id\":1,\"text\":\"a\",\"recipients\":[\"1\"],\"type\":\"slow\"}", "invalid_input",
     "type"},
    {"{\"customer_id\":1,\"text\":\"a\",\"recipients\":[\"1\"],\"type\":1}", "invalid_input",
     "type"},
    {"{\"customer_id\":1,\"text\":\"a\",\"recipients\":[\"1\"],\"type\":\"normal\\u0000x\"}",
     "invalid_input", "type"},
};

START_TEST(a_wrong_send_is_refused_with_its_field)
{
    struct operation_fault fault;

    ck_assert_ptr_null(send_of(refused[_i].body, &fault));
    ck_assert_str_eq(fault.code, refused[_i].code);
    if (refused[_i].field)
        ck_assert_str_eq(fault.field, refused[_i].field);
    else
        ck_assert_ptr_null(fault.field);
    ck_assert_int_gt(strlen(fault.message), 5);
}
END_TEST

START_TEST(a_send_keeps_its_recipients_once_in_order)
{
    struct operation_fault fault;
    struct operation *op =
        send_of("{\"customer_id\":5,\"text\":\"hi\",\"recipients\":[\"2\",\"1\",\"2\"]}", &fault);

    ck_assert_ptr_nonnull(op);
    ck_assert_int_eq(op->customer_id, 5);
    ck_assert_int_eq(op->message.type, MESSAGE_NORMAL);
    ck_assert_uint_eq(op->message.recipient_count, 2);
    ck_assert_str_eq(op->message.recipients[0], "2");
    ck_assert_str_eq(op->message.recipients[1], "1");
    ck_assert_int_eq(strncmp(op->message.transaction_id, "c-", 2), 0);
    ck_assert_str_eq(op->message.transaction_id + 2, op->message.id);
    operation_free(op);
}
END_TEST

static struct buf with_values(const char *before, size_t n)
{
    struct buf body = {0};

    buf_puts(&body, before);
    for (size_t i = 0; i < n; i++)
        buf_puts(&body, "\"1\",");
    buf_puts(&body, "\"1\"]}");
    return body;
}

START_TEST(more_values_than_there_is_a_use_for_are_refused_where_they_are)
{
    struct buf recipients = with_values("{\"customer_id\":1,\"recipients\":[", 200);
    struct buf unknown = with_values("{\"customer_id\":1,\"recipients\":[\"1\"],\"x\":[", 200);
    struct buf few =
        with_values("{\"customer_id\":1,\"text\":\"a\",\"recipients\":[\"1\"],\"x\":[", 40);
    struct operation_fault fault;
    struct operation *op;

    ck_assert_ptr_null(operation_parse_send(recipients.data, recipients.len, &limits, &fault));
    ck_assert_str_eq(fault.field, "recipients");
    assert_begins(fault.message, "Must be a list of 1 to 3");
    ck_assert_ptr_null(operation_parse_send(unknown.data, unknown.len, &limits, &fault));
    ck_assert_str_eq(fault.code, "invalid_input");
    assert_begins(fault.field, "x[");
    ck_assert_ptr_null(operation_parse_topup(unknown.data, unknown.len, 0, &fault));
    assert_begins(fault.field, "x[");
    op = operation_parse_send(few.data, few.len, &limits, &fault);
    ck_assert_ptr_nonnull(op);
    operation_free(op);
    buf_free(&recipients);
    buf_free(&unknown);
    buf_free(&few);
}
END_TEST

/* The body is gone by the time that a committer looks, and what is counted is what is there. */
START_TEST(nothing_of_the_body_is_kept)
{
    static const char text[] =
        "{\"customer_id\":5,\"text\":\"hi\",\"recipients\":[\"2\",\"1\"],\"x\":"
        "\"0123456789012345678901234567890123456789\"}";
    char *body = strdup(text);
    struct operation_fault fault;
    struct operation *op = send_of(body, &fault);

    memset(body, 'x', strlen(body));
    free(body);
    ck_assert_str_eq(op->message.text, "hi");
    ck_assert_str_eq(op->message.recipients[1], "1");
    ck_assert_uint_ge(op->bytes, sizeof(*op) + malloc_usable_size(op->text) +
                                     malloc_usable_size(op->recipients));
    ck_assert_uint_le(op->bytes, sizeof(*op) + 1024);
    operation_free(op);
}
END_TEST

/* The hash covers the fields that count, whatever the white space and order; nothing else may
 * match. */
START_TEST(the_body_hash_tells_bodies_apart)
{
    static const char *const same[] = {
        "{\"customer_id\":5,\"text\":\"hi\",\"recipients\":[\"1\",\"2\"]}",
        "{ \"recipients\":[\"1\",\"2\",\"1\"], \"text\":\"hi\", \"type\":\"normal\", "
        "\"customer_id\":5 }",
    };
    static const char *const other[] = {
        "{\"customer_id\":5,\"text\":\"hi\",\"recipients\":[\"12\"]}",
        "{\"customer_id\":5,\"text\":\"hi\",\"recipients\":[\"2\",\"1\"]}",
        "{\"customer_id\":5,\"text\":\"hi1\",\"recipients\":[\"2\"]}",
        "{\"customer_id\":5,\"text\":\"hi\",\"recipients\":[\"1\",\"2\"],\"type\":\"express\"}",
    };
    struct operation_fault fault;
    struct operation *first = send_of(same[0], &fault);
    struct operation *op = send_of(same[1], &fault);

    ck_assert_int_eq(operation_set_key(first, "k", &fault), 0);
    ck_assert_int_eq(operation_set_key(op, "k", &fault), 0);
    ck_assert_mem_eq(first->body_hash, op->body_hash, sizeof(op->body_hash));
    operation_free(op);
    for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++) {
        op = send_of(other[i], &fault);
        ck_assert_int_eq(operation_set_key(op, "k", &fault), 0);
        ck_assert_mem_ne(first->body_hash, op->body_hash, sizeof(op->body_hash));
        operation_free(op);
    }
    operation_free(first);
}
END_TEST

START_TEST(a_wrong_key_is_refused)
{
    char longest[OPERATION_KEY_MAX + 2];
    struct operation_fault fault;
    struct operation *op =
        send_of("{\"customer_id\":5,\"text\":\"hi\",\"recipients\":[\"1\"]}", &fault);

    memset(longest, 'k', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    ck_assert_int_eq(operation_set_key(op, "", &fault), -1);
    ck_assert_int_eq(operation_set_key(op, longest, &fault), -1);
    ck_assert_int_eq(operation_set_key(op, "a\tb", &fault), -1);
    ck_assert_str_eq(fault.field, "Idempotency-Key");
    ck_assert_int_eq(operation_set_key(op, longest + 1, &fault), 0);
    operation_free(op);
}
END_TEST

START_TEST(a_topup_takes_positive_amounts_that_fit)
{
    static const char *const wrong[] = {
        "{\"user_id\":1}",
        "{\"user_id\":1,\"balance\":0}",
        "{\"user_id\":1,\"balance\":-5}",
        "{\"user_id\":1,\"balance\":1.5}",
        "{\"user_id\":1,\"balance\":\"7\"}",
        "{\"user_id\":1,\"balance\":4503599627370496}",
        "{\"user_id\":0,\"balance\":5}",
        "{\"user_id\":1,\"balance\":5,\"description\":7}",
    };
    static const char right[] = "{\"user_id\":1,\"balance\":100,\"description\":\"top-up\"}";
    struct operation_fault fault;
    struct operation *op;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ck_assert_ptr_null(operation_parse_topup(wrong[i], strlen(wrong[i]), 0, &fault));
        ck_assert_str_eq(fault.code, "invalid_input");
    }
    op = operation_parse_topup(right, strlen(right), 0, &fault);
    ck_assert_ptr_nonnull(op);
    ck_assert_int_eq(op->amount, 100);
    ck_assert_int_eq(strncmp(op->message.transaction_id, "d-", 2), 0);
    operation_free(op);
}
END_TEST

/* A key that is bound to a customer says whom a body is about that does not. */
START_TEST(a_customer_may_be_known_already)
{
    static const struct operation_limits bound = {
        .max_recipients = 3, .prices = &prices, .customer_id = 9};
    static const char send[] = "{\"text\":\"hi\",\"recipients\":[\"1\"]}";
    static const char named[] = "{\"customer_id\":5,\"text\":\"hi\",\"recipients\":[\"1\"]}";
    static const char wrong[] = "{\"customer_id\":null,\"text\":\"hi\",\"recipients\":[\"1\"]}";
    static const char topup[] = "{\"balance\":100}";
    struct operation_fault fault;
    struct operation *op = operation_parse_send(send, strlen(send), &bound, &fault);

    ck_assert_ptr_nonnull(op);
    ck_assert_int_eq(op->customer_id, 9);
    ck_assert_int_eq(op->message.customer_id, 9);
    operation_free(op);
    op = operation_parse_send(named, strlen(named), &bound, &fault);
    ck_assert_int_eq(op->customer_id, 5);
    operation_free(op);
    ck_assert_ptr_null(operation_parse_send(wrong, strlen(wrong), &bound, &fault));
    ck_assert_str_eq(fault.field, "customer_id");
    op = operation_parse_topup(topup, strlen(topup), 9, &fault);
    ck_assert_int_eq(op->customer_id, 9);
    operation_free(op);
    ck_assert_ptr_null(operation_parse_topup(topup, strlen(topup), 0, &fault));
    ck_assert_str_eq(fault.field, "user_id");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("operation");
    TCase *t = tcase_create("parse");

    tcase_add_loop_test(t, a_wrong_send_is_refused_with_its_field, 0,
                        (int)(sizeof(refused) / sizeof(refused[0])));
    tcase_add_test(t, a_send_keeps_its_recipients_once_in_order);
    tcase_add_test(t, more_values_than_there_is_a_use_for_are_refused_where_they_are);
    tcase_add_test(t, nothing_of_the_body_is_kept);
    tcase_add_test(t, the_body_hash_tells_bodies_apart);
    tcase_add_test(t, a_wrong_key_is_refused);
    tcase_add_test(t, a_topup_takes_positive_amounts_that_fit);
    tcase_add_test(t, a_customer_may_be_known_already);
    suite_add_tcase(s, t);
    return suite_run(s);
}
