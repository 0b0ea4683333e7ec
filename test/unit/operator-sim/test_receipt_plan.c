#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "operator-sim/receipt_plan.h"
#include "test/unit/suite.h"

#define MESSAGES 10000u

static struct receipt_plan parsed(const char *json)
{
    struct receipt_plan plan;
    char why[200] = "";

    ck_assert_msg(receipt_plan_parse(json, strlen(json), &plan, why, sizeof(why)), "%s: %s", json,
                  why);
    return plan;
}

static size_t made(const struct receipt_plan *plan, unsigned i, struct receipt_planned *out)
{
    char reference[16];

    snprintf(reference, sizeof(reference), "r-%u", i);
    return receipt_plan_make(plan, 7, reference, out);
}

static const char *text_of(const char *settings, const struct receipt_planned *planned,
                           struct buf *out)
{
    struct receipt_plan plan = parsed(settings);
    struct receipt_about about = {
        .name = "operatorA", .reference = "m&1-0", .number = 0xabc, .at_us = 1000000};

    buf_reset(out);
    receipt_put(out, &plan, planned, &about);
    ck_assert(!out->failed);
    return out->data;
}

static bool says(const struct receipt_planned *planned, const char *status)
{
    struct buf out = {0};
    char wanted[64];
    bool is;

    snprintf(wanted, sizeof(wanted), "\"status\":\"%s\"", status);
    is = strstr(text_of("{}", planned, &out), wanted) != NULL;
    buf_free(&out);
    return is;
}

static void near(unsigned n, unsigned wanted)
{
    ck_assert_uint_ge(n, wanted - MESSAGES / 50);
    ck_assert_uint_le(n, wanted + MESSAGES / 50);
}

START_TEST(shares_are_kept_and_replay)
{
    struct receipt_plan plan = parsed("{\"delivered_share\":0.7,\"silent_share\":0.2,"
                                      "\"duplicate_share\":0.1,\"forged_share\":0.3}");
    unsigned silent = 0;
    unsigned delivered = 0;
    unsigned forged = 0;
    unsigned all = 0;

    for (unsigned i = 0; i < MESSAGES; i++) {
        struct receipt_planned out[RECEIPT_PLANNED_MAX];
        struct receipt_planned again[RECEIPT_PLANNED_MAX];
        size_t n = made(&plan, i, out);

        ck_assert_uint_eq(made(&plan, i, again), n);
        ck_assert(!memcmp(out, again, n * sizeof(*out)));
        silent += !n;
        all += (unsigned)n;
        delivered += n && says(&out[0], "delivered");
        forged += n && out[n - 1].forged;
    }
    near(silent, MESSAGES / 5);
    near(delivered, MESSAGES * 8 / 10 * 7 / 10);
    near(forged, MESSAGES * 8 / 10 * 3 / 10);
    near(all, MESSAGES * 8 / 10 * 14 / 10);
}
END_TEST

START_TEST(a_forged_one_says_the_opposite)
{
    struct receipt_plan plan = parsed("{\"delivered_share\":0.5,\"forged_share\":1}");
    unsigned delivered = 0;

    for (unsigned i = 0; i < 100; i++) {
        struct receipt_planned out[RECEIPT_PLANNED_MAX];

        ck_assert_uint_eq(made(&plan, i, out), 2);
        ck_assert(!out[0].forged && out[1].forged);
        ck_assert(says(&out[0], "delivered") != says(&out[1], "delivered"));
        delivered += says(&out[0], "delivered");
    }
    ck_assert(delivered > 20 && delivered < 80);
}
END_TEST

