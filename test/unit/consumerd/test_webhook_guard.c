#include "consumerd/webhook_guard.h"

#include <check.h>
#include <string.h>

#include "test/unit/suite.h"

static bool allows(const char *text, const char *networks)
{
    struct webhook_guard guard;
    struct address address;
    bool ok;

    guard.allowed = networks_parse(networks, &guard.count);
    ck_assert_msg(address_parse(text, strlen(text), &address), "%s", text);
    ok = webhook_guard_allows(&guard, &address);
    free(guard.allowed);
    return ok;
}

static const char *const inside[] = {
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "168.63.129.16", /* of Azure's hosts */
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    /* the same behind other forms */
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:168.63.129.16",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "::",
    "::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "3fff::1",
    "64:ff9b:1::1",
    "4000::1",
};

static const char *const outside[] = {
    "1.1.1.1",         "9.255.255.255",   "11.0.0.0",         "100.63.255.255",  "100.128.0.0",
    "126.255.255.255", "128.0.0.0",       "169.253.255.255",  "169.255.0.0",     "172.15.255.255",
    "172.32.0.0",      "192.167.255.255", "192.169.0.0",      "198.17.255.255",  "198.20.0.0",
    "223.255.255.255", "::ffff:1.1.1.1",  "64:ff9b::101:101", "2002:101:101::1", "2606:4700::1111",
    "2a00::1",
};

START_TEST(addresses_inside_are_refused)
{
    ck_assert_msg(!allows(inside[_i], ""), "%s", inside[_i]);
}
END_TEST

START_TEST(addresses_of_the_internet_are_not)
{
    ck_assert_msg(allows(outside[_i], ""), "%s", outside[_i]);
}
END_TEST

START_TEST(what_an_operator_names_is_allowed_and_nothing_beside_it)
{
    ck_assert(allows("127.0.0.1", "10.0.0.0/8,127.0.0.1"));
    ck_assert(allows("10.255.0.1", "10.0.0.0/8,127.0.0.1"));
    ck_assert(allows("::ffff:10.0.0.1", "10.0.0.0/8"));
    ck_assert(!allows("127.0.0.2", "10.0.0.0/8,127.0.0.1"));
    ck_assert(!allows("::1", "127.0.0.1"));
    ck_assert(allows("fd00::1", "fd00::/8"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("webhook_guard");
    TCase *t = tcase_create("webhook_guard");

    tcase_add_loop_test(t, addresses_inside_are_refused, 0, sizeof(inside) / sizeof(inside[0]));
    tcase_add_loop_test(t, addresses_of_the_internet_are_not, 0,
                        sizeof(outside) / sizeof(outside[0]));
    tcase_add_test(t, what_an_operator_names_is_allowed_and_nothing_beside_it);
    suite_add_tcase(s, t);
    return suite_run(s);
}
