#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "operator-sim/order.h"
#include "test/unit/suite.h"

static const char usual[] = "{\"reference\":\"r-1.a_B\",\"to\":\"+989121234567\","
                            "\"text\":\"Hello, \xd8\xb3\xd9\x84\xd8\xa7\xd9\x85\","
                            "\"type\":\"normal\"}";

static void expect_same(const struct order *a, const struct order *b)
{
    ck_assert_str_eq(a->reference, b->reference);
    ck_assert_str_eq(a->to, b->to);
    ck_assert_int_eq(a->type, b->type);
    ck_assert_uint_eq(a->text_len, b->text_len);
    ck_assert(!memcmp(a->text, b->text, a->text_len));
}

/* From a block of exactly its size. True: the look has taken it. */
static bool agree(const char *body, size_t n)
{
    char *exact = malloc(n + !n);
    struct order looked = {.json = NULL};
    struct order parsed;
    bool taken;
    const char *blame;

    ck_assert_ptr_nonnull(exact);
    memcpy(exact, body, n);
    taken = order_look(exact, n, &looked);
    blame = order_parse(exact, n, &parsed);
    if (taken) {
        ck_assert_msg(!blame, "%s is to blame in: %.*s", blame, (int)n, body);
        expect_same(&looked, &parsed);
    }
    order_free(&parsed);
    free(exact);
    return taken;
}

START_TEST(the_usual_body_is_read_in_one_look)
{
    static const char spaced[] = " {\t\"type\" : \"express\" ,\r\n\"text\":\"x\",\"to\":\"1\","
                                 "\"reference\":\"a\"} \n";
    struct order o;

    ck_assert_ptr_null(order_read(usual, sizeof(usual) - 1, &o));
    ck_assert_ptr_null(o.json);
    ck_assert_str_eq(o.reference, "r-1.a_B");
    ck_assert_str_eq(o.to, "+989121234567");
    ck_assert_uint_eq(o.text_len, 15);
    ck_assert_int_eq(o.type, MESSAGE_NORMAL);
    order_free(&o);
    ck_assert_ptr_null(order_read(spaced, sizeof(spaced) - 1, &o));
    ck_assert_ptr_null(o.json);
    ck_assert_int_eq(o.type, MESSAGE_EXPRESS);
    order_free(&o);
}
END_TEST

START_TEST(what_is_unusual_is_parsed)
{
    static const char body[] = "{\"more\":[1,{}],\"reference\":\"a\",\"to\":\"1\","
                               "\"text\":\"a\\n\\u06f1\",\"t\\u0079pe\":\"normal\"}";
    struct order o;

    ck_assert_ptr_null(order_read(body, sizeof(body) - 1, &o));
    ck_assert_ptr_nonnull(o.json);
    ck_assert_uint_eq(o.text_len, 4);
    ck_assert(!memcmp(o.text, "a\n\xdb\xb1", 4));
    order_free(&o);
}
END_TEST

