#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/loadtest/book.h"
#include "test/loadtest/response.h"
#include "test/unit/suite.h"

#define A "01936f0e-0000-7000-8000-00000000000a"
#define B "01936f0e-0000-7000-8000-00000000000b"

static struct book book;

/* A message to two recipients of which all is well. */
static void setup(void)
{
    ck_assert(book_accept(&book, A, 2));
    ck_assert(book_row(&book, A, 0, BOOK_DONE, false));
    ck_assert(book_row(&book, A, 1, BOOK_FAILED, false));
    ck_assert(book_charge(&book, "c-" A));
    ck_assert(book_refund(&book, "r-" A "-1"));
    ck_assert(book_delivered(&book, A "-0", 0));
}

static void teardown(void)
{
    book_free(&book);
}

static struct book_verdict verdict(void)
{
    struct book_verdict v;

    book_close(&book, true, &v);
    return v;
}

START_TEST(all_is_well)
{
    struct book_verdict v = verdict();

    ck_assert_uint_eq(v.accepted, 2);
    ck_assert_uint_eq(v.rows, 2);
    ck_assert_uint_eq(v.charged, 2);
    ck_assert_uint_eq(v.done, 1);
    ck_assert_uint_eq(v.failed, 1);
    ck_assert_uint_eq(v.refunded, 1);
    ck_assert_uint_eq(v.delivered, 1);
    ck_assert_uint_eq(v.lost + v.doubled + v.unanswered + v.strange + v.unknown_doubled, 0);
}
END_TEST

START_TEST(what_is_missing_is_lost)
{
    book_accept(&book, B, 1);
    ck_assert_uint_eq(verdict().lost, 1); /* no row */
    book_row(&book, B, 0, BOOK_DONE, false);
    ck_assert_uint_eq(verdict().lost, 1); /* no charge, and nobody delivered */
    book_charge(&book, "c-" B);
    ck_assert_uint_eq(verdict().lost, 1); /* nobody delivered */
    book_delivered(&book, B "-0", 1);
    ck_assert_uint_eq(verdict().lost, 0);
    book_row(&book, B, 0, BOOK_OPEN, false);
    ck_assert_uint_eq(verdict().lost, 1); /* not final */
    book_row(&book, B, 0, BOOK_FAILED, true);
    ck_assert_uint_eq(verdict().lost, 1); /* not refunded */
}
END_TEST

START_TEST(a_second_charge_is_of_every_recipient)
{
    book_charge(&book, "c-" A);
    ck_assert_uint_eq(verdict().doubled, 2);
}
END_TEST

START_TEST(a_second_refund_is_doubled)
{
    book_refund(&book, "r-" A "-1");
    ck_assert_uint_eq(verdict().doubled, 1);
}
END_TEST

START_TEST(money_back_and_the_message_too_is_doubled)
{
    book_refund(&book, "r-" A "-0"); /* it is done */
    ck_assert_uint_eq(verdict().doubled, 1);
    book_delivered(&book, A "-1", 1); /* it is refunded */
    ck_assert_uint_eq(verdict().doubled, 2);
}
END_TEST

START_TEST(two_operators_are_excused_by_an_unknown_answer)
{
    book_delivered(&book, A "-0", 1);
    ck_assert_uint_eq(verdict().doubled, 1);
    book_row(&book, A, 0, BOOK_DONE, true);
    ck_assert_uint_eq(verdict().doubled, 0);
    ck_assert_uint_eq(verdict().unknown_doubled, 1);
}
END_TEST

START_TEST(others_are_told_apart)
{
    book_row(&book, B, 0, BOOK_DONE, false);
    book_charge(&book, "c-" B);
    book_delivered(&book, B "-0", 0);
    ck_assert_uint_eq(verdict().unanswered, 1);
    ck_assert(book_delivered(&book, "01936f0e-0000-7000-8000-0000000000ff-0", 0));
    ck_assert_uint_eq(verdict().delivered, 2);
    ck_assert(!book_delivered(&book, "nonsense", 0));
    ck_assert(!book_accept(&book, "01936f0e+0000-7000-8000-00000000000a", 1));
    ck_assert(!book_charge(&book, "c-x"));
}
END_TEST

START_TEST(the_time_of_acceptance_is_known_by_reference)
{
    struct book none = {0};

    ck_assert_int_eq(book_accepted_us(&none, A "-0"), 0);
    ck_assert_int_eq(book_accepted_us(&book, A "-1"), 0);
    ck_assert(book_dated(&book, A, 1, 1700000000000001));
    ck_assert_int_eq(book_accepted_us(&book, A "-1"), 1700000000000001);
    ck_assert_int_eq(book_accepted_us(&book, A "-0"), 0);
    ck_assert_int_eq(book_accepted_us(&book, B "-1"), 0);
    ck_assert_int_eq(book_accepted_us(&book, "nobody's"), 0);
    ck_assert(!book_dated(&book, "nobody's", 0, 1));
    ck_assert_uint_eq(verdict().lost, 0); /* says nothing of what became of it */
}
END_TEST

START_TEST(a_hundred_thousand_recipients)
{
    char id[64];

    for (unsigned i = 0; i < 1000; i++) {
        snprintf(id, sizeof(id), "01936f0e-0001-7000-8000-%012x", i);
        book_accept(&book, id, 100);
        for (unsigned k = 0; k < 100; k++)
            book_row(&book, id, k, BOOK_DONE, false);
        snprintf(id, sizeof(id), "c-01936f0e-0001-7000-8000-%012x", i);
        book_charge(&book, id);
    }
    ck_assert_uint_eq(verdict().charged, 100002);
    ck_assert_uint_eq(verdict().lost, 100000); /* the operators know of none */
}
END_TEST

START_TEST(a_response_is_read_as_it_comes)
{
    static const char text[] = "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\nRetry-After: 1\r\n"
                               "Connection: close\r\n\r\nbody";
    struct response r;

    for (size_t n = 0; n + 1 < sizeof(text) - 1; n++)
        ck_assert_int_eq(response_parse(text, n, &r), 0);
    ck_assert_int_eq(response_parse(text, sizeof(text) - 1, &r), 1);
    ck_assert_int_eq(r.status, 503);
    ck_assert_int_eq(r.retry_after_sec, 1);
    ck_assert(r.close);
    ck_assert_uint_eq(r.body_len, 4);
    ck_assert(!memcmp(r.body, "body", 4));
    ck_assert_int_eq(response_parse("SSH-2.0-nothing", 15, &r), -1);
    ck_assert_int_eq(response_parse("HTTP/1.1 200 OK\r\n\r\n", 19, &r), -1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("book");
    TCase *t = tcase_create("book");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, all_is_well);
    tcase_add_test(t, what_is_missing_is_lost);
    tcase_add_test(t, a_second_charge_is_of_every_recipient);
    tcase_add_test(t, a_second_refund_is_doubled);
    tcase_add_test(t, money_back_and_the_message_too_is_doubled);
    tcase_add_test(t, two_operators_are_excused_by_an_unknown_answer);
    tcase_add_test(t, others_are_told_apart);
    tcase_add_test(t, the_time_of_acceptance_is_known_by_reference);
    tcase_add_test(t, a_hundred_thousand_recipients);
    tcase_add_test(t, a_response_is_read_as_it_comes);
    suite_add_tcase(s, t);
    return suite_run(s);
}
