#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/policy_watch.h"
#include "libcommon/base/buf.h"
#include "test/unit/suite.h"

#define LIMIT 1000000000

static const struct {
    const char *text;
    int rc;
    const char *has, *has_too; /* NULL: there is no warning */
} answers[] = {
    {"{}", 0, NULL, NULL},
    {"{\"effective_policy_definition\":[]}", 0, NULL, NULL}, /* how the API writes an empty one */
    {"{\"policy\":\"ha\",\"effective_policy_definition\":{\"ha-mode\":\"all\"}}", 0, NULL, NULL},
    {"{\"policy\":\"p\",\"effective_policy_definition\":{\"delivery-limit\":1000000000}}", 0, NULL,
     NULL},
    {"{\"policy\":\"p\",\"effective_policy_definition\":{\"delivery-limit\":3}}", 0,
     "queue q: the broker's policy \"p\" sets delivery-limit=3:", "take this queue out"},
    {"{\"policy\":\"p\",\"operator_policy\":\"o\",\"effective_policy_definition\":"
     "{\"max-length\":10,\"message-ttl\":60000}}",
     0, "\"p\" and \"o\" (operator policy) sets message-ttl=60000, max-length=10:", ""},
    {"{\"operator_policy\":\"o\",\"effective_policy_definition\":{\"expires\":1}}", 0,
     "policy \"o\" (operator policy) sets expires=1:", ""},
    {"{\"effective_policy_definition\":{\"max-length-bytes\":5}}", 0,
     "policy sets max-length-bytes=5:", ""},
    {"[]", 0, NULL, NULL},
    {"[1]", -1, NULL, NULL},
    {"<html>", -1, NULL, NULL},
    {"", -1, NULL, NULL},
};

START_TEST(limits_are_named)
{
    struct buf out = {0};
    const char *text = answers[_i].text;

    ck_assert_int_eq(policy_put_warning(&out, "q", LIMIT, text, strlen(text)), answers[_i].rc);
    if (answers[_i].has) {
        ck_assert_msg(strstr(out.data, answers[_i].has) != NULL, "%s", out.data);
        ck_assert_msg(strstr(out.data, answers[_i].has_too) != NULL, "%s", out.data);
    } else {
        ck_assert_uint_eq(out.len, 0);
    }
    buf_free(&out);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("policy_watch");
    TCase *t = tcase_create("policy_watch");

    tcase_add_loop_test(t, limits_are_named, 0, (int)(sizeof(answers) / sizeof(answers[0])));
    suite_add_tcase(s, t);
    return suite_run(s);
}
