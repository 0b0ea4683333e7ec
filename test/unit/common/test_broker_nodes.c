#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/broker/broker_nodes.h"
#include "test/unit/suite.h"

static void expect_node(const char *list, size_t i, const char *uri)
{
    char *copy = broker_nodes_copy(list, i);

    ck_assert_str_eq(copy, uri);
    broker_nodes_wipe(copy, strlen(uri));
}

START_TEST(one_uri_is_a_list_of_one)
{
    ck_assert_uint_eq(broker_nodes_count("amqp://u:p@host:5672/v"), 1);
    expect_node("amqp://u:p@host:5672/v", 0, "amqp://u:p@host:5672/v");
}
END_TEST

START_TEST(a_comma_parts_uris_and_nothing_else)
{
    static const char list[] = "amqp://u:a,b@h1/x,y,amqps://u:c,@h2:1/x,y,amqp://h3/";

    ck_assert_uint_eq(broker_nodes_count(list), 3);
    expect_node(list, 0, "amqp://u:a,b@h1/x,y");
    expect_node(list, 1, "amqps://u:c,@h2:1/x,y");
    expect_node(list, 2, "amqp://h3/");
}
END_TEST

START_TEST(homes_are_spread)
{
    size_t seen[3] = {0};

    for (size_t i = 0; i < 300; i++)
        seen[broker_nodes_home(3)]++;
    for (size_t i = 0; i < 3; i++)
        ck_assert_uint_eq(seen[i], 100);
    ck_assert_uint_eq(broker_nodes_home(1), 0);
}
END_TEST

START_TEST(every_uri_is_checked)
{
    static const struct {
        const char *uri, *fault;
    } wrong[] = {
        {"amqp://a/,amqp://b:0/", "must look like"},
        {"amqp://a/,", "must look like"},
        {"amqp://a/x,amqp://b/y", "the same vhost"},
        {"amqp://a/,amqp://b/,amqp://c/v", "the same vhost"},
        {"amqp://a/, amqp://b/", "must look like"},
        {"amqp://a/,amqp://a/,amqp://a/,amqp://a/,amqp://a/,amqp://a/,amqp://a/,amqp://a/,"
         "amqp://a/,amqp://a/,amqp://a/,amqp://a/,amqp://a/,amqp://a/,amqp://a/,amqp://a/,"
         "amqp://a/",
         "at most 16"},
    };
    static const char *const right[] = {"amqp://a/,amqp://b", "amqp://a/%2F,amqps://b:1/",
                                        "amqp://u:p@a/v,amqp://u:p@b/v"};

    char why[256];

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ck_assert(!broker_nodes_check(wrong[i].uri, why, sizeof(why)));
        ck_assert_ptr_nonnull(strstr(why, wrong[i].fault));
    }
    for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++)
        ck_assert_msg(broker_nodes_check(right[i], why, sizeof(why)), "%s", why);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("broker_nodes");
    TCase *t = tcase_create("broker_nodes");

    tcase_add_test(t, one_uri_is_a_list_of_one);
    tcase_add_test(t, a_comma_parts_uris_and_nothing_else);
    tcase_add_test(t, homes_are_spread);
    tcase_add_test(t, every_uri_is_checked);
    suite_add_tcase(s, t);
    return suite_run(s);
}
