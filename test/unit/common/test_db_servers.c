#include <check.h>
#include <string.h>

#include "libcommon/db/db_servers.h"
#include "test/unit/suite.h"

static struct db_server servers[DB_SERVERS_MAX];

static void expect_server(size_t i, const char *host, unsigned port)
{
    ck_assert_str_eq(servers[i].host, host);
    ck_assert_uint_eq(servers[i].port, port);
}

START_TEST(one_host_is_a_list_of_one)
{
    static const char *const names[] = {"db", "127.0.0.1", "::1", "fe80::1:2"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        ck_assert_uint_eq(db_servers_parse(names[i], 3306, servers), 1);
        expect_server(0, names[i], 3306);
    }
}
END_TEST

START_TEST(ports_and_brackets)
{
    ck_assert_uint_eq(db_servers_parse("a,b:1,[::1]:65535,[::2],::3", 3306, servers), 5);
    expect_server(0, "a", 3306);
    expect_server(1, "b", 1);
    expect_server(2, "::1", 65535);
    expect_server(3, "::2", 3306);
    expect_server(4, "::3", 3306);
}
END_TEST

START_TEST(what_is_no_list)
{
    static const char *const wrong[] = {
        ",",  "a,",   ",a",   "a,,b", "a:",       "a:0",  "a:65536",          "a:b",
        ":1", "[::1", "[]:1", "[a]b", "a:123456", "a: 1", "1,2,3,4,5,6,7,8,9"};
    char why[256];

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ck_assert_msg(!db_servers_parse(wrong[i], 3306, servers), "%s", wrong[i]);
        ck_assert(!db_hosts_check(wrong[i], why, sizeof(why)));
    }
    ck_assert(db_hosts_check("", why, sizeof(why)));
    ck_assert(db_hosts_check("1,2,3,4,5,6,7,8", why, sizeof(why)));
}
END_TEST

/* states: a letter a server, of "?", "away", "read-only", "writable". */
static struct db_servers_choice choose(const char *states, int before)
{
    enum db_server_state all[DB_SERVERS_MAX];
    size_t n = strlen(states);

    for (size_t i = 0; i < n; i++)
        all[i] = states[i] == 'w'   ? DB_SERVER_WRITABLE
                 : states[i] == 'r' ? DB_SERVER_READ_ONLY
                 : states[i] == 'a' ? DB_SERVER_AWAY
                                    : DB_SERVER_UNKNOWN;
    return db_servers_choose(all, n, before);
}

START_TEST(the_only_one_that_takes_writes)
{
    static const struct {
        const char *states;
        int before, current;
        bool split;
    } cases[] = {
        {"wr", DB_SERVER_NONE, 0, false},
        {"rw", DB_SERVER_NONE, 1, false},
        {"aw", 0, 1, false},               /* promoted */
        {"rwr", 0, 1, false},              /* switched over */
        {"w?", DB_SERVER_NONE, -1, false}, /* the other might, too */
        {"?w", 0, 0, false},
        {"rr", DB_SERVER_NONE, -1, false},
        {"aa", DB_SERVER_NONE, -1, false},
        {"rr", 1, 1, false}, /* demoted, and nobody has its place yet */
        {"ar", 0, 0, false}, /* slow, or starting again */
        {"ww", DB_SERVER_NONE, -1, true},
        {"ww", 1, 1, true},
        {"wwr", 2, 2, true},
        {"wra", 2, 0, false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct db_servers_choice choice = choose(cases[i].states, cases[i].before);

        ck_assert_msg(choice.current == cases[i].current && choice.split == cases[i].split,
                      "%s after %d: %d", cases[i].states, cases[i].before, choice.current);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("db_servers");
    TCase *t = tcase_create("db_servers");

    tcase_add_test(t, one_host_is_a_list_of_one);
    tcase_add_test(t, ports_and_brackets);
    tcase_add_test(t, what_is_no_list);
    tcase_add_test(t, the_only_one_that_takes_writes);
    suite_add_tcase(s, t);
    return suite_run(s);
}