START_TEST(one_part_of_an_undelivered_message_says_so)
{
    struct receipt_plan plan = parsed("{\"delivered_share\":0,\"parts\":3}");
    unsigned bad[4] = {0};

    for (unsigned i = 0; i < 300; i++) {
        struct receipt_planned out[RECEIPT_PLANNED_MAX];
        unsigned undelivered = 0;

        ck_assert_uint_eq(made(&plan, i, out), 3);
        for (unsigned j = 0; j < 3; j++) {
            ck_assert(receipt_is_final(&out[j]));
            ck_assert_uint_eq(out[j].part, j + 1);
            if (says(&out[j], "delivered"))
                continue;
            undelivered++;
            bad[out[j].part]++;
        }
        ck_assert_uint_eq(undelivered, 1);
    }
    ck_assert(bad[1] > 50 && bad[2] > 50 && bad[3] > 50);
}
END_TEST

START_TEST(delays_are_a_range_and_the_one_on_the_way_comes_first_or_last)
{
    struct receipt_plan plan = parsed("{\"delay_ms\":100,\"delay_max_ms\":900,\"sent_share\":1,"
                                      "\"reorder_share\":0.5}");
    unsigned behind = 0;

    for (unsigned i = 0; i < MESSAGES; i++) {
        struct receipt_planned out[RECEIPT_PLANNED_MAX];

        ck_assert_uint_eq(made(&plan, i, out), 2);
        ck_assert(says(&out[1], "sent") && !receipt_is_final(&out[1]));
        ck_assert(out[0].delay_us >= 100000 && out[0].delay_us <= 900000);
        ck_assert(out[0].delay_us != out[1].delay_us);
        behind += out[1].delay_us > out[0].delay_us;
    }
    near(behind, MESSAGES / 2);
}
END_TEST

START_TEST(what_comes_before_the_answer_is_due_at_once)
{
    struct receipt_plan plan =
        parsed("{\"delay_ms\":5000,\"before_answer_share\":0.3,\"silent_share\":0.5}");
    unsigned before = 0;

    for (unsigned i = 0; i < MESSAGES; i++) {
        struct receipt_planned out[RECEIPT_PLANNED_MAX];
        char reference[16];
        size_t n = made(&plan, i, out);
        bool is;

        snprintf(reference, sizeof(reference), "r-%u", i);
        is = receipt_plan_before_answer(&plan, 7, reference);
        ck_assert(!is || n);
        ck_assert(!n || out[0].delay_us == (is ? 0 : 5000000));
        before += is;
    }
    near(before, MESSAGES * 15 / 100);
}
END_TEST

START_TEST(ids_are_written_in_every_form)
{
    static const char *const forms[][2] = {
        {"text", "operatorA-0000000000000abc"},
        {"decimal", "2748"},
        {"hex", "abc"},
        {"decimal_zeros", "00000000000000002748"},
        {"hex_zeros", "00000000000000000abc"},
    };
    struct receipt_planned planned = {.says = 1};
    struct buf out = {0};

    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        char settings[64];
        char wanted[64];

        snprintf(settings, sizeof(settings), "{\"receipt_id\":\"%s\"}", forms[i][0]);
        snprintf(wanted, sizeof(wanted), "{\"id\":\"%s\",", forms[i][1]);
        ck_assert_ptr_nonnull(strstr(text_of(settings, &planned, &out), wanted));
        snprintf(settings, sizeof(settings), "{\"answer_id\":\"%s\"}", forms[i][0]);
        ck_assert_ptr_nonnull(strstr(text_of(settings, &planned, &out), wanted));
    }
    buf_free(&out);
}
END_TEST

START_TEST(a_number_fits_a_signed_one)
{
    char id[RECEIPT_ID_SIZE];

    receipt_put_id(RECEIPT_ID_DECIMAL, "o", UINT64_MAX, id);
    ck_assert_str_eq(id, "9223372036854775807");
    receipt_put_id(RECEIPT_ID_TEXT, "o", UINT64_MAX, id);
    ck_assert_str_eq(id, "o-ffffffffffffffff");
}
END_TEST

