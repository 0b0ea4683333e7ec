#include "libcommon/base/json_path.h"

#include <check.h>
#include <string.h>

#include "test/unit/suite.h"

static const char text[] =
    "{\"messages\":[{\"status\":\"0\",\"message-id\":7},{\"a.b\":true,\"\":null}],"
    "\"price\":0.0333,\"big\":9007199254740993,\"0\":\"zero\",\"o\":{}}";

static const struct {
    const char *path;
    const char *value; /* NULL: nothing that is a value */
} found[] = {
    {"messages.0.status", "0"},
    {"messages.0.message-id", "7"},
    {"messages.1.\"a.b\"", "true"},
    {"messages.1.\"\"", "null"},
    {"price", "0.0333"},
    {"big", "9007199254740993"},
    {"0", "zero"},
    {"messages.2.status", NULL},
    {"messages.x", NULL},
    {"messages.-1", NULL},
    {"messages", NULL},
    {"price.x", NULL},
    {"o", NULL},
    {"", NULL},
};

START_TEST(values_are_where_the_path_says)
{
    json_t *root = json_loads(text, 0, NULL);
    char out[JSON_SCALAR_MAX];
    char why[200];
    struct json_path path;
    const char *value;

    ck_assert_ptr_nonnull(root);
    ck_assert(json_path_compile(&path, found[_i].path, strlen(found[_i].path), why, sizeof(why)));
    value = json_scalar(json_path_get(&path, root), out);
    if (found[_i].value)
        ck_assert_str_eq(value, found[_i].value);
    else
        ck_assert_ptr_null(value);
    json_path_free(&path);
    json_decref(root);
}
END_TEST

static const char *const wrong[] = {".",    "a.",     ".a",
                                    "a..b", "a b",    "\"a",
                                    "a\"",  "\"a\"b", "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17"};

START_TEST(wrong_paths_are_refused)
{
    char why[200] = "";
    struct json_path path;

    ck_assert_msg(!json_path_compile(&path, wrong[_i], strlen(wrong[_i]), why, sizeof(why)), "%s",
                  wrong[_i]);
    ck_assert_str_ne(why, "");
}
END_TEST

START_TEST(the_longest_path_fits)
{
    char path_text[JSON_PATH_MAX + 2];
    char why[200];
    struct json_path path;

    memset(path_text, 'a', sizeof(path_text));
    ck_assert(json_path_compile(&path, path_text, JSON_PATH_MAX, why, sizeof(why)));
    json_path_free(&path);
    ck_assert(!json_path_compile(&path, path_text, JSON_PATH_MAX + 1, why, sizeof(why)));
}
END_TEST

START_TEST(a_text_that_does_not_fit_is_none)
{
    char long_text[JSON_SCALAR_MAX + 1];
    char out[JSON_SCALAR_MAX];
    json_t *value;

    memset(long_text, 'x', sizeof(long_text));
    value = json_stringn(long_text, JSON_SCALAR_MAX - 1);
    ck_assert_uint_eq(strlen(json_scalar(value, out)), JSON_SCALAR_MAX - 1);
    json_decref(value);
    value = json_stringn(long_text, JSON_SCALAR_MAX);
    ck_assert_ptr_null(json_scalar(value, out));
    json_decref(value);
    value = json_stringn("a\0b", 3);
    ck_assert_ptr_null(json_scalar(value, out));
    json_decref(value);
}
END_TEST

static const struct {
    const char *text;
    const char *as; /* NULL: it is no JSON */
} large[] = {
    {"9223372036854775807", "9223372036854775807"},
    {"9223372036854775808", "\"9223372036854775808\""},
    {"-9223372036854775809", "\"-9223372036854775809\""},
    {"[1, 18446744073709551616,-3]", "[1,\"18446744073709551616\",-3]"},
    {"{\"a\":\"1 \\\" 99999999999999999999\",\"b\":99999999999999999999}",
     "{\"a\":\"1 \\\" 99999999999999999999\",\"b\":\"99999999999999999999\"}"},
    {"[99999999999999999999,\"\\\\\",99999999999999999998]",
     "[\"99999999999999999999\",\"\\\\\",\"99999999999999999998\"]"},
    {"[99999999999999999999", NULL},
    {"[99999999999999999999,\"a", NULL},
    {"[99999999999999999999,\"a\\", NULL},
    {"[099999999999999999999]", NULL},
    {"[99999999999999999999,00000000000000000001]", NULL},
    {"[99999999999999999999-1]", NULL},
    {"{99999999999999999999:1}", NULL},
    {"{99999999999999999999 :1}", NULL},
    {"[1e999]", NULL},
    {"", NULL},
};

START_TEST(a_large_integer_loses_no_digit)
{
    json_t *json = json_read(large[_i].text, strlen(large[_i].text), JSON_DECODE_ANY, NULL);
    char *as = json ? json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

    if (large[_i].as)
        ck_assert_str_eq(as, large[_i].as);
    else
        ck_assert_ptr_null(as);
    free(as);
    json_decref(json);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("json_path");
    TCase *tc = tcase_create("all");

    tcase_add_loop_test(tc, values_are_where_the_path_says, 0, sizeof(found) / sizeof(found[0]));
    tcase_add_loop_test(tc, wrong_paths_are_refused, 0, sizeof(wrong) / sizeof(wrong[0]));
    tcase_add_test(tc, the_longest_path_fits);
    tcase_add_test(tc, a_text_that_does_not_fit_is_none);
    tcase_add_loop_test(tc, a_large_integer_loses_no_digit, 0, sizeof(large) / sizeof(large[0]));
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
