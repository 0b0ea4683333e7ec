#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/net/address.h"
#include "test/unit/suite.h"

static const struct {
    const char *text, *canonical; /* NULL: none */
} texts[] = {
    {"192.0.2.1", "192.0.2.1"},
    {"::ffff:192.0.2.1", "192.0.2.1"},
    {"2001:DB8:0:0::1", "2001:db8::1"},
    {"::", "::"},
    {"::1", "::1"},
    {"", NULL},
    {"192.0.2", NULL},
    {"192.0.2.256", NULL},
    {"192.0.2.1.", NULL},
    {"192.0.2.1:80", NULL},
    {" 192.0.2.1", NULL},
    {"0x7f.0.0.1", NULL},
    {"[::1]", NULL},
    {"fe80::1%eth0", NULL},
    {"unknown", NULL},
    {"1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb", NULL},
};

START_TEST(addresses_are_read_and_written)
{
    struct address a;
    char out[ADDRESS_TEXT_SIZE];
    const char *text = texts[_i].text;

    ck_assert_int_eq(address_parse(text, strlen(text), &a), texts[_i].canonical != NULL);
    if (texts[_i].canonical) {
        address_format(&a, out);
        ck_assert_str_eq(out, texts[_i].canonical);
        ck_assert_int_eq(address_is_v4(&a), strchr(out, '.') != NULL);
    }
    ck_assert(!address_parse("::1\0", 4, &a));
}
END_TEST

static const struct {
    const char *list, *address;
    bool has;
} belongs[] = {
    {"10.0.0.0/8", "10.255.255.255", true},
    {"10.0.0.0/8", "::ffff:10.1.2.3", true},
    {"10.0.0.0/8", "11.0.0.0", false},
    {"10.0.0.0/8", "a00::1", false},
    {"0.0.0.0/0", "203.0.113.9", true},
    {"0.0.0.0/0", "2001:db8::1", false},
    {"::/0", "203.0.113.9", true},
    {"::/0", "2001:db8::1", true},
    {"192.0.2.1", "192.0.2.1", true},
    {"192.0.2.1", "192.0.2.2", false},
    {"192.0.2.128/25", "192.0.2.127", false},
    {"192.0.2.128/25", "192.0.2.129", true},
    {"192.0.2.8/29", "192.0.2.15", true},
    {"192.0.2.8/29", "192.0.2.16", false},
    {"2001:db8::/33", "2001:db8:7fff::1", true},
    {"2001:db8::/33", "2001:db8:8000::1", false},
    {"127.0.0.0/8,::1", "::1", true},
    {"127.0.0.0/8,::1/128,172.16.0.0/12", "172.31.0.1", true},
    {"127.0.0.0/8,::1/128,172.16.0.0/12", "172.32.0.1", false},
    {"", "127.0.0.1", false},
};

START_TEST(addresses_belong_to_networks)
{
    const char *text = belongs[_i].address;
    struct address a;
    size_t count;
    struct network *networks = networks_parse(belongs[_i].list, &count);

    ck_assert(address_parse(text, strlen(text), &a));
    ck_assert_int_eq(networks_have(networks, count, &a), belongs[_i].has);
    free(networks);
}
END_TEST

static const struct {
    const char *list;
    bool ok;
} lists[] = {
    {"10.0.0.0/8", true},       {"10.0.0.0/8,::1,fe80::/10", true},
    {"10.0.0.1/8", false},      {"10.0.0.0/33", false},
    {"10.0.0.0/", false},       {"10.0.0.0/8/8", false},
    {"10.0.0.0/-1", false},     {"10.0.0.0/08x", false},
    {"::/129", false},          {"::1/64", false},
    {"10.0.0.0/8,", false},     {",10.0.0.0/8", false},
    {"10.0.0.0/8, ::1", false}, {"proxy.example", false},
    {"10.0.0.0/0000", false},
};

START_TEST(lists_of_networks_are_checked)
{
    char why[200];

    ck_assert_int_eq(networks_check(lists[_i].list, why, sizeof(why)), lists[_i].ok);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("address");
    TCase *t = tcase_create("address");

    tcase_add_loop_test(t, addresses_are_read_and_written, 0,
                        (int)(sizeof(texts) / sizeof(texts[0])));
    tcase_add_loop_test(t, addresses_belong_to_networks, 0,
                        (int)(sizeof(belongs) / sizeof(belongs[0])));
    tcase_add_loop_test(t, lists_of_networks_are_checked, 0,
                        (int)(sizeof(lists) / sizeof(lists[0])));
    suite_add_tcase(s, t);
    return suite_run(s);
}
