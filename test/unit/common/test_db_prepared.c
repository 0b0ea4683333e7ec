#include "libcommon/db/db_prepared.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "test/unit/suite.h"

static struct db_shape shape;

static void setup(void)
{
    shape = (struct db_shape){0};
}

static void teardown(void)
{
    db_shape_free(&shape);
}

static void take(const char *sql)
{
    ck_assert(db_shape_take(&shape, sql, strlen(sql)));
}

static void expect_text(size_t i, enum db_literal_kind kind, const char *value, size_t n)
{
    ck_assert_uint_lt(i, shape.n);
    ck_assert_int_eq(shape.literals[i].kind, kind);
    ck_assert_uint_eq(shape.literals[i].len, n);
    ck_assert_mem_eq(shape.values.data + shape.literals[i].at, value, n);
}

static void expect_number(size_t i, int64_t value)
{
    ck_assert_uint_lt(i, shape.n);
    ck_assert_int_eq(shape.literals[i].kind, DB_LITERAL_NUMBER);
    ck_assert_int_eq(shape.literals[i].number, value);
}

START_TEST(literals_are_taken_out_and_all_else_stays)
{
    take("INSERT INTO t1(a2,b) VALUES (7,'it'),(-1234567890,x'00fF');SET x=a.b2-5 END");
    ck_assert_str_eq(shape.text.data, "INSERT INTO t1(a2,b) VALUES (?,?),(-?,?);SET x=a.b2-? END");
    ck_assert_uint_eq(shape.n, 5);
    expect_number(0, 7);
    expect_text(1, DB_LITERAL_TEXT, "it", 2);
    expect_number(2, 1234567890);
    expect_text(3, DB_LITERAL_BYTES, "\0\xff", 2);
    expect_number(4, 5);
}
END_TEST

START_TEST(texts_are_what_they_were_before_they_were_quoted)
{
    take("'','\\0\\n\\r\\\\\\'\\\"\\Z','; x\\'41\\' ? 5','caf\xc3\xa9'");
    ck_assert_str_eq(shape.text.data, "?,?,?,?");
    expect_text(0, DB_LITERAL_TEXT, "", 0);
    expect_text(1, DB_LITERAL_TEXT, "\0\n\r\\'\"\032", 7);
    expect_text(2, DB_LITERAL_TEXT, "; x'41' ? 5", 11);
    expect_text(3, DB_LITERAL_TEXT, "caf\xc3\xa9", 5);
}
END_TEST

START_TEST(the_ends_of_numbers_and_of_statements)
{
    take("1");
    expect_number(0, 1);
    take("a=999999999999999999");
    expect_number(0, INT64_C(999999999999999999));
    take("9223372036854775808"); /* it might not be one: it stays */
    ck_assert_uint_eq(shape.n, 0);
    ck_assert_str_eq(shape.text.data, "9223372036854775808");
    take("'cut");
    expect_text(0, DB_LITERAL_TEXT, "cut", 3);
    take("x'4");
    take("'cut\\");
    ck_assert_uint_eq(shape.n, 1);
}
END_TEST

START_TEST(values_are_no_part_of_the_shape)
{
    char first[64];

    take("SELECT 1,'a'");
    snprintf(first, sizeof(first), "%s", shape.text.data);
    take("SELECT 22,'another'");
    ck_assert_str_eq(shape.text.data, first);
    take("SELECT 22,-1");
    ck_assert_str_ne(shape.text.data, first);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("db_prepared");
    TCase *t = tcase_create("shapes");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, literals_are_taken_out_and_all_else_stays);
    tcase_add_test(t, texts_are_what_they_were_before_they_were_quoted);
    tcase_add_test(t, the_ends_of_numbers_and_of_statements);
    tcase_add_test(t, values_are_no_part_of_the_shape);
    suite_add_tcase(s, t);
    return suite_run(s);
}
