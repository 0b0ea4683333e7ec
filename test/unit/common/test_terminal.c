#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/terminal.h"
#include "test/unit/suite.h"

static const struct {
    const char *bytes;
    size_t n;
    const char *shown;
} cases[] = {
    {"plain \\x text", 13, "plain \\x text"},
    {"\xd8\xb3\xf0\x9f\x91\x8b", 6, "\xd8\xb3\xf0\x9f\x91\x8b"},
    {"a\x1b[2Jb", 6, "a\\x1b[2Jb"},
    {"a\nb\tc\rd", 7, "a\\x0ab\\x09c\\x0dd"},
    {"\x7f\x00", 2, "\\x7f\\x00"},
    {"\xc2\x9b"
     "31m",
     5, "\\xc2\\x9b31m"},
    {"\xc2\xa0", 2, "\xc2\xa0"},
    {"\x9b\xff", 2, "\\x9b\\xff"},
    {"\xf0\x9f", 2, "\\xf0\\x9f"},
    {"", 0, ""},
};

START_TEST(nothing_steers_the_terminal)
{
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);

    ck_assert_ptr_nonnull(to);
    terminal_put(to, cases[_i].bytes, cases[_i].n);
    fclose(to);
    ck_assert_str_eq(text, cases[_i].shown);
    free(text);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("terminal");
    TCase *t = tcase_create("terminal");

    tcase_add_loop_test(t, nothing_steers_the_terminal, 0, (int)(sizeof(cases) / sizeof(cases[0])));
    suite_add_tcase(s, t);
    return suite_run(s);
}
