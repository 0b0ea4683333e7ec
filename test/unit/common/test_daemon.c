#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/daemon/daemon.h"
#include "test/unit/suite.h"

struct target {
    int64_t number;
};

static struct target target;
static const struct setting rows[] = {
    SETTING_INT_ROW(target, number, "T_NUMBER", "5", 1, 9, "Help."),
    SETTINGS_END,
};
static const struct settings_group groups[] = {{rows, &target}};
static const struct daemon_program program = {
    .name = "test", .summary = "tests", .groups = groups, .group_count = 1};

static int served;
static int verb_argc;
static const char *verb_arg;

static int serve(void)
{
    served++;
    return 7;
}

static int run(int argc, char **argv)
{
    verb_argc = argc;
    verb_arg = argc ? argv[0] : NULL;
    return argc ? (int)target.number : DAEMON_USAGE;
}

static const struct daemon_verb verbs[] = {{"other", "", run}, {"verb", "ID", run}, {0}};

static const struct {
    const char *arg[2];
    const char *number; /* the setting */
    int code, served, verb_argc;
} lines[] = {
    {{NULL, NULL}, "5", 7, 1, -1},
    {{NULL, NULL}, "10", EXIT_SETTINGS, 0, -1},
    {{"verb", "x"}, "5", 5, 0, 1},
    {{"verb", NULL}, "5", EXIT_SETTINGS, 0, 0},
    {{"verb", "x"}, "10", EXIT_SETTINGS, 0, -1},
    {{"ver", "x"}, "5", EXIT_SETTINGS, 0, -1},
    {{"--check", NULL}, "5", 0, 0, -1},
    {{"--check", NULL}, "10", EXIT_SETTINGS, 0, -1},
    {{"--chec", NULL}, "5", EXIT_SETTINGS, 0, -1},
    {{"--version", NULL}, "10", 0, 0, -1},
};

START_TEST(a_line_is_carried_out)
{
    char *argv[4] = {(char[]){"test"}};
    int argc = 1;

    served = 0;
    verb_argc = -1;
    verb_arg = NULL;
    for (; argc < 3 && lines[_i].arg[argc - 1]; argc++)
        argv[argc] = strdup(lines[_i].arg[argc - 1]);
    setenv("T_NUMBER", lines[_i].number, 1);
    ck_assert_int_eq(daemon_main(&program, verbs, serve, argc, argv), lines[_i].code);
    ck_assert_int_eq(served, lines[_i].served);
    ck_assert_int_eq(verb_argc, lines[_i].verb_argc);
    if (verb_argc > 0)
        ck_assert_str_eq(verb_arg, lines[_i].arg[1]);
    while (--argc)
        free(argv[argc]);
}
END_TEST

START_TEST(a_program_without_verbs_knows_none)
{
    char *argv[] = {(char[]){"test"}, (char[]){"verb"}, NULL};

    setenv("T_NUMBER", "5", 1);
    ck_assert_int_eq(daemon_main(&program, NULL, serve, 2, argv), EXIT_SETTINGS);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("daemon");
    TCase *tc = tcase_create("daemon");

    tcase_add_loop_test(tc, a_line_is_carried_out, 0, (int)(sizeof(lines) / sizeof(lines[0])));
    tcase_add_test(tc, a_program_without_verbs_knows_none);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
