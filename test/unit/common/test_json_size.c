#include <check.h>
#include <string.h>

#include "libcommon/base/json_size.h"
#include "test/unit/suite.h"

static const struct {
    const char *text;
    size_t values;
} cases[] = {
    {"{}", 2}, /* an opening bracket counts for the value that may follow it */
    {"{\"a\":1,\"b\":[1,2,{}]}", 7},
    {"\"a,b[{\\\",[\"", 1},
    {"[\"\\\\\",1]", 3},
    {"[[[[[[[[", 9},
    {"\"never ends,,,,,", 1},
    {"\"\\", 1},
};

START_TEST(values_are_counted_outside_of_strings)
{
    size_t n = strlen(cases[_i].text);

    for (size_t most = 1; most < n; most++)
        ck_assert_msg(!json_surplus(cases[_i].text, n, most) == (cases[_i].values <= most),
                      "%s: %zu", cases[_i].text, most);
    ck_assert_ptr_null(json_surplus(cases[_i].text, n, n));
}
END_TEST

START_TEST(the_place_is_where_the_next_value_would_begin)
{
    static const char text[] = "{\"a\":[1,2]}";

    ck_assert_ptr_eq(json_surplus(text, strlen(text), 1), text);
    ck_assert_ptr_eq(json_surplus(text, strlen(text), 2), text + 5);
    ck_assert_ptr_eq(json_surplus(text, strlen(text), 3), text + 7);
    ck_assert_ptr_null(json_surplus(text, strlen(text), 4));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("json_size");
    TCase *t = tcase_create("count");

    tcase_add_loop_test(t, values_are_counted_outside_of_strings, 0,
                        (int)(sizeof(cases) / sizeof(cases[0])));
    tcase_add_test(t, the_place_is_where_the_next_value_would_begin);
    suite_add_tcase(s, t);
    return suite_run(s);
}