START_TEST(a_receipt_is_written_in_every_form)
{
    struct receipt_planned planned = {.says = 1, .part = 2};
    struct buf out = {0};

    ck_assert_str_eq(
        text_of("{\"parts\":3}", &planned, &out),
        "{\"id\":\"operatorA-0000000000000abc\",\"reference\":\"m&1-0\",\"status\":\"delivered\","
        "\"code\":\"0\",\"words\":\"Delivered to the handset\",\"part\":\"2\",\"parts\":\"3\","
        "\"at\":\"1970-01-01T00:00:01.000000Z\"}");
    planned.part = 0;
    ck_assert_str_eq(text_of("{\"form\":\"form\",\"receipt_id\":\"hex\"}", &planned, &out),
                     "id=abc&reference=m%261-0&status=delivered&code=0&"
                     "words=Delivered%20to%20the%20handset&at=1970-01-01T00%3A00%3A01.000000Z");
    ck_assert_ptr_null(
        strstr(text_of("{\"form\":\"query\",\"echo\":false}", &planned, &out), "reference"));
    buf_free(&out);
}
END_TEST

static const char *const wrong[] = {
    "",
    "[]",
    "{\"unknown\":1}",
    "{\"url\":7}",
    "{\"url\":\"ftp://h/\"}",
    "{\"url\":\"http://\"}",
    "{\"url\":\"http:///path\"}",
    "{\"url\":\"http://h/a b\"}",
    "{\"url\":\"http://h/\\u0000\"}",
    "{\"form\":\"xml\"}",
    "{\"answer_id\":3}",
    "{\"delivered_share\":1.1}",
    "{\"silent_share\":true}",
    "{\"delay_ms\":-1}",
    "{\"delay_ms\":20,\"delay_max_ms\":10}",
    "{\"parts\":0}",
    "{\"parts\":11}",
    "{\"batch\":2,\"form\":\"form\"}",
    "{\"hold\":1}",
    "{\"signature_header\":\"X: y\"}",
    "{\"signature_header\":\"\"}",
};

START_TEST(wrong_settings_change_nothing)
{
    struct receipt_plan plan = {.parts = 77};
    char why[200] = "";

    ck_assert(!receipt_plan_parse(wrong[_i], strlen(wrong[_i]), &plan, why, sizeof(why)));
    ck_assert_int_eq(plan.parts, 77);
    ck_assert(*why);
}
END_TEST

START_TEST(what_is_shown_parses_back)
{
    struct receipt_plan plan =
        parsed("{\"url\":\"http://h:1/a?b=\\\"c\",\"form\":\"json\",\"batch\":5,\"hold\":true,"
               "\"answer_id\":\"hex\",\"receipt_id\":\"decimal_zeros\",\"delivered_share\":0.25,"
               "\"delay_ms\":1,\"delay_max_ms\":2,\"echo\":false,\"per_second\":5000}");
    struct buf first = {0};
    struct buf second = {0};

    receipt_plan_put_json(&first, &plan);
    plan = parsed(first.data);
    receipt_plan_put_json(&second, &plan);
    ck_assert_str_eq(first.data, second.data);
    ck_assert(plan.hold && !plan.echo && plan.batch == 5 && plan.per_second == 5000);
    ck_assert_ptr_nonnull(strstr(first.data, "\"receipt_id\":\"decimal_zeros\""));
    buf_free(&first);
    buf_free(&second);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("receipt_plan");
    TCase *t = tcase_create("receipt_plan");

    tcase_add_test(t, shares_are_kept_and_replay);
    tcase_add_test(t, a_forged_one_says_the_opposite);
    tcase_add_test(t, one_part_of_an_undelivered_message_says_so);
    tcase_add_test(t, delays_are_a_range_and_the_one_on_the_way_comes_first_or_last);
    tcase_add_test(t, what_comes_before_the_answer_is_due_at_once);
    tcase_add_test(t, ids_are_written_in_every_form);
    tcase_add_test(t, a_number_fits_a_signed_one);
    tcase_add_test(t, a_receipt_is_written_in_every_form);
    tcase_add_loop_test(t, wrong_settings_change_nothing, 0,
                        (int)(sizeof(wrong) / sizeof(wrong[0])));
    tcase_add_test(t, what_is_shown_parses_back);
    suite_add_tcase(s, t);
    return suite_run(s);
}
