#include <check.h>
#include <stdio.h>
#include <string.h>

#include "consumerd/transport_http_answer.h"
#include "test/unit/suite.h"

/* 128 and 129 digits. */
#define DIGITS_32 "98765432109876543210987654321098"
#define DIGITS_128 DIGITS_32 DIGITS_32 DIGITS_32 DIGITS_32

static const struct {
    const char *body;
    const char *id; /* NULL: it does not say that it has the message */
} bodies[] = {
    {"{\"id\":\"op-1\"}", "op-1"},
    {"{\"id\":\"op-1\",\"status\":\"accepted\"}", "op-1"},
    {"{\"status\":\"Delivered\",\"id\":\"op-1\"}", "op-1"},
    {"{\"id\":\"op-1\",\"status\":null}", "op-1"},
    {"{\"id\":\"op-1\",\"status\":\"rejected\"}", NULL},
    {"{\"id\":\"op-1\",\"status\":\"\"}", NULL},
    {"{\"id\":\"op-1\",\"status\":4}", NULL},
    {"{\"status\":\"accepted\"}", NULL},
    {"{\"status\":\"rejected\"}", NULL},
    {"{\"id\":null}", NULL},
    {"{\"id\":\"\"}", NULL},
    {"{\"id\":true}", NULL},
    {"{\"id\":{\"id\":1}}", NULL},
    {"{\"id\":[1]}", NULL},
    {"{\"messages\":[{\"id\":\"1\",\"status\":\"4\"}]}", NULL},
    {"[]", NULL},
    {"[{\"id\":1}]", NULL},
    {"7", NULL},
    {"", NULL},
    {"<html>", NULL},
    {"{\"id\":\"op-1\"} {\"id\":\"op-2\"}", NULL},
    {"{\"id\":\"op-1\",\"id\":\"op-2\"}", NULL},
    /* Kept as they were said. */
    {"{\"id\":77}", "77"},
    {"{\"id\": -0 }", "-0"},
    {"{\"id\":9223372036854775808}", "9223372036854775808"},
    {"{\"a\":\"\\\\\",\"id\" :\t" DIGITS_128 ",\"b\":1}", DIGITS_128},
    {"{\"id\":1" DIGITS_128 "}", NULL},
    {"{\"id\":1.5}", NULL},
    {"{\"id\":1e3}", NULL},
    {"{\"a\":{\"id\":5},\"b\":[\"id\",{\"id\":6}],\"c\":\"id\",\"d\":\"\\\"id\\\":8\",\"id\":7}",
     "7"},
    {"{\"\\u0069d\":\"text\"}", "text"},
    {"{\"\\u0069d\":7}", NULL},
    {"{\"id\":\"\xe6\xb6\x88\xe6\x81\xaf-\\u00e4 \xf0\x9f\x93\xa8\"}",
     "\xe6\xb6\x88\xe6\x81\xaf-\xc3\xa4 \xf0\x9f\x93\xa8"},
    {"{\"id\":\"" DIGITS_128 "\"}", DIGITS_128},
    {"{\"id\":\"x" DIGITS_128 "\"}", NULL},
    {"{\"id\":\"a\\nb\"}", NULL},
    {"{\"id\":\"a\\u007f\"}", NULL},
    {"{\"id\":\"a\\u0000b\"}", NULL},
    {"{\"id\":\"a\xff\"}", NULL},
};

START_TEST(what_a_2xx_says)
{
    const char *body = bodies[_i].body, *expected = bodies[_i].id ? bodies[_i].id : "";
    bool has = bodies[_i].id != NULL;
    char id[PROVIDER_ID_MAX + 1] = "left over";
    enum unfit unfit;

    ck_assert_msg(http_answer_to_post(200, body, strlen(body), id, &unfit) ==
                      (has ? VERDICT_ACCEPTED : VERDICT_UNKNOWN),
                  "%s", body);
    ck_assert_str_eq(id, expected);
    ck_assert_msg(http_answer_to_get(200, body, strlen(body), id) ==
                      (has ? LOOKUP_FOUND : LOOKUP_UNREACHABLE),
                  "%s", body);
    ck_assert_str_eq(id, expected);
}
END_TEST

