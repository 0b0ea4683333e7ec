#include <check.h>
#include <stdlib.h>
#include <unistd.h>

#include "test/loadtest/options.h"
#include "test/unit/suite.h"

START_TEST(durations_are_read_as_written)
{
    static const struct {
        const char *text;
        int64_t us;
    } good[] = {{"30s", 30000000}, {"2m", 120000000}, {"500ms", 500000}, {"1m30s", 90000000},
                {"1.5s", 1500000}, {"250us", 250},    {"0", 0},          {"1h", 3600000000},
                {"0.1ms", 100}};
    static const char *const bad[] = {"",   "30",   "s",        "3 s", "-3s",
                                      "3x", "1m30", "9999999h", "1e3s"};
    int64_t us = 0;

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        ck_assert_msg(options_duration(good[i].text, &us), "%s", good[i].text);
        ck_assert_int_eq(us, good[i].us);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_msg(!options_duration(bad[i], &us), "%s", bad[i]);
}
END_TEST

static void check_dsn(const char *dsn, const char *user, const char *password, const char *host,
                      int64_t port, const char *name)
{
    struct db_settings s;

    ck_assert_msg(options_dsn(dsn, &s), "%s", dsn);
    ck_assert_str_eq(s.user, user);
    ck_assert_str_eq(s.password, password);
    ck_assert_str_eq(s.host, host);
    ck_assert_int_eq(s.port, port);
    ck_assert_str_eq(s.name, name);
    options_dsn_free(&s);
}

START_TEST(a_database_is_named_as_in_go)
{
    static const char *const bad[] = {"",
                                      "u:p@tcp(h:1)",
                                      "u:p@tcp(h:1)/",
                                      "u:p@unix(/x)/d",
                                      "u:p@tcp(h:x)/d",
                                      "u:p@h:1/d",
                                      "@tcp(h:1)/d",
                                      "u:p@tcp(h:0)/d",
                                      "u:p@tcp(h:1/d",
                                      "u:p@tcp(h:70000)/d",
                                      "u:p@tcp(h:1)/?a=b"};
    struct db_settings s;

    check_dsn("u:p@tcp(h:3307)/d", "u", "p", "h", 3307, "d");
    check_dsn("u:p@tcp(h)/d?parseTime=true&loc=UTC", "u", "p", "h", 3306, "d");
    check_dsn("u:p:@/@tcp(x@tcp(h:1)/d", "u", "p:@/@tcp(x", "h", 1, "d");
    check_dsn("u@tcp(h:1)/d", "u", "", "h", 1, "d");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_msg(!options_dsn(bad[i], &s), "%s", bad[i]);
}
END_TEST

static int parse(struct options *o, const char *const *words, size_t n)
{
    static char room[16][64];
    char *argv[16];
    char why[200];

    for (size_t i = 0; i < n; i++) {
        snprintf(room[i], sizeof(room[i]), "%s", words[i]);
        argv[i] = room[i];
    }
    return options_parse(o, (int)n, argv, why, sizeof(why));
}

#define PARSE(o, ...)                                            \
    parse(o, (const char *const[]){"msg-loadtest", __VA_ARGS__}, \
          sizeof((const char *const[]){"msg-loadtest", __VA_ARGS__}) / sizeof(char *))

START_TEST(options_have_the_ancestors_names_and_defaults)
{
    struct options o;

    ck_assert_int_eq(PARSE(&o, "-json=false"), 0);
    ck_assert_str_eq(o.base_url, "http://localhost:8080");
    ck_assert_double_eq(o.rps, 200);
    ck_assert_int_eq(o.duration_us, 30000000);
    ck_assert_int_eq(o.concurrency, 100);
    ck_assert_int_eq(o.user_start, 1);
    ck_assert_int_eq(o.users, 1000);
    ck_assert_int_eq(o.recipients, 1);
    ck_assert_double_eq(o.express_ratio, 0.1);
    ck_assert_int_eq(o.timeout_us, 3000000);
    ck_assert_int_eq(o.seed_balance, 0);
    ck_assert_int_eq(o.seed_concurrency, 50);
    ck_assert_int_eq(o.seed_timeout_us, 120000000);
    ck_assert_str_eq(o.seed_method, "db");
    ck_assert(!o.seed_only && !o.verify && !o.json);
    ck_assert_int_eq(PARSE(&o, "--rps", "0", "-users=7", "--verify", "-express-ratio", "1"), 0);
    ck_assert_double_eq(o.rps, 0);
    ck_assert_int_eq(o.users, 7);
    ck_assert(o.verify);
}
END_TEST

