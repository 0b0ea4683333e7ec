#include "libcommon/domain/operator_exchange.h"

#include <check.h>
#include <string.h>

#include "test/unit/suite.h"

#define FILE_TEXT                                                                             \
    "[a]\nkind = http\nurl = http://a/\nid = json:id\nparts = json:parts\ncost = json:cost\n" \
    "remaining = json:left\nopted_out = json:code == 9\nunfit.credit = json:code == 1\n"      \
    "unfit = json:code == 2\naccepted = json:code == 0\nrejected = json:code == 0\n"          \
    "accepted = status == 202\n"                                                              \
    "lookup.url = http://a/x\nlookup.found = json:id exists\nlookup.id = json:id\n"           \
    "lookup.not_found = json:none == true\n"

static struct operator_set *parse(const char *text)
{
    static const struct operator_reading how = {0};
    struct buf errors = {0};
    size_t faults;
    struct operator_set *set = operator_set_parse(text, strlen(text), "f", &how, &errors, &faults);

    ck_assert_msg(set != NULL, "%s", errors.data);
    buf_free(&errors);
    return set;
}

static const struct {
    int status;
    const char *body;
    bool cut;
    enum verdict verdict;
    enum unfit unfit;
    unsigned line;
    const char *id;
} cases[] = {
    {200, "{\"code\":0,\"id\":\"x\"}", false, VERDICT_ACCEPTED, UNFIT_REASONS, 11, "x"},
    /* Who says that it is accepted need not say how it is called. */
    {200, "{\"code\":0}", false, VERDICT_ACCEPTED, UNFIT_REASONS, 11, ""},
    {202, "", false, VERDICT_ACCEPTED, UNFIT_REASONS, 13, ""},
    /* What was cut off accepts nothing. */
    {202, "{\"code\":0,\"id\":\"x\"}", true, VERDICT_UNKNOWN, UNFIT_REASONS, 0, ""},
    /* No rule: the status, and the id. */
    {200, "{\"id\":\"x\"}", false, VERDICT_ACCEPTED, UNFIT_REASONS, 0, "x"},
    {200, "{\"id\":12345678901234567}", false, VERDICT_ACCEPTED, UNFIT_REASONS, 0,
     "12345678901234567"},
    {200, "{\"code\":0,\"id\":12345678901234567891}", false, VERDICT_ACCEPTED, UNFIT_REASONS, 11,
     "12345678901234567891"},
    {200, "{\"code\":9,\"trace\":98765432109876543210}", false, VERDICT_OPTED_OUT, UNFIT_REASONS, 8,
     ""},
    {200, "{\"id\":null}", false, VERDICT_UNKNOWN, UNFIT_REASONS, 0, ""},
    {200, "{\"id\":\"\"}", false, VERDICT_UNKNOWN, UNFIT_REASONS, 0, ""},
    {200, "{\"id\":\"a\\nb\"}", false, VERDICT_UNKNOWN, UNFIT_REASONS, 0, ""},
    {200, "<html>", false, VERDICT_UNKNOWN, UNFIT_REASONS, 0, ""},
    {400, "{\"id\":\"x\"}", false, VERDICT_REJECTED, UNFIT_REASONS, 0, ""},
    {429, "", false, VERDICT_THROTTLED, UNFIT_REASONS, 0, ""},
    {503, "", true, VERDICT_TRANSIENT, UNFIT_REASONS, 0, ""},
    {401, "", false, VERDICT_UNFIT, UNFIT_CREDENTIALS, 0, ""},
    {0, "", true, VERDICT_UNKNOWN, UNFIT_REASONS, 0, ""},
    /* A rule, and its reason or the status's. */
    {200, "{\"code\":9,\"id\":\"x\"}", false, VERDICT_OPTED_OUT, UNFIT_REASONS, 8, ""},
    {200, "{\"code\":1}", false, VERDICT_UNFIT, UNFIT_CREDIT, 9, ""},
    {200, "{\"code\":2}", false, VERDICT_UNFIT, UNFIT_FORBIDDEN, 10, ""},
    {402, "{\"code\":2}", false, VERDICT_UNFIT, UNFIT_CREDIT, 10, ""},
};

START_TEST(answers_are_judged_in_order)
{
    struct operator_set *set = parse(FILE_TEXT);
    struct operator_judgement said;
    struct operator_answer a;

    operator_answer_begin(&a, cases[_i].status, cases[_i].body, strlen(cases[_i].body),
                          !cases[_i].cut);
    operator_judge(set->all[0], &a, &said);
    ck_assert_msg(said.verdict == cases[_i].verdict, "case %d: %s", _i, verdict_name(said.verdict));
    ck_assert_int_eq(said.unfit, cases[_i].unfit);
    ck_assert_uint_eq(said.line, cases[_i].line);
    ck_assert_str_eq(said.id, cases[_i].id);
    operator_answer_end(&a);
    operator_set_drop(set);
}
END_TEST

