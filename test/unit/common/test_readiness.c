#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "libcommon/daemon/readiness.h"
#include "test/unit/suite.h"

/* What is said is the process's: warnings are taken back, and lanes, which stay, come last. */

static void says(const char *wanted)
{
    struct buf out = {0};

    readiness_put(&out);
    ck_assert_str_eq(out.data ? out.data : "", wanted);
    buf_free(&out);
}

START_TEST(without_lanes_and_warnings_nothing_is_said)
{
    says("");
    ck_assert(readiness_of_lanes());
}
END_TEST

START_TEST(each_lane_says_what_is_wrong)
{
    struct readiness_lane *normal = readiness_lane_new("normal");
    struct readiness_lane *express = readiness_lane_new("express");

    ck_assert(!readiness_of_lanes());
    ck_assert(readiness_lane_is(express, NULL));
    ck_assert(!readiness_lane_is(express, NULL));
    ck_assert(!readiness_of_lanes());
    ck_assert(readiness_lane_is(normal, "no \"queue\""));
    ck_assert(!readiness_lane_is(normal, "no \"queue\""));
    says(",\"lanes\":{\"express\":\"ok\",\"normal\":\"no \\\"queue\\\"\"}");
    ck_assert(readiness_lane_is(normal, NULL));
    ck_assert(readiness_of_lanes());
    says(",\"lanes\":{\"express\":\"ok\",\"normal\":\"ok\"}");
}
END_TEST

START_TEST(a_warning_stands_until_it_is_taken_back)
{
    ck_assert(!readiness_warn("a", ""));
    ck_assert(readiness_warn("a", "one"));
    ck_assert(!readiness_warn("a", "one"));
    ck_assert(readiness_warn("b", "two"));
    ck_assert(readiness_of_lanes());
    says(",\"warnings\":[\"one\",\"two\"]");
    ck_assert(readiness_warn("a", ""));
    says(",\"warnings\":[\"two\"]");
    ck_assert(readiness_warn("c", "three"));
    says(",\"warnings\":[\"three\",\"two\"]");
    readiness_warn("b", "");
    readiness_warn("c", "");
    says("");
}
END_TEST

/* Of a queue's name, for one, which may have 255 characters. */
START_TEST(a_topic_may_be_longer_than_what_is_kept_of_it)
{
    char topic[200];

    memset(topic, 'q', sizeof(topic));
    topic[sizeof(topic) - 1] = '\0';
    ck_assert(readiness_warn(topic, "one"));
    ck_assert(!readiness_warn(topic, "one"));
    says(",\"warnings\":[\"one\"]");
    ck_assert(readiness_warn(topic, ""));
    says("");
}
END_TEST

START_TEST(warnings_have_a_limit)
{
    for (char topic[] = "a"; topic[0] < 'a' + READINESS_WARNINGS; topic[0]++)
        ck_assert(readiness_warn(topic, "w"));
    ck_assert(!readiness_warn("z", "too many"));
    ck_assert(readiness_warn("b", "another"));
    for (char topic[] = "a"; topic[0] < 'a' + READINESS_WARNINGS; topic[0]++)
        ck_assert(readiness_warn(topic, ""));
    says("");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("readiness");
    TCase *t = tcase_create("readiness");

    tcase_add_test(t, without_lanes_and_warnings_nothing_is_said);
    tcase_add_test(t, a_warning_stands_until_it_is_taken_back);
    tcase_add_test(t, a_topic_may_be_longer_than_what_is_kept_of_it);
    tcase_add_test(t, warnings_have_a_limit);
    tcase_add_test(t, each_lane_says_what_is_wrong);
    suite_add_tcase(s, t);
    return suite_run(s);
}
