#include <check.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "test/unit/suite.h"

START_TEST(numbers_at_their_limits)
{
    struct buf b = {0};

    buf_put_int(&b, INT64_MIN);
    buf_putc(&b, ' ');
    buf_put_int(&b, INT64_MAX);
    buf_putc(&b, ' ');
    buf_put_uint(&b, UINT64_MAX);
    buf_putc(&b, ' ');
    buf_put_int(&b, 0);
    ck_assert_str_eq(b.data, "-9223372036854775808 9223372036854775807 18446744073709551615 0");
    buf_free(&b);
}
END_TEST

START_TEST(grows_and_stays_terminated)
{
    struct buf b = {0};

    for (int i = 0; i < 10000; i++)
        buf_printf(&b, "%d,", i % 10);
    ck_assert_uint_eq(b.len, 20000);
    ck_assert_uint_eq(strlen(b.data), 20000);
    buf_reset(&b);
    ck_assert_uint_eq(b.len, 0);
    ck_assert_str_eq(b.data, "");
    buf_put_hex(&b, "\x00\x7f\xff", 3);
    ck_assert_str_eq(b.data, "007fff");
    buf_free(&b);
    buf_free(&b);
    buf_free(NULL);
}
END_TEST

START_TEST(json_strings_read_back_as_they_were)
{
    char all[256];
    struct buf b = {0};
    json_t *value;

    for (int i = 1; i < 128; i++)
        all[i - 1] = (char)i;
    memcpy(all + 127, "\xd8\xb3\xf0\x9f\x91\x8b", 7);
    buf_put_json(&b, all, 127 + 6);
    value = json_loadb(b.data, b.len, JSON_DECODE_ANY, NULL);
    ck_assert_ptr_nonnull(value);
    ck_assert_str_eq(json_string_value(value), all);
    json_decref(value);
    buf_free(&b);
}
END_TEST

static const struct {
    const char *bytes, *text;
} broken[] = {
    {"\xff", "\xef\xbf\xbd"},
    {"a\xc3", "a\xef\xbf\xbd"},
    {"\xc3(", "\xef\xbf\xbd("},
    {"\xf0\x9f\x91x", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdx"},
    {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* half a surrogate pair */
    {"\xc0\x80 \xd8\xb3", "\xef\xbf\xbd\xef\xbf\xbd \xd8\xb3"},
};

START_TEST(a_json_string_is_text_whatever_is_put)
{
    struct buf b = {0};
    json_t *value;

    buf_put_json(&b, broken[_i].bytes, strlen(broken[_i].bytes));
    value = json_loadb(b.data, b.len, JSON_DECODE_ANY, NULL);
    ck_assert_ptr_nonnull(value);
    ck_assert_str_eq(json_string_value(value), broken[_i].text);
    json_decref(value);
    buf_free(&b);
}
END_TEST

START_TEST(a_failed_buf_stays_failed_and_keeps_nothing)
{
    struct buf b = {0};
    size_t n = 99;

    buf_puts(&b, "kept");
    ck_assert(!buf_reserve(&b, SIZE_MAX - 2));
    b.failed = true;
    buf_puts(&b, " not");
    ck_assert_str_eq(b.data, "kept");
    ck_assert_ptr_null(buf_take(&b, &n));
    ck_assert_uint_eq(n, 0);
    ck_assert_ptr_null(b.data);
    buf_puts(&b, "new");
    free(buf_take(&b, &n));
    ck_assert_uint_eq(n, 3);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("buf");
    TCase *t = tcase_create("buf");

    tcase_add_test(t, numbers_at_their_limits);
    tcase_add_test(t, grows_and_stays_terminated);
    tcase_add_test(t, json_strings_read_back_as_they_were);
    tcase_add_loop_test(t, a_json_string_is_text_whatever_is_put, 0,
                        (int)(sizeof(broken) / sizeof(broken[0])));
    tcase_add_test(t, a_failed_buf_stays_failed_and_keeps_nothing);
    suite_add_tcase(s, t);
    return suite_run(s);
}
