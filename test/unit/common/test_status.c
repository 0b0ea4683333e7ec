#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/err.h"
#include "libcommon/daemon/status.h"
#include "libcommon/daemon/status_page.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/log_recent.h"
#include "test/unit/suite.h"

static struct buf text;

static const char *rendered(void)
{
    buf_reset(&text);
    log_recent_render(&text);
    ck_assert(!text.failed);
    return text.data;
}

static size_t entries(void)
{
    size_t n = 0;

    for (const char *at = rendered(); (at = strstr(at, "{\"event\":")); at++)
        n++;
    return n;
}

/* In the order given: the list is the process's own. */

START_TEST(nothing_has_happened)
{
    ck_assert_str_eq(rendered(), "[]");
}
END_TEST

START_TEST(a_repeated_event_is_counted)
{
    log_recent_add(LOG_WARN, "one", "retry", 1000000);
    log_recent_add(LOG_ERROR, "two", "", 2000000);
    log_recent_add(LOG_WARN, "one", "retry", 3000000);
    ck_assert_str_eq(
        rendered(),
        "[{\"event\":\"one\",\"level\":\"warn\",\"error_type\":\"retry\",\"count\":2,"
        "\"first\":\"1970-01-01T00:00:01.000000Z\",\"last\":\"1970-01-01T00:00:03."
        "000000Z\"},{\"event\":\"two\",\"level\":\"error\",\"error_type\":\"\","
        "\"count\":1,\"first\":\"1970-01-01T00:00:02.000000Z\",\"last\":\"1970-01-01T00:"
        "00:02.000000Z\"}]");
}
END_TEST

START_TEST(level_and_type_tell_events_apart)
{
    size_t before = entries();

    log_recent_add(LOG_WARN, "three", "retry", 4000000);
    log_recent_add(LOG_ERROR, "three", "retry", 4000000);
    log_recent_add(LOG_WARN, "three", "permanent", 4000000);
    ck_assert_uint_eq(entries(), before + 3);
}
END_TEST

START_TEST(the_event_that_is_silent_longest_gives_way)
{
    char name[16];

    for (int i = 0; i < LOG_RECENT_MAX - 1; i++) {
        snprintf(name, sizeof(name), "many.%d", i);
        log_recent_add(LOG_WARN, name, "", 5000000);
        log_recent_add(LOG_WARN, "loud", "", 5000000);
    }
    ck_assert_uint_eq(entries(), LOG_RECENT_MAX);
    ck_assert_ptr_null(strstr(rendered(), "\"two\""));
    ck_assert_ptr_nonnull(strstr(rendered(), "\"many.0\""));
    log_recent_add(LOG_WARN, "new", "", 6000000);
    ck_assert_ptr_null(strstr(rendered(), "\"many.0\""));
    ck_assert_ptr_nonnull(strstr(rendered(), "\"loud\""));
    ck_assert_uint_eq(entries(), LOG_RECENT_MAX);
}
END_TEST

START_TEST(names_are_cut_and_escaped)
{
    char name[200];

    memset(name, '"', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    log_recent_add(LOG_ERROR, name, "a type longer than any", 7000000);
    rendered();
    ck_assert_ptr_nonnull(strstr(text.data, "[{\"event\":\"\\\"\\\""));
    ck_assert_ptr_nonnull(strstr(text.data, "\"error_type\":\"a type longer t\""));
}
END_TEST

START_TEST(the_log_keeps_events_and_no_fields)
{
    struct err err;

    err_set(&err, ERR_UNKNOWN, 7, "secret words");
    log_info("told.info", L_STR("to", "secret words"));
    log_warn("told.warn", L_STR("to", "secret words"), L_ERR(&err));
    rendered();
    ck_assert_ptr_null(strstr(text.data, "told.info"));
    ck_assert_ptr_nonnull(strstr(
        text.data, "{\"event\":\"told.warn\",\"level\":\"warn\",\"error_type\":\"unknown\""));
    ck_assert_ptr_null(strstr(text.data, "secret"));
}
END_TEST

START_TEST(a_hash_is_of_what_stands_between_the_tags)
{
    static const char html[] = "<p><script>alert(1)</script><script>2</script>";

    buf_reset(&text);
    ck_assert(status_put_hash(&text, html, strlen(html), "script"));
    /* printf 'alert(1)' | openssl dgst -sha256 -binary | base64 */
    ck_assert_str_eq(text.data, "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='");
    ck_assert(!status_put_hash(&text, html, strlen(html), "style"));
    ck_assert(!status_put_hash(&text, html, 20, "script")); /* the end tag is cut off */
}
END_TEST

START_TEST(the_page_has_one_script_and_one_style_and_no_handlers)
{
    struct buf page = {0};

    buf_put(&page, status_page, status_page_len);
    ck_assert(status_put_hash(&page, page.data, page.len, "script"));
    ck_assert(status_put_hash(&page, page.data, page.len, "style"));
    ck_assert_ptr_null(strstr(strstr(page.data, "<script") + 1, "<script"));
    ck_assert_ptr_null(strstr(strstr(page.data, "<style") + 1, "<style"));
    ck_assert_ptr_null(strstr(page.data, "innerHTML"));
    ck_assert_ptr_null(strstr(page.data, "style=\""));
    buf_free(&page);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("status");
    TCase *tc = tcase_create("status");
    int failed;

    tcase_add_test(tc, nothing_has_happened);
    tcase_add_test(tc, a_repeated_event_is_counted);
    tcase_add_test(tc, level_and_type_tell_events_apart);
    tcase_add_test(tc, the_event_that_is_silent_longest_gives_way);
    tcase_add_test(tc, names_are_cut_and_escaped);
    tcase_add_test(tc, the_log_keeps_events_and_no_fields);
    tcase_add_test(tc, a_hash_is_of_what_stands_between_the_tags);
    tcase_add_test(tc, the_page_has_one_script_and_one_style_and_no_handlers);
    suite_add_tcase(suite, tc);
    failed = suite_run(suite);
    buf_free(&text);
    return failed;
}
