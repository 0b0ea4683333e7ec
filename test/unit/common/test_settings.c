#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/settings.h"
#include "test/unit/suite.h"

static struct target {
    int64_t number;
    bool flag;
    char *text, *addr, *choice, *uri, *secret;
} target;

static bool no_spaces(const char *value, char *why, size_t size)
{
    if (!strchr(value, ' '))
        return true;
    snprintf(why, size, "must hold no blank");
    return false;
}

static const struct setting rows[] = {
    SETTING_INT_ROW(target, number, "T_NUMBER", "5", -10, 10, "Help."),
    SETTING_BOOL_ROW(target, flag, "T_FLAG", "true", "Help."),
    SETTING_TEXT_ROW(target, text, SETTING_STRING, "T_TEXT", "", 8, no_spaces, "Help."),
    SETTING_TEXT_ROW(target, addr, SETTING_ADDR, "T_ADDR", ":80", 0, NULL, "Help."),
    SETTING_CHOICE_ROW(target, choice, "T_CHOICE", "a", "a bc", "Help."),
    SETTING_TEXT_ROW(target, uri, SETTING_URI, "T_URI", "", 0, NULL, "Help."),
    SETTING_TEXT_ROW(target, secret, SETTING_SECRET, "T_SECRET", NULL, 0, NULL, "Help."),
    SETTINGS_END};
static const struct settings_group group = {rows, &target};

static void setup(void)
{
    for (const struct setting *s = rows; s->name; s++) {
        char file[64];

        snprintf(file, sizeof(file), "%s_FILE", s->name);
        unsetenv(s->name);
        unsetenv(file);
    }
    setenv("T_SECRET", "hush", 1);
}

static void teardown(void)
{
    settings_free(&group, 1);
}

static size_t load(struct buf *errors)
{
    settings_free(&group, 1);
    return settings_load(&group, 1, errors);
}

/* What is another's lies in a file; the environment says nothing of it. */
START_TEST(a_files_lines_stand_for_the_environment)
{
    char path[] = "/tmp/test_settings_XXXXXX";
    const char text[] = "# a comment\nT_NUMBER=3\n  T_TEXT='abc'\nT_NUMBER=7\r\nT_SECRET=\"s\"\n"
                        "export T_CHOICE=bc\nOTHER=1\n";
    struct buf errors = {0};
    int fd = mkstemp(path);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
    close(fd);
    setenv("T_TEXT", "mine", 1);
    settings_free(&group, 1);
    ck_assert_uint_eq(settings_load_file(&group, 1, path, &errors), 0);
    ck_assert_int_eq(target.number, 7);
    ck_assert_str_eq(target.text, "abc");
    ck_assert_str_eq(target.secret, "s");
    ck_assert_str_eq(target.choice, "a");
    unlink(path);
    ck_assert_uint_eq(settings_load_file(&group, 1, path, &errors), 1);
    ck_assert_uint_eq(load(&errors), 0);
    ck_assert_str_eq(target.text, "mine");
    buf_free(&errors);
}
END_TEST

START_TEST(defaults_and_empty_values)
{
    struct buf errors = {0};

    setenv("T_NUMBER", "", 1);
    ck_assert_uint_eq(load(&errors), 0);
    ck_assert_int_eq(target.number, 5);
    ck_assert(target.flag);
    ck_assert_str_eq(target.text, "");
    ck_assert_str_eq(target.secret, "hush");
    buf_free(&errors);
}
END_TEST

START_TEST(every_fault_is_reported)
{
    struct buf errors = {0};

    setenv("T_NUMBER", "11", 1);
    setenv("T_FLAG", "perhaps", 1);
    setenv("T_TEXT", "a b", 1);
    setenv("T_ADDR", "localhost", 1);
    setenv("T_CHOICE", "b", 1);
    unsetenv("T_SECRET");
    ck_assert_uint_eq(load(&errors), 6);
    ck_assert_ptr_nonnull(
        strstr(errors.data, "T_NUMBER=11: must be a whole number from -10 to 10"));
    ck_assert_ptr_nonnull(strstr(errors.data, "T_FLAG="));
    ck_assert_ptr_nonnull(strstr(errors.data, "must hold no blank"));
    ck_assert_ptr_nonnull(strstr(errors.data, "T_ADDR="));
    ck_assert_ptr_nonnull(strstr(errors.data, "must be one of: a bc"));
    ck_assert_ptr_nonnull(strstr(errors.data, "T_SECRET is required"));
    buf_free(&errors);
}
END_TEST