START_TEST(what_cannot_be_is_refused)
{
    struct options o;

    ck_assert_int_eq(PARSE(&o, "-rpm", "3"), -1);
    ck_assert_int_eq(PARSE(&o, "---rps", "3"), -1);
    ck_assert_int_eq(PARSE(&o, "rps", "3"), -1);
    ck_assert_int_eq(PARSE(&o, "-rps"), -1);
    ck_assert_int_eq(PARSE(&o, "-rps", "-1"), -1);
    ck_assert_int_eq(PARSE(&o, "-users", "1.5"), -1);
    ck_assert_int_eq(PARSE(&o, "-users", "0"), -1);
    ck_assert_int_eq(PARSE(&o, "-express-ratio", "1.1"), -1);
    ck_assert_int_eq(PARSE(&o, "-seed-method", "ftp"), -1);
    ck_assert_int_eq(PARSE(&o, "-seed-db-dsn", "nowhere"), -1);
    ck_assert_int_eq(PARSE(&o, "-seed-only"), -1);
    ck_assert_int_eq(PARSE(&o, "-users-zipf", "-1"), -1);
    ck_assert_int_eq(PARSE(&o, "-users-zipf", "1", "-users", "10000001"), -1);
    ck_assert_int_eq(PARSE(&o, "-users", "10000001"), 0);
    ck_assert_int_eq(PARSE(&o, "-rate-curve", "1,x"), -1);
    ck_assert_int_eq(PARSE(&o, "-rate-curve", "1,2", "-rps", "0"), -1);
    ck_assert_int_eq(PARSE(&o, "-rate-curve", "1,2", "-users-zipf", "1.1"), 0);
    ck_assert_str_eq(o.rate_curve, "1,2");
}
END_TEST

START_TEST(the_database_may_be_named_where_no_list_of_processes_shows_it)
{
    char path[] = "/tmp/test_options_XXXXXX";
    int fd = mkstemp(path);
    struct options o;

    ck_assert_int_eq(write(fd, "f:f@tcp(h)/file\n", 16), 16);
    close(fd);
    setenv("SEED_DB_DSN_FILE", path, 1);
    ck_assert_int_eq(PARSE(&o, "-users", "5"), 0);
    ck_assert_str_eq(o.seed_db_dsn, "f:f@tcp(h)/file");
    setenv("SEED_DB_DSN", "e:e@tcp(h)/environment", 1);
    ck_assert_int_eq(PARSE(&o, "-users", "5"), 0);
    ck_assert_str_eq(o.seed_db_dsn, "e:e@tcp(h)/environment");
    ck_assert_int_eq(PARSE(&o, "-seed-db-dsn", "a:a@tcp(h)/argument"), 0);
    ck_assert_str_eq(o.seed_db_dsn, "a:a@tcp(h)/argument");
    unsetenv("SEED_DB_DSN");
    unlink(path);
    ck_assert_int_eq(PARSE(&o, "-users", "5"), -1);
    unsetenv("SEED_DB_DSN_FILE");
}
END_TEST

START_TEST(a_key_may_stand_in_a_file)
{
    char path[] = "/tmp/msg-key-XXXXXX";
    int fd = mkstemp(path);
    struct options o;

    ck_assert_int_eq(PARSE(&o, "-rps", "1"), 0);
    ck_assert_str_eq(o.api_key, "");
    ck_assert_int_eq(PARSE(&o, "-api-key", "msg_a_b_c"), 0);
    ck_assert_str_eq(o.api_key, "msg_a_b_c");
    ck_assert_int_eq(PARSE(&o, "-api-key", "a\r\nb"), -1);
    ck_assert_int_eq(PARSE(&o, "-api-key-file", path), -1); /* nothing is in it */
    ck_assert_int_eq(write(fd, "msg_d_e_f\n", 10), 10);
    ck_assert_int_eq(PARSE(&o, "-api-key-file", path), 0);
    ck_assert_str_eq(o.api_key, "msg_d_e_f");
    close(fd);
    unlink(path);
    ck_assert_int_eq(PARSE(&o, "-api-key-file", path), -1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("options");
    TCase *t = tcase_create("options");

    tcase_add_test(t, durations_are_read_as_written);
    tcase_add_test(t, a_database_is_named_as_in_go);
    tcase_add_test(t, options_have_the_ancestors_names_and_defaults);
    tcase_add_test(t, what_cannot_be_is_refused);
    tcase_add_test(t, the_database_may_be_named_where_no_list_of_processes_shows_it);
    tcase_add_test(t, a_key_may_stand_in_a_file);
    suite_add_tcase(s, t);
    return suite_run(s);
}
