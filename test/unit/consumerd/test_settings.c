#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/claim.h"
#include "consumerd/settings.h"
#include "consumerd/transport.h"
#include "test/unit/suite.h"

static size_t parse(const char *list, struct operator_address out[OPERATORS_MAX])
{
    char why[200];
    struct operator_set *set = operator_set_of_list(list, why, sizeof(why));
    size_t n;

    ck_assert_ptr_nonnull(set);
    n = settings_addresses(set, out);
    operator_set_drop(set);
    return n;
}

static const struct {
    const char *text;
    size_t count; /* 0: refused */
} operator_lists[] = {
    {"a=http://127.0.0.1:9001", 1},
    {"operatorA=http://a,operatorB=https://b:8443/api/", 2},
    {"a=http://1,b=http://2,c=http://3,d=http://4,e=http://5,f=http://6,g=http://7,h=http://8", 8},
    {"a=http://1,b=http://2,c=http://3,d=http://4,e=http://5,f=http://6,g=http://7,h=http://8,"
     "i=http://9",
     0},
    {"nonsense", 0},
    {"", 0},
    {"a=", 0},
    {"=http://a", 0},
    {"a=http://", 0},
    {"a=http:///x", 0},
    {"a=ftp://a", 0},
    {"a=http://user:secret@a", 0},
    {"a=http://a?x=1", 0},
    {"a=http://a b", 0},
    {"a=http://a:99999", 0},
    {"a=http://a:0", 0},
    {"a=http://a:80x/y", 0},
    {"a b=http://a", 0},
    {"a=http://a,", 0},
    {"a=http://a,a=http://b", 0},
    {"abcdefghijklmnopqrstuvwxyz12345=http://a", 0},
};

START_TEST(operators_are_checked)
{
    char why[200] = "";
    struct operator_set *set = operator_set_of_list(operator_lists[_i].text, why, sizeof(why));

    ck_assert_msg((set ? set->n : 0) == operator_lists[_i].count, "%s: %s", operator_lists[_i].text,
                  why);
    if (!set)
        ck_assert_str_ne(why, "");
    operator_set_drop(set);
}
END_TEST

START_TEST(operators_keep_their_order_and_lose_the_last_slash)
{
    struct operator_address out[OPERATORS_MAX];
    char why[200];
    struct operator_set *set = operator_set_of_list("z=http://z/x//,a=http://a", why, sizeof(why));

    ck_assert_uint_eq(settings_addresses(set, out), 2);
    ck_assert_str_eq(out[0].name, "z");
    ck_assert_str_eq(set->all[0]->url, "http://z/x");
    ck_assert_str_eq(out[1].name, "a");
    for (int i = 0; i < 2; i++)
        ck_assert_ptr_eq(out[i].transport, &transport_native);
    operator_set_drop(set);
}
END_TEST

START_TEST(operator_sets_survive_the_row)
{
    struct operator_address out[OPERATORS_MAX];
    struct buf names = {0};
    size_t n = parse("a=http://a,bb=http://b,b=http://c", out);

    for (uint32_t mask = 0; mask < 8; mask++) {
        buf_reset(&names);
        settings_put_noted(&names, out, mask, NULL);
        ck_assert_uint_eq(settings_operator_mask(out, n, names.data ? names.data : ""), mask);
    }
    ck_assert_uint_eq(settings_operator_mask(out, n, "gone,b,,aa"), 4);
    buf_free(&names);
}
END_TEST

static const struct {
    const char *row;
    uint32_t mask;
    bool any;
    const char *gone, *again; /* what is written back */
} noted[] = {
    {"", 0, false, "", ""},
    {"a", 1, false, "", "a"},
    {"b,a", 3, false, "", "a,b"},
    {"*", 0, true, "", ""}, /* a mark is never written back */
    {"old,a", 1, false, "old", "a,old"},
    {"old,older", 0, false, "old,older", "old,older"},
    {"*,old", 0, true, "old", "old"},
    {"a,?", 1, false, "?", "a,?"},
    {"?,old", 0, false, "?,old", "old,?"},
    {",a,,old,", 1, false, "old", "a,old"},
};

START_TEST(names_that_are_gone_are_kept)
{
    struct operator_address out[OPERATORS_MAX];
    struct operators_noted read;
    struct buf again = {0};
    size_t n = parse("a=http://a,b=http://b", out);

    settings_read_noted(out, n, noted[_i].row, &read);
    ck_assert_uint_eq(read.mask, noted[_i].mask);
    ck_assert_int_eq(read.any, noted[_i].any);
    ck_assert_str_eq(read.gone, noted[_i].gone);
    settings_put_noted(&again, out, read.mask, read.gone);
    ck_assert_str_eq(again.len ? again.data : "", noted[_i].again);
    buf_free(&again);
}
END_TEST