START_TEST(one_setting_can_be_asked_for_by_name)
{
    struct buf errors = {0};

    setenv("T_ADDR", "[::1]:9", 1);
    setenv("T_NUMBER", "many", 1); /* another one's fault does not matter */
    ck_assert_uint_eq(load(&errors), 1);
    ck_assert_str_eq(settings_text(&group, 1, "T_ADDR"), "[::1]:9");
    ck_assert_ptr_null(settings_text(&group, 1, "T_NUMBER"));
    ck_assert_ptr_null(settings_text(&group, 1, "T_NONE"));
    settings_free(&group, 1);
    setenv("T_ADDR", "nowhere", 1);
    ck_assert_uint_eq(load(&errors), 2);
    ck_assert_ptr_null(settings_text(&group, 1, "T_ADDR"));
    buf_free(&errors);
}
END_TEST

static const char *const no_numbers[] = {"x",   "1x",  " 1",  "1 ", "+1",
                                         "0x5", "1.0", "--1", "-",  "99999999999999999999"};

START_TEST(numbers_are_strict)
{
    struct buf errors = {0};

    setenv("T_NUMBER", no_numbers[_i], 1);
    ck_assert_uint_eq(load(&errors), 1);
    buf_free(&errors);
}
END_TEST

START_TEST(secrets_come_from_files_and_reach_no_output)
{
    char path[] = "/tmp/test_settings_XXXXXX";
    int fd = mkstemp(path);
    struct buf errors = {0};
    struct buf shown = {0};

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, "pass word\n", 10), 10);
    unsetenv("T_SECRET");
    setenv("T_SECRET_FILE", path, 1);
    setenv("T_URI", "amqp://user:pass@word@host:5672/", 1);
    ck_assert_uint_eq(load(&errors), 0);
    ck_assert_str_eq(target.secret, "pass word");
    settings_describe(&group, 1, &shown);
    ck_assert_ptr_null(strstr(shown.data, "pass"));
    ck_assert_ptr_nonnull(strstr(shown.data, "T_URI=amqp://user:***@host:5672/"));
    ck_assert_ptr_nonnull(strstr(shown.data, "T_SECRET=***"));
    setenv("T_SECRET", "both", 1);
    ck_assert_uint_eq(load(&errors), 1);
    ck_assert_ptr_nonnull(strstr(errors.data, "set one"));
    ck_assert_ptr_null(strstr(errors.data, "both are"));
    unsetenv("T_SECRET");
    unlink(path);
    ck_assert_uint_eq(load(&errors), 1);
    close(fd);
    buf_free(&errors);
    buf_free(&shown);
}
END_TEST

/* A file in UTF-16 would be a password of one character. */
START_TEST(a_file_with_a_nul_is_refused)
{
    static const char text[] = "p\0a\0s\0s";
    char path[] = "/tmp/test_settings_XXXXXX";
    int fd = mkstemp(path);
    struct buf errors = {0};

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, sizeof(text)), sizeof(text));
    unsetenv("T_SECRET");
    setenv("T_SECRET_FILE", path, 1);
    ck_assert_uint_eq(load(&errors), 1);
    ck_assert_ptr_nonnull(strstr(errors.data, "holds a NUL"));
    unlink(path);
    close(fd);
    buf_free(&errors);
}
END_TEST

