#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/trace.h"
#include "test/unit/suite.h"

#define GOOD "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

START_TEST(a_good_header_survives)
{
    struct trace_context t;
    char text[TRACE_PARENT_SIZE];

    ck_assert(trace_parse(GOOD, &t));
    ck_assert_uint_eq(t.flags, 1);
    ck_assert_uint_eq(t.trace_id[0], 0x4b);
    ck_assert_uint_eq(t.span_id[7], 0xb7);
    trace_format(&t, text);
    ck_assert_str_eq(text, GOOD);
}
END_TEST

START_TEST(later_versions_are_read_as_far_as_known)
{
    struct trace_context t;
    char text[TRACE_PARENT_SIZE];

    ck_assert(
        trace_parse("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what-comes", &t));
    trace_format(&t, text);
    ck_assert_str_eq(text, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03");
    ck_assert(trace_parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", &t));
}
END_TEST

static const char *const bad[] = {
    "",
    "00",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
    "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
    "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
    "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
    "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
    "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
    " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
};

START_TEST(a_bad_header_is_ignored)
{
    struct trace_context t = {.flags = 0x55};

    ck_assert(!trace_parse(bad[_i], &t));
    ck_assert_uint_eq(t.flags, 0x55);
}
END_TEST

START_TEST(roots_and_children)
{
    struct trace_context root;
    struct trace_context child;

    trace_root(&root, true);
    ck_assert(trace_valid(&root));
    ck_assert_uint_eq(root.flags, 3);
    trace_child(&root, &child);
    ck_assert_mem_eq(root.trace_id, child.trace_id, 16);
    ck_assert_mem_ne(root.span_id, child.span_id, 8);
    ck_assert_uint_eq(child.flags, 3);
    trace_root(&root, false);
    ck_assert_uint_eq(root.flags, 2);
}
END_TEST

START_TEST(tracestate_limits)
{
    char longest[TRACE_STATE_MAX + 2];
    char members[128] = "";

    memset(longest, 'a', sizeof(longest));
    ck_assert(trace_state_ok("a=1,b=2", 7));
    ck_assert(!trace_state_ok("", 0));
    ck_assert(trace_state_ok(longest, TRACE_STATE_MAX));
    ck_assert(!trace_state_ok(longest, TRACE_STATE_MAX + 1));
    ck_assert(!trace_state_ok("a=1\nb", 5));
    ck_assert(!trace_state_ok("a=\xc3", 3));
    for (int i = 0; i < 33; i++)
        memcpy(members + 2 * i, ",a", 3);
    ck_assert(trace_state_ok(members + 1, 63));
    ck_assert(!trace_state_ok(members + 1, 65));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("trace");
    TCase *t = tcase_create("trace");

    tcase_add_test(t, a_good_header_survives);
    tcase_add_test(t, later_versions_are_read_as_far_as_known);
    tcase_add_loop_test(t, a_bad_header_is_ignored, 0, (int)(sizeof(bad) / sizeof(bad[0])));
    tcase_add_test(t, roots_and_children);
    tcase_add_test(t, tracestate_limits);
    suite_add_tcase(s, t);
    return suite_run(s);
}
