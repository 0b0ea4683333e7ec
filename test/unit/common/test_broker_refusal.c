#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/broker/broker_refusal.h"
#include "test/unit/suite.h"

/* NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding): in the order of reading */
static const struct {
    unsigned code;
    const char *text; /* RabbitMQ's words */
    enum err_kind kind;
    const char *has, *has_too, *has_not;
} refusals[] = {
    {406,
     "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received "
     "the value 'quorum' of type 'longstr' but current is the value 'classic' of type 'longstr'",
     ERR_PERMANENT, "x-queue-type classic, and ours is quorum", "RABBIT_QUEUE_TYPE",
     "RABBIT_DELIVERY_LIMIT"},
    {406,
     "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received "
     "the value 'quorum' of type 'longstr' but current is none",
     ERR_PERMANENT, "x-queue-type none", "RABBIT_QUEUE_TYPE", NULL},
    {406,
     "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': "
     "received the value '1000000000' of type 'signedint' but current is the value '20' of type "
     "'signedint'",
     ERR_PERMANENT, "x-delivery-limit 20", "RABBIT_DELIVERY_LIMIT", "RABBIT_QUEUE_TYPE"},
    {406,
     "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'q' in vhost '/': received the "
     "value 'reject-publish' of type 'longstr' but current is none",
     ERR_PERMANENT, "x-overflow none", "RABBIT_QUEUE_TYPE", "somebody else"},
    {406,
     "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': "
     "received none but current is the value '20' of type 'signedint'",
     ERR_PERMANENT, "x-delivery-limit 20, and ours is none", "RABBIT_QUEUE_TYPE",
     "RABBIT_DELIVERY_LIMIT"},
    {406,
     "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost '/': "
     "received the value 'x.dead' of type 'longstr' but current is the value 'y.dead' of type "
     "'longstr'",
     ERR_PERMANENT, "y.dead", "another RABBIT_MESSAGE_EXCHANGE", "RABBIT_QUEUE_TYPE"},
    {406,
     "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' "
     "but current is 'false'",
     ERR_PERMANENT, "durable false, and ours is true", "restart", "RABBIT_QUEUE_TYPE"},
    {406,
     "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received "
     "none but current is the value '60000' of type 'signedint'",
     ERR_PERMANENT, "x-message-ttl 60000, and ours is none", "somebody else", "RABBIT_QUEUE_TYPE"},
    {406,
     "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x' in vhost '/': received "
     "'direct' but current is 'fanout'",
     ERR_PERMANENT, "type fanout, and ours is direct", "routes in another way", NULL},
    {406, "PRECONDITION_FAILED - something new", ERR_PERMANENT, "something new", "another name",
     NULL},
    {405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q'", ERR_PERMANENT,
     "exclusive", NULL, NULL},
    {403, "ACCESS_REFUSED - access to queue 'q' refused", ERR_PERMANENT, "permissions", NULL, NULL},
    {541, "INTERNAL_ERROR", ERR_RETRY, "INTERNAL_ERROR", NULL, NULL},
};

START_TEST(a_refusal_says_what_to_do)
{
    struct err err;

    ck_assert_int_eq(broker_refused(refusals[_i].code, "queue q", refusals[_i].text, &err), -1);
    ck_assert_int_eq(err.kind, refusals[_i].kind);
    ck_assert_uint_eq(err.code, refusals[_i].code);
    ck_assert_msg(strstr(err.msg, refusals[_i].has) != NULL, "%s", err.msg);
    ck_assert_msg(strstr(err.msg, "queue q") != NULL, "%s", err.msg);
    if (refusals[_i].has_too)
        ck_assert_msg(strstr(err.msg, refusals[_i].has_too) != NULL, "%s", err.msg);
    if (refusals[_i].has_not)
        ck_assert_msg(strstr(err.msg, refusals[_i].has_not) == NULL, "%s", err.msg);
    ck_assert_uint_lt(strlen(err.msg), sizeof(err.msg) - 1);
}
END_TEST

/* The longest names that the settings allow: the end may be missing, but no half of a word. */
START_TEST(a_long_one_ends_with_a_word)
{
    char what[300] = "queue ";
    struct err err;
    size_t n;

    memset(what + 6, 'q', 255);
    broker_refused(406, what, refusals[0].text, &err);
    n = strlen(err.msg);
    ck_assert_msg(!strcmp(err.msg + n - 3, "...") || strstr(err.msg, "once it is empty"), "%s",
                  err.msg);
    ck_assert_msg(strstr(err.msg, "RABBIT_QUEUE_TYPE") != NULL, "%s", err.msg);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("broker_refusal");
    TCase *t = tcase_create("broker_refusal");

    tcase_add_loop_test(t, a_refusal_says_what_to_do, 0,
                        (int)(sizeof(refusals) / sizeof(refusals[0])));
    tcase_add_test(t, a_long_one_ends_with_a_word);
    suite_add_tcase(s, t);
    return suite_run(s);
}