static const struct {
    long from, to;
    enum verdict verdict;
} statuses[] = {
    {0, 0, VERDICT_UNKNOWN},       {100, 199, VERDICT_UNKNOWN},  {200, 299, VERDICT_ACCEPTED},
    {300, 399, VERDICT_UNFIT},     {400, 400, VERDICT_REJECTED}, {401, 407, VERDICT_UNFIT},
    {408, 408, VERDICT_TRANSIENT}, {409, 409, VERDICT_UNKNOWN},  {410, 412, VERDICT_UNFIT},
    {413, 413, VERDICT_REJECTED},  {414, 415, VERDICT_UNFIT},    {416, 416, VERDICT_UNKNOWN},
    {417, 417, VERDICT_UNFIT},     {418, 420, VERDICT_UNKNOWN},  {421, 421, VERDICT_TRANSIENT},
    {422, 422, VERDICT_REJECTED},  {423, 424, VERDICT_UNKNOWN},  {425, 425, VERDICT_TRANSIENT},
    {426, 426, VERDICT_UNFIT},     {427, 427, VERDICT_UNKNOWN},  {428, 428, VERDICT_UNFIT},
    {429, 429, VERDICT_THROTTLED}, {430, 430, VERDICT_UNKNOWN},  {431, 431, VERDICT_UNFIT},
    {432, 450, VERDICT_UNKNOWN},   {451, 451, VERDICT_REJECTED}, {452, 499, VERDICT_UNKNOWN},
    {500, 599, VERDICT_TRANSIENT}, {600, 999, VERDICT_UNKNOWN},
};

START_TEST(what_a_status_says)
{
    static const char body[] = "{\"id\":1}";
    char id[PROVIDER_ID_MAX + 1];
    enum unfit unfit;

    for (long status = statuses[_i].from; status <= statuses[_i].to; status++) {
        enum lookup_answer found = status == 404   ? LOOKUP_NOT_FOUND
                                   : status == 200 ? LOOKUP_FOUND
                                                   : LOOKUP_UNREACHABLE;

        ck_assert_int_eq(http_answer_to_post(status, body, sizeof(body) - 1, id, &unfit),
                         statuses[_i].verdict);
        ck_assert_str_eq(id, statuses[_i].verdict == VERDICT_ACCEPTED ? "1" : "");
        ck_assert_int_eq(http_answer_to_get(status, body, sizeof(body) - 1, id), found);
    }
    /* Whatever becomes of its rest, a status says the same; but a 2xx says it in its rest. */
    ck_assert_int_eq(http_answer_to_post(statuses[_i].from, NULL, 0, id, &unfit),
                     statuses[_i].verdict == VERDICT_ACCEPTED ? VERDICT_UNKNOWN
                                                              : statuses[_i].verdict);
}
END_TEST

START_TEST(a_rest_is_bounded)
{
    ck_assert_int_eq(http_answer_rest_ms(7), 7000);
    ck_assert_int_eq(http_answer_rest_ms(0), 1000);
    ck_assert_int_eq(http_answer_rest_ms(-1), 1000);
    ck_assert_int_eq(http_answer_rest_ms(INT64_MIN), 1000);
    ck_assert_int_eq(http_answer_rest_ms(86401), 86400000);
    ck_assert_int_eq(http_answer_rest_ms(INT64_MAX), 86400000);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("transport_http_answer");
    TCase *tc = tcase_create("transport_http_answer");

    tcase_add_loop_test(tc, what_a_2xx_says, 0, (int)(sizeof(bodies) / sizeof(bodies[0])));
    tcase_add_loop_test(tc, what_a_status_says, 0, (int)(sizeof(statuses) / sizeof(statuses[0])));
    tcase_add_test(tc, a_rest_is_bounded);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
