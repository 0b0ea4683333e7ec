#include "libcommon/domain/operator_rule.h"

#include <check.h>
#include <string.h>

#include "test/unit/suite.h"

static const char json[] = "{\"messages\":[{\"status\":\"0\",\"id\":\"m-1\"}],\"code\":21610,"
                           "\"ok\":true,\"none\":null,\"cost\":-0.5}";

static const struct {
    const char *condition;
    bool holds;
} cases[] = {
    {"status == 201", true},
    {"status in 200-299", true},
    {"status in 400, 201", true},
    {"status in 400,500-599", false},
    {"status != 201", false},
    {"json:messages.0.status == \"0\"", true},
    {"json:messages.0.status == 0", true},
    {"json:code == \"21610\"", true},
    {"json:code in 1-9, 21600-21620", true},
    {"json:messages.0.id in 1-9", false},
    {"json:ok == true", true},
    {"json:none == null", true},
    {"json:none exists", true},
    {"json:nothing exists", false},
    {"not json:nothing exists", true},
    {"json:messages exists", true},
    {"json:messages == 0", false},
    {"json:messages != 0", false},
    {"json:nothing != 0", false},
    {"not json:nothing == 0", false},
    {"not json:code == 1", true},
    {"json:messages.0.id ~ \"^m-[0-9]+$\"", true},
    {"json:messages.0.id ~ \"^n\"", false},
    {"body ~ \"\\\"code\\\":[0-9]+\"", true},
    {"body ~ \"(code|(x+)y)[^[:space:]+*]*\\\\**[0-9]+(,|})?\"", true},
    {"status == 201 and json:ok == true and json:code == 21610", true},
    {"status == 201 and json:ok == false", false},
    {"json:cost == -0.5", true},
};

static void answer(struct operator_answer *a, bool whole)
{
    operator_answer_begin(a, 201, json, strlen(json), whole);
}

START_TEST(conditions_hold_or_not)
{
    char why[200] = "";
    struct operator_condition *c =
        operator_condition_compile(cases[_i].condition, why, sizeof(why));
    struct operator_answer a;

    ck_assert_msg(c != NULL, "%s: %s", cases[_i].condition, why);
    answer(&a, true);
    ck_assert_msg(operator_condition_holds(c, &a) == cases[_i].holds, "%s", cases[_i].condition);
    operator_answer_end(&a);
    answer(&a, false); /* what has not come whole meets nothing but its status */
    ck_assert_msg(!operator_condition_holds(c, &a) || (!strncmp(cases[_i].condition, "status", 6) &&
                                                       !strstr(cases[_i].condition, "json")),
                  "%s", cases[_i].condition);
    operator_answer_end(&a);
    operator_condition_free(c);
}
END_TEST

START_TEST(a_body_that_is_no_json_has_no_values)
{
    static const char *const bodies[] = {"<html>503</html>", "", "{\"code\":", "\"code\"",
                                         "{\"code\":1,\"code\":2}"};
    char why[200];
    struct operator_condition *c =
        operator_condition_compile("not json:code == 7", why, sizeof(why));
    struct operator_condition *html = operator_condition_compile("body ~ \"<html\"", why, 200);

    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        struct operator_answer a;

        operator_answer_begin(&a, 200, bodies[i], strlen(bodies[i]), true);
        ck_assert(!operator_condition_holds(c, &a));
        ck_assert(operator_condition_holds(html, &a) == (i == 0));
        operator_answer_end(&a);
    }
    operator_condition_free(c);
    operator_condition_free(html);
}
END_TEST

static const char *const wrong[] = {
    "",
    "status",
    "status ==",
    "status 200",
    "stat == 1",
    "json: == 1 and",
    "json:a..b == 1",
    "json:a == \"x",
    "status == 1 or status == 2",
    "status in 1,",
    "body ~ x",
    "body ~ \"(\"",
    "body ~ \"(a)\\\\1\"",
    "body ~ \"a{2}\"",
    "body ~ \"a++\"", /* forty of them took a gigabyte */
    "body ~ \"(x|(b*)c)+\"",
    "body ~ \"(a?)?\"",
    "body ~ \"[[:digit:]\"",
    "body ~ \"\\\\w\"",
    "body ~ \"\"",
    ("status == 1 and status == 1 and status == 1 and status == 1 and status == 1 and status == 1 "
     "and status == 1 and status == 1 and status == 1"),
};

START_TEST(wrong_conditions_are_refused)
{
    char why[200] = "";

    ck_assert_msg(!operator_condition_compile(wrong[_i], why, sizeof(why)), "%s", wrong[_i]);
    ck_assert_str_ne(why, "");
}
END_TEST

static const struct {
    const char *spot;
    const char *value; /* NULL: nothing */
} spots[] = {
    {"json:messages.0.id", "m-1"},
    {"json:code", "21610"},
    {"json:messages", NULL},
    {"json:x", NULL},
    {"body:\"id\":\"([^\"]*)\"", "m-1"},
    {"body:m-[0-9]", "m-1"},
    {"body:nothing", NULL},
};

START_TEST(values_stand_where_the_file_says)
{
    char why[200] = "";
    struct operator_spot *s = operator_spot_compile(spots[_i].spot, why, sizeof(why));
    char out[JSON_SCALAR_MAX];
    struct operator_answer a;
    const char *value;

    ck_assert_msg(s != NULL, "%s: %s", spots[_i].spot, why);
    answer(&a, true);
    value = operator_spot_get(s, &a, out);
    if (spots[_i].value)
        ck_assert_str_eq(value, spots[_i].value);
    else
        ck_assert_ptr_null(value);
    operator_answer_end(&a);
    answer(&a, false);
    ck_assert_ptr_null(operator_spot_get(s, &a, out));
    operator_answer_end(&a);
    operator_spot_free(s);
}
END_TEST

START_TEST(a_regex_looks_at_so_many_bytes)
{
    static const char word[3] = {'e', 'n', 'd'};
    static const char late[4] = {' ', 'e', 'n', 'd'};
    static char body[OPERATOR_REGEX_BYTES + 10];
    char why[200];
    struct operator_condition *c = operator_condition_compile("body ~ \"end\"", why, sizeof(why));
    struct operator_answer a;

    memset(body, '\0', sizeof(body)); /* a NUL ends nothing */
    memcpy(body + OPERATOR_REGEX_BYTES - 3, word, sizeof(word));
    operator_answer_begin(&a, 200, body, sizeof(body), true);
    ck_assert(operator_condition_holds(c, &a));
    memcpy(body + OPERATOR_REGEX_BYTES - 3, late, sizeof(late));
    ck_assert(!operator_condition_holds(c, &a));
    operator_answer_end(&a);
    operator_condition_free(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("operator_rule");
    TCase *tc = tcase_create("all");

    tcase_add_loop_test(tc, conditions_hold_or_not, 0, sizeof(cases) / sizeof(cases[0]));
    tcase_add_test(tc, a_body_that_is_no_json_has_no_values);
    tcase_add_loop_test(tc, wrong_conditions_are_refused, 0, sizeof(wrong) / sizeof(wrong[0]));
    tcase_add_loop_test(tc, values_stand_where_the_file_says, 0, sizeof(spots) / sizeof(spots[0]));
    tcase_add_test(tc, a_regex_looks_at_so_many_bytes);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