START_TEST(what_is_wrong_is_named)
{
    static const struct {
        const char *body, *blame;
    } cases[] = {
        {"", "body"},
        {"{", "body"},
        {"{}", "reference"},
        {"[]", "reference"},
        {"{\"reference\":\"a\",\"reference\":\"a\",\"to\":\"1\",\"text\":\"x\",\"type\":"
         "\"normal\"}",
         "body"},
        {"{\"reference\":\"a\",\"to\":\"1\",\"text\":\"x\",\"type\":\"normal\"}x", "body"},
        {"{\"reference\":\"a\",\"to\":\"1\",\"text\":\"x\",\"type\":\"normal\",}", "body"},
        {"{\"reference\":\"a\",\"to\":\"1\",\"text\":\"x\n\",\"type\":\"normal\"}", "body"},
        {"{\"reference\":\"a\",\"to\":\"1\",\"text\":\"x\xff\",\"type\":\"normal\"}", "body"},
        {"{\"reference\":\"a b\",\"to\":\"1\",\"text\":\"x\",\"type\":\"normal\"}", "reference"},
        {"{\"reference\":1,\"to\":\"1\",\"text\":\"x\",\"type\":\"normal\"}", "reference"},
        {"{\"reference\":\"a\",\"to\":\"+\",\"text\":\"x\",\"type\":\"normal\"}", "to"},
        {"{\"reference\":\"a\",\"to\":\"1\",\"text\":\"\",\"type\":\"normal\"}", "text"},
        {"{\"reference\":\"a\",\"to\":\"1\",\"text\":\"x\"}", "type"},
        {"{\"reference\":\"a\",\"to\":\"1\",\"text\":\"x\",\"type\":\"slow\"}", "type"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct order o;

        ck_assert_str_eq(order_read(cases[i].body, strlen(cases[i].body), &o), cases[i].blame);
        order_free(&o);
    }
}
END_TEST

START_TEST(a_reference_has_a_length)
{
    char longest[LEDGER_REFERENCE_MAX + 2];

    memset(longest, 'z', sizeof(longest));
    ck_assert(order_reference_ok(longest, LEDGER_REFERENCE_MAX));
    ck_assert(!order_reference_ok(longest, LEDGER_REFERENCE_MAX + 1));
    ck_assert(!order_reference_ok("", 0));
    ck_assert(order_reference_ok("azAZ09-_.", 9));
    for (int c = 0; c < 256; c++) {
        char s[1] = {(char)c};
        bool ok =
            c && strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", c);

        ck_assert(order_reference_ok(s, 1) == ok);
    }
}
END_TEST

/* Each byte in each place, each place without its byte, each beginning. */
START_TEST(the_look_takes_nothing_that_is_no_order)
{
    size_t n = sizeof(usual) - 1;
    size_t taken = 0;

    for (size_t at = 0; at < n; at++) {
        char changed[sizeof(usual)];

        for (int c = 0; c < 256; c++) {
            memcpy(changed, usual, n);
            changed[at] = (char)c;
            taken += agree(changed, n);
            memmove(changed + at + 1, usual + at, n - at); /* and put in front of it */
            taken += agree(changed, n + 1);
        }
        memcpy(changed, usual, at);
        memcpy(changed + at, usual + at + 1, n - at - 1);
        taken += agree(changed, n - 1);
        agree(usual, at);
    }
    ck_assert_uint_gt(taken, 1000);
}
END_TEST

#define WITH(more_) \
    "{\"reference\":\"r\",\"to\":\"1\",\"text\":\"x\",\"type\":\"normal\"," more_ "}"

START_TEST(a_message_may_say_where_its_receipts_go)
{
    static const char both[] = WITH("\"receipt_url\":\"http://h/a?ref=r-0.ab\","
                                    "\"receipt_reference\":\"r-0.ab\"");
    struct order o;

    ck_assert(!agree(both, sizeof(both) - 1));
    ck_assert_ptr_null(order_read(both, sizeof(both) - 1, &o));
    ck_assert_str_eq(o.receipt_url, "http://h/a?ref=r-0.ab");
    ck_assert_str_eq(o.receipt_reference, "r-0.ab");
    order_free(&o);
    ck_assert_ptr_null(order_read(usual, sizeof(usual) - 1, &o));
    ck_assert(!o.receipt_url && !o.receipt_reference);
    order_free(&o);
}
END_TEST

static const char *const wrong_receipts[][2] = {
    {WITH("\"receipt_url\":\"ftp://h/\""), "receipt_url"},
    {WITH("\"receipt_url\":7"), "receipt_url"},
    {WITH("\"receipt_url\":null"), "receipt_url"},
    {WITH("\"receipt_url\":\"http://h/ \""), "receipt_url"},
    {WITH("\"receipt_reference\":\"\""), "receipt_reference"},
    {WITH("\"receipt_reference\":\"a b\""), "receipt_reference"},
    {WITH("\"receipt_reference\":[]"), "receipt_reference"},
};

START_TEST(what_it_says_of_receipts_is_checked)
{
    struct order o;
    const char *blame = order_read(wrong_receipts[_i][0], strlen(wrong_receipts[_i][0]), &o);

    ck_assert_ptr_nonnull(blame);
    ck_assert_str_eq(blame, wrong_receipts[_i][1]);
    order_free(&o);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("order");
    TCase *t = tcase_create("order");

    tcase_add_test(t, the_usual_body_is_read_in_one_look);
    tcase_add_test(t, what_is_unusual_is_parsed);
    tcase_add_test(t, what_is_wrong_is_named);
    tcase_add_test(t, a_reference_has_a_length);
    tcase_add_test(t, the_look_takes_nothing_that_is_no_order);
    tcase_add_test(t, a_message_may_say_where_its_receipts_go);
    tcase_add_loop_test(t, what_it_says_of_receipts_is_checked, 0,
                        (int)(sizeof(wrong_receipts) / sizeof(wrong_receipts[0])));
    suite_add_tcase(s, t);
    return suite_run(s);
}