static const struct {
    const char *number;
    int64_t millionths; /* OPERATOR_NO_NUMBER: none */
} numbers[] = {
    {"0.0333", 33300},
    {"\"0.03330000\"", 33300},
    {"12", 12000000},
    {"\"-0.5\"", -500000},
    {"\"1.2345678\"", 1234567},
    {"\"x\"", OPERATOR_NO_NUMBER},
    {"\"\"", OPERATOR_NO_NUMBER},
    {"\".5\"", OPERATOR_NO_NUMBER},
    {"\"1.2.3\"", OPERATOR_NO_NUMBER},
    {"null", OPERATOR_NO_NUMBER},
    {"\"99999999999999999999\"", OPERATOR_NO_NUMBER},
    {"true", OPERATOR_NO_NUMBER},
    {"[1]", OPERATOR_NO_NUMBER},
};

START_TEST(numbers_are_read)
{
    struct operator_set *set = parse(FILE_TEXT);
    struct operator_judgement said;
    struct operator_answer a;
    char body[100];

    snprintf(body, sizeof(body), "{\"code\":0,\"cost\":%s}", numbers[_i].number);
    operator_answer_begin(&a, 200, body, strlen(body), true);
    operator_judge(set->all[0], &a, &said);
    ck_assert_msg(said.cost_millionths == numbers[_i].millionths, "%s", numbers[_i].number);
    ck_assert_int_eq(said.parts, OPERATOR_NO_NUMBER);
    operator_answer_end(&a);
    operator_set_drop(set);
}
END_TEST

static const struct {
    int status;
    const char *body;
    bool cut;
    enum lookup_answer answer;
    const char *id;
} lookups[] = {
    {200, "{\"id\":\"x\"}", false, LOOKUP_FOUND, "x"},
    {200, "{\"id\":\"x\"}", true, LOOKUP_UNREACHABLE, ""},
    {200, "{\"none\":true}", false, LOOKUP_NOT_FOUND, ""},
    {404, "", false, LOOKUP_NOT_FOUND, ""},
    {404, "{\"id\":\"x\"}", false, LOOKUP_FOUND, "x"},
    {200, "{}", false, LOOKUP_UNREACHABLE, ""},
    {500, "", false, LOOKUP_UNREACHABLE, ""},
    {0, "", true, LOOKUP_UNREACHABLE, ""},
};

START_TEST(lookups_are_judged)
{
    struct operator_set *set = parse(FILE_TEXT);
    char id[PROVIDER_ID_MAX + 1];
    struct operator_answer a;

    operator_answer_begin(&a, lookups[_i].status, lookups[_i].body, strlen(lookups[_i].body),
                          !lookups[_i].cut);
    ck_assert_int_eq(operator_judge_lookup(set->all[0], &a, id), lookups[_i].answer);
    ck_assert_str_eq(id, lookups[_i].id);
    operator_answer_end(&a);
    operator_set_drop(set);
}
END_TEST

START_TEST(a_request_is_whole)
{
    struct operator_set *set = parse("[a]\nkind = http\nurl = http://a:81/x\nid = json:id\n"
                                     "method = POST\nheader = X-Ref: %{reference}\n"
                                     "basic = u:%{secret:KEY}\n");
    const struct operator_values v = {.text = "",
                                      .to = "",
                                      .reference = "018f-1",
                                      .type = "",
                                      .receipt_url = "",
                                      .signed_reference = ""};
    struct buf out = {0}, body = {0};

    operator_request_put(set->all[0], &set->all[0]->submit, &v, true, &out, &body);
    ck_assert_str_eq(out.data,
                     "POST /x HTTP/1.1\r\nHost: a:81\r\nUser-Agent: msg-consumerd/" PROJECT_VERSION
                     "\r\nAccept: */*\r\nX-Ref: 018f-1\r\n"
                     "Authorization: Basic ***\r\nContent-Length: 0\r\n\r\n");
    buf_free(&out);
    buf_free(&body);
    operator_set_drop(set);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("operator_exchange");
    TCase *tc = tcase_create("all");

    tcase_add_loop_test(tc, answers_are_judged_in_order, 0, sizeof(cases) / sizeof(cases[0]));
    tcase_add_loop_test(tc, numbers_are_read, 0, sizeof(numbers) / sizeof(numbers[0]));
    tcase_add_loop_test(tc, lookups_are_judged, 0, sizeof(lookups) / sizeof(lookups[0]));
    tcase_add_test(tc, a_request_is_whole);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
