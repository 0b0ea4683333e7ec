#include <check.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "operator-sim/receipts.h"
#include "test/unit/suite.h"

static atomic_uint taken;

static void note(void *arg, const char *reference, bool delivered)
{
    (void)arg;
    (void)reference;
    (void)delivered;
    taken++;
}

static struct receipts *made(size_t max, const char *settings)
{
    struct receipts_config config = {
        .name = "o", .key = "", .seed = 1, .max = max, .in_flight = 2, .taken = note};
    struct receipt_plan plan;
    char why[200];

    ck_assert(receipt_plan_parse(settings, strlen(settings), &plan, why, sizeof(why)));
    return receipts_new(&config, &plan);
}

static void add(struct receipts *r, unsigned n, const char *url)
{
    for (unsigned i = 0; i < n; i++) {
        char reference[16];

        snprintf(reference, sizeof(reference), "r-%u", i);
        receipts_add(r,
                     &(struct receipts_message){.reference = reference, .number = i, .url = url});
    }
}

START_TEST(more_than_there_is_room_for_is_dropped_and_counted)
{
    struct receipts *r =
        made(100, "{\"url\":\"http://127.0.0.1:1/\",\"hold\":true,\"delay_max_ms\":1000}");
    struct receipts_counts c;

    add(r, 5000, NULL);
    c = receipts_counts(r);
    ck_assert_uint_eq(c.waiting, 100);
    ck_assert_uint_eq(c.dropped, 4900);
    receipts_free(r);
}
END_TEST

START_TEST(a_message_without_an_address_gets_none)
{
    struct receipts *r = made(100, "{\"hold\":true}");

    add(r, 3, NULL);
    ck_assert_uint_eq(receipts_counts(r).waiting, 0);
    add(r, 3, "http://127.0.0.1:1/own");
    ck_assert_uint_eq(receipts_counts(r).waiting, 3);
    receipts_free(r);
}
END_TEST

START_TEST(what_is_on_its_way_is_let_go_at_the_end)
{
    /* Refused: each waits for its next try. */
    struct receipts *r =
        made(100, "{\"url\":\"http://127.0.0.1:1/\",\"retry_ms\":60000,\"duplicate_share\":1}");

    add(r, 20, NULL);
    receipts_stop(r);
    ck_assert_uint_eq(receipts_counts(r).taken, 0);
    ck_assert_uint_eq(taken, 0);
    receipts_stop(r); /* again: nothing */
    receipts_free(r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("receipts");
    TCase *t = tcase_create("receipts");

    tcase_add_test(t, more_than_there_is_room_for_is_dropped_and_counted);
    tcase_add_test(t, a_message_without_an_address_gets_none);
    tcase_add_test(t, what_is_on_its_way_is_let_go_at_the_end);
    suite_add_tcase(s, t);
    return suite_run(s);
}