START_TEST(a_wrong_secret_is_not_quoted)
{
    struct buf errors = {0};
    char longest[2000];

    memset(longest, 'q', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    setenv("T_SECRET", longest, 1);
    ck_assert_uint_eq(load(&errors), 1);
    ck_assert_ptr_null(strstr(errors.data, "qqq"));
    buf_free(&errors);
}
END_TEST

static const struct {
    const char *value, *shown;
} uris[] = {
    {"amqp://user:pass@host:5672/", "amqp://user:***@host:5672/"},
    {"amqp://user:pa@ss:w/rd@host/", "amqp://user:***@host/"},
    {"amqp://host/", "amqp://host/"},
    {"https://pass@host/a", "https://***@host/a"},
    {"https://host/v1?api-key=pass&x=1", "https://host/v1?***"},
    {"https://user:pass@host/v1?key=pass", "https://user:***@host/v1?***"},
    {"https://host/v1?key=pass@word", "https://***"},
    {"https://user:p?a@pass@host/", "https://user:***"},
    {"http://host/?k=p://u:p@pass", "http://host/?***"},
    {"host:4317", "host:4317"},
};

START_TEST(secrets_in_uris_are_masked)
{
    struct buf errors = {0};
    struct buf shown = {0};
    struct buf wanted = {0};

    setenv("T_URI", uris[_i].value, 1);
    ck_assert_uint_eq(load(&errors), 0);
    settings_describe(&group, 1, &shown);
    buf_printf(&wanted, " T_URI=%s ", uris[_i].shown);
    ck_assert_msg(strstr(shown.data, wanted.data) != NULL, "%s: %s", wanted.data, shown.data);
    buf_free(&shown);
    buf_free(&wanted);
}
END_TEST

static const char *const lists[] = {"a=http://user:pass@h",
                                    "a=http://pass@h",
                                    "a=user:pass@h",
                                    "a=http://h,b=http://u:pa/s,s:pass@h",
                                    "a=http://h/?key=pass",
                                    "user:pa//pass@h",
                                    "a=http://h/?key=pass,b=http://u:p@h"};

/* Whoever puts a password where none belongs reads of it neither in the faults nor in the log. */
START_TEST(a_password_in_a_plain_text_is_not_quoted)
{
    static const struct setting long_rows[] = {
        SETTING_TEXT_ROW(target, text, SETTING_STRING, "T_TEXT", "", 80, NULL, "Help."),
        SETTINGS_END};
    const struct settings_group long_group = {long_rows, &target};
    struct buf errors = {0};
    struct buf shown = {0};

    setenv("T_TEXT", lists[_i], 1);
    ck_assert_uint_eq(load(&errors), 1); /* longer than 8 */
    ck_assert_ptr_nonnull(strstr(errors.data, "T_TEXT="));
    ck_assert_msg(!strstr(errors.data, "pass"), "%s", errors.data);
    ck_assert_uint_eq(settings_load(&long_group, 1, &errors), 0);
    settings_describe(&long_group, 1, &shown);
    ck_assert_msg(!strstr(shown.data, "pass"), "%s", shown.data);
    buf_free(&errors);
    buf_free(&shown);
}
END_TEST

START_TEST(the_environment_forgets_its_secrets)
{
    struct buf errors = {0};
    const char *there;

    setenv("T_URI", "amqp://user:pass@host/", 1);
    setenv("T_TEXT", "stays", 1);
    there = getenv("T_SECRET");
    ck_assert_ptr_nonnull(there);
    ck_assert_uint_eq(load(&errors), 0);
    settings_forget_environment(&group, 1);
    ck_assert_str_eq(target.secret, "hush");
    ck_assert_str_eq(target.uri, "amqp://user:pass@host/");
    ck_assert_str_eq(getenv("T_TEXT"), "stays");
    ck_assert_str_eq(getenv("T_URI"), "");
    ck_assert_int_eq(memcmp(there, "\0\0\0\0", 4), 0);
}
END_TEST

START_TEST(one_flag_can_be_asked_for_by_name)
{
    struct buf errors = {0};

    setenv("T_FLAG", "no", 1);
    ck_assert_uint_eq(load(&errors), 0);
    ck_assert(!*settings_flag(&group, 1, "T_FLAG"));
    ck_assert_ptr_null(settings_flag(&group, 1, "T_NUMBER"));
}
END_TEST

START_TEST(addresses)
{
    char host[16];
    uint16_t port;

    ck_assert(settings_split_addr(":8080", host, sizeof(host), &port));
    ck_assert_str_eq(host, "");
    ck_assert_uint_eq(port, 8080);
    ck_assert(settings_split_addr("[::1]:65535", host, sizeof(host), &port));
    ck_assert_str_eq(host, "::1");
    ck_assert_uint_eq(port, 65535);
    ck_assert(!settings_split_addr("host", host, sizeof(host), &port));
    ck_assert(!settings_split_addr("host:", host, sizeof(host), &port));
    ck_assert(!settings_split_addr("host:65536", host, sizeof(host), &port));
    ck_assert(!settings_split_addr("host:-1", host, sizeof(host), &port));
    ck_assert(!settings_split_addr("a-name-that-is-too-long:1", host, sizeof(host), &port));
    ck_assert(!settings_split_addr("host:99999", host, sizeof(host), &port));
    ck_assert(!settings_split_addr("host:-0", host, sizeof(host), &port));
    ck_assert(!settings_split_addr("host:4294967376", host, sizeof(host), &port));
    ck_assert(!settings_split_addr("[::1:80", host, sizeof(host), &port));
    ck_assert(!settings_split_addr("[]:80", host, sizeof(host), &port));
    ck_assert(!settings_split_addr("[::1]x:80", host, sizeof(host), &port));
    ck_assert(!settings_split_addr("a b:80", host, sizeof(host), &port));
}
END_TEST

static const struct {
    const char *url;
    bool ok;
} urls[] = {
    {"http://a", true},
    {"http://a/", true},
    {"http://a:1/x:y", true},
    {"http://a:65535?x=:0", true},
    {"http://[::1]", true},
    {"http://[::1]:80/", true},
    {"amqp://user:pass@host:5672/", true},
    {"amqp://user:pass@host", true},
    {"http://a:", false},
    {"http://a:0", false},
    {"http://a:65536/", false},
    {"http://a:99999", false},
    {"http://a:8o", false},
    {"http://a:+80", false},
    {"http://a:1:2", false},
    {"http://[::1]:/", false},
};

START_TEST(ports_of_urls)
{
    ck_assert_msg(settings_url_port_ok(urls[_i].url) == urls[_i].ok, "%s", urls[_i].url);
}
END_TEST

START_TEST(what_must_not_be_above_another)
{
    struct buf errors = {0};

    ck_assert_uint_eq(settings_check_order("T_LOW", 5, "T_HIGH", 5, &errors), 0);
    ck_assert_uint_eq(settings_check_order("T_LOW", 6, "T_HIGH", 5, &errors), 1);
    ck_assert_str_eq(errors.data, "T_LOW=6 is above T_HIGH=5\n");
    buf_free(&errors);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("settings");
    TCase *t = tcase_create("settings");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_files_lines_stand_for_the_environment);
    tcase_add_test(t, defaults_and_empty_values);
    tcase_add_test(t, every_fault_is_reported);
    tcase_add_test(t, one_setting_can_be_asked_for_by_name);
    tcase_add_loop_test(t, numbers_are_strict, 0,
                        (int)(sizeof(no_numbers) / sizeof(no_numbers[0])));
    tcase_add_test(t, secrets_come_from_files_and_reach_no_output);
    tcase_add_test(t, a_file_with_a_nul_is_refused);
    tcase_add_test(t, a_wrong_secret_is_not_quoted);
    tcase_add_loop_test(t, secrets_in_uris_are_masked, 0, (int)(sizeof(uris) / sizeof(uris[0])));
    tcase_add_loop_test(t, a_password_in_a_plain_text_is_not_quoted, 0,
                        (int)(sizeof(lists) / sizeof(lists[0])));
    tcase_add_test(t, the_environment_forgets_its_secrets);
    tcase_add_test(t, one_flag_can_be_asked_for_by_name);
    tcase_add_test(t, addresses);
    tcase_add_loop_test(t, ports_of_urls, 0, (int)(sizeof(urls) / sizeof(urls[0])));
    tcase_add_test(t, what_must_not_be_above_another);
    suite_add_tcase(s, t);
    return suite_run(s);
}