/* Eight operators with the longest names fit, and nothing that does not is forgotten. */
START_TEST(a_name_that_does_not_fit_leaves_a_sign)
{
    struct operator_address out[OPERATORS_MAX];
    struct operators_noted read;
    struct buf row = {0};

    for (int i = 0; i < OPERATORS_MAX; i++) {
        memset(out[i].name, 'a' + i, OPERATOR_NAME_MAX);
        out[i].name[OPERATOR_NAME_MAX] = '\0';
    }
    settings_put_noted(&row, out, 255, NULL);
    ck_assert_uint_le(row.len, RECIPIENT_UNKNOWN_MAX);
    settings_read_noted(out, OPERATORS_MAX, row.data, &read);
    ck_assert_uint_eq(read.mask, 255);
    ck_assert_str_eq(read.gone, "");
    for (int turn = 0; turn < 2; turn++) { /* once it is there, it stays */
        buf_reset(&row);
        settings_put_noted(&row, out, 255, turn ? read.gone : "x,some-longer-name,y");
        ck_assert_uint_le(row.len, RECIPIENT_UNKNOWN_MAX);
        settings_read_noted(out, OPERATORS_MAX, row.data, &read);
        ck_assert_uint_eq(read.mask, 255);
        ck_assert_ptr_nonnull(strchr(read.gone, '?'));
    }
    buf_free(&row);
}
END_TEST

START_TEST(defaults_are_consistent_and_bad_ones_are_told)
{
    const struct daemon_program *program = &consumerd_program;
    struct settings *s = &consumerd_settings;
    struct buf errors = {0};

    setenv("DB_PASSWORD", "x", 1);
    setenv("RABBIT_URI", "amqp://u:p@127.0.0.1:5672/", 1);
    ck_assert_uint_eq(settings_load(program->groups, program->group_count, &errors), 0);
    ck_assert_uint_eq(program->check(&errors), 0);
    /* It stops itself while a call that is under way can still end before others take over. */
    ck_assert_int_lt(settings_stop_after_ms(&s->consumer) + s->consumer.timeout_ms,
                     s->consumer.dead_sec * 1000);
    s->consumer.dead_sec = 3;
    free(s->broker.queues[MESSAGE_EXPRESS]);
    s->broker.queues[MESSAGE_EXPRESS] = strdup(s->broker.queues[MESSAGE_NORMAL]);
    ck_assert_uint_eq(program->check(&errors), 2);
    free(s->consumer.repeat_unsafe);
    free(s->consumer.without_lookup);
    s->consumer.repeat_unsafe = strdup("operatorB,operatorC");
    s->consumer.without_lookup = strdup("operatorB");
    ck_assert_uint_eq(program->check(&errors), 3);
    ck_assert_ptr_nonnull(strstr(errors.data, "OPERATORS_REPEAT_UNSAFE names operatorC"));
    settings_free(program->groups, program->group_count);
    buf_free(&errors);
}
END_TEST

START_TEST(fate_of_a_row)
{
    static const struct {
        enum recipient_state state;
        uint64_t owner;
        bool in_hand;
        enum claim_row_fate fate;
    } rows[] = {
        {RECIPIENT_PENDING, 0, false, CLAIM_ROW_FRESH},
        {RECIPIENT_PENDING, 7, false, CLAIM_ROW_FRESH},
        {RECIPIENT_SENDING, 7, true, CLAIM_ROW_IN_HAND},
        {RECIPIENT_SENDING, 7, false, CLAIM_ROW_TAKEOVER},
        {RECIPIENT_SENDING, 8, false, CLAIM_ROW_FOREIGN},
        {RECIPIENT_SENDING, 8, true, CLAIM_ROW_FOREIGN}, /* it was taken from us */
        {RECIPIENT_SENDING, 0, false, CLAIM_ROW_FOREIGN},
        {RECIPIENT_DONE, 7, false, CLAIM_ROW_FINAL},
        {RECIPIENT_FAILED, 0, false, CLAIM_ROW_FINAL},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        ck_assert_msg(claim_row_fate(rows[i].state, rows[i].owner, 7, rows[i].in_hand) ==
                          rows[i].fate,
                      "row %zu", i);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("settings");
    TCase *tc = tcase_create("settings");

    tcase_add_loop_test(tc, operators_are_checked, 0,
                        (int)(sizeof(operator_lists) / sizeof(operator_lists[0])));
    tcase_add_test(tc, operators_keep_their_order_and_lose_the_last_slash);
    tcase_add_test(tc, operator_sets_survive_the_row);
    tcase_add_loop_test(tc, names_that_are_gone_are_kept, 0,
                        (int)(sizeof(noted) / sizeof(noted[0])));
    tcase_add_test(tc, a_name_that_does_not_fit_leaves_a_sign);
    tcase_add_test(tc, defaults_are_consistent_and_bad_ones_are_told);
    tcase_add_test(tc, fate_of_a_row);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
