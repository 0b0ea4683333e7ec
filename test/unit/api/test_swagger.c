#include <check.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/swagger.h"
#include "test/unit/suite.h"

static const char *const names[] = {"index.html",       "page.css",     "page.js",
                                    "swagger-ui.css",   "openapi.yaml", "swagger-ui-bundle.js",
                                    "favicon-32x32.png"};
#define NAMES (sizeof(names) / sizeof(names[0]))

static char dir[] = "/tmp/test-swagger-XXXXXX";

static const char *path_of(const char *name)
{
    static char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

static void put(const char *name, const char *content)
{
    FILE *f = fopen(path_of(name), "we");

    ck_assert_ptr_nonnull(f);
    ck_assert_int_ge(fputs(content, f), 0);
    ck_assert_int_eq(fclose(f), 0);
}

static void set_up(void)
{
    snprintf(dir, sizeof(dir), "/tmp/test-swagger-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    for (size_t i = 0; i < NAMES; i++)
        put(names[i], names[i]);
    put("secret", "secret");
}

static void tear_down(void)
{
    for (size_t i = 0; i < NAMES; i++)
        unlink(path_of(names[i]));
    unlink(path_of("secret"));
    rmdir(dir);
}

START_TEST(each_file_has_its_content_and_type)
{
    struct err err;
    struct swagger *s = swagger_open(dir, &err);

    ck_assert(swagger_complete(s));
    for (size_t i = 0; i < NAMES; i++) {
        const struct swagger_file *f = swagger_find(s, names[i]);

        ck_assert_ptr_nonnull(f);
        ck_assert_uint_eq(f->len, strlen(names[i]));
        ck_assert_mem_eq(f->data, names[i], f->len);
    }
    ck_assert_str_eq(swagger_find(s, "page.js")->type, "text/javascript; charset=utf-8");
    ck_assert_str_eq(swagger_find(s, "favicon-32x32.png")->type, "image/png");
    swagger_close(s);
}
END_TEST

START_TEST(nothing_else_in_the_folder_is_served)
{
    static const char *const others[] = {
        "", "secret", "/", "../secret", "./index.html", "index.html/", "index.htm", "INDEX.HTML"};
    struct err err;
    struct swagger *s = swagger_open(dir, &err);

    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        ck_assert_ptr_null(swagger_find(s, others[i]));
    swagger_close(s);
}
END_TEST

START_TEST(the_tag_follows_the_content)
{
    struct err err;
    struct swagger *s = swagger_open(dir, &err);
    struct swagger *same = swagger_open(dir, &err);
    struct swagger *changed;

    put("page.css", "other");
    changed = swagger_open(dir, &err);
    ck_assert_str_eq(swagger_find(s, "page.css")->etag, swagger_find(same, "page.css")->etag);
    ck_assert_str_ne(swagger_find(s, "page.css")->etag, swagger_find(changed, "page.css")->etag);
    ck_assert_uint_eq(strlen(swagger_find(s, "page.css")->etag), 34);
    swagger_close(s);
    swagger_close(same);
    swagger_close(changed);
}
END_TEST

START_TEST(without_swagger_ui_the_document_is_left)
{
    struct err err;
    struct swagger *s;

    unlink(path_of("swagger-ui-bundle.js"));
    s = swagger_open(dir, &err);
    ck_assert(!swagger_complete(s));
    ck_assert_ptr_nonnull(strstr(err.msg, "swagger-ui-bundle.js: No such file"));
    ck_assert_ptr_null(swagger_find(s, "index.html"));
    ck_assert_ptr_nonnull(swagger_find(s, "openapi.yaml"));
    swagger_close(s);
}
END_TEST

START_TEST(a_file_without_content_is_missing)
{
    struct err err;
    struct swagger *s;

    put("openapi.yaml", "");
    s = swagger_open(dir, &err);
    ck_assert(!swagger_complete(s));
    ck_assert_ptr_null(swagger_find(s, "openapi.yaml"));
    swagger_close(s);
}
END_TEST

START_TEST(no_folder_no_files)
{
    struct err err;
    struct swagger *s = swagger_open("/nowhere", &err);

    ck_assert(!swagger_complete(s));
    for (size_t i = 0; i < NAMES; i++)
        ck_assert_ptr_null(swagger_find(s, names[i]));
    swagger_close(s);
    swagger_close(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("swagger");
    TCase *tc = tcase_create("swagger");

    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, each_file_has_its_content_and_type);
    tcase_add_test(tc, nothing_else_in_the_folder_is_served);
    tcase_add_test(tc, the_tag_follows_the_content);
    tcase_add_test(tc, without_swagger_ui_the_document_is_left);
    tcase_add_test(tc, a_file_without_content_is_missing);
    tcase_add_test(tc, no_folder_no_files);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
