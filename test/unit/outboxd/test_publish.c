#include "outboxd/publish.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "test/unit/fake_broker.h"
#include "test/unit/suite.h"

#define ROWS 3

static struct publisher publisher; /* too large for a stack */
static struct broker *broker;
static struct row rows[ROWS];
static char ids[ROWS][8];
static struct buf payload;

static void setup(void)
{
    const char *recipients[] = {"0912"};
    struct message m = {.customer_id = 7,
                        .id = "m",
                        .transaction_id = "c-m",
                        .text = "hello",
                        .text_len = 5,
                        .recipients = recipients,
                        .recipient_count = 1};

    fake_broker_begin();
    publish_register();
    broker = fake_broker_new();
    message_put_payload(&payload, &m, "exchange", "normal", "", "", 1);
    for (int i = 0; i < ROWS; i++) {
        snprintf(ids[i], sizeof(ids[i]), "m-%d", i + 1);
        rows[i] = (struct row){.id = i + 1,
                               .aggregate_id = ids[i],
                               .payload = payload.data,
                               .payload_len = payload.len};
    }
    fake_broker_hears_nothing(); /* the look before a burst */
}

static void teardown(void)
{
    broker_free(broker);
    buf_free(&payload);
    fake_broker_end();
}

static int publish(struct err *err)
{
    return publish_batch(&publisher, broker, rows, ROWS, clock_mono_ms() + 30, err);
}

static void expect_states(enum row_state a, enum row_state b, enum row_state c)
{
    ck_assert_int_eq(rows[0].state, a);
    ck_assert_int_eq(rows[1].state, b);
    ck_assert_int_eq(rows[2].state, c);
}

START_TEST(one_confirm_may_stand_for_all_before_it)
{
    struct err err;

    HEARS({.type = BROKER_CONFIRMED, .tag = 2, .multiple = true});
    HEARS({.type = BROKER_CONFIRMED, .tag = 3});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(), "publish:m-1 publish:m-2 publish:m-3 flush");
    expect_states(ROW_CONFIRMED, ROW_CONFIRMED, ROW_CONFIRMED);
}
END_TEST

START_TEST(confirms_come_in_any_order)
{
    struct err err;

    HEARS({.type = BROKER_CONFIRMED, .tag = 3}, {.type = BROKER_CONFIRMED, .tag = 1},
          {.type = BROKER_CONFIRMED, .tag = 99}); /* of nobody */
    HEARS({.type = BROKER_CONFIRMED, .tag = 3, .multiple = true});
    ck_assert_int_eq(publish(&err), 0);
    expect_states(ROW_CONFIRMED, ROW_CONFIRMED, ROW_CONFIRMED);
}
END_TEST

START_TEST(what_is_nacked_stays_for_another_time)
{
    struct err err;

    HEARS({.type = BROKER_CONFIRMED, .tag = 1},
          {.type = BROKER_NACKED, .tag = 3, .multiple = true});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert(publisher.nacked);
    expect_states(ROW_CONFIRMED, ROW_LEFT, ROW_LEFT);
}
END_TEST

START_TEST(a_body_that_is_no_payload_is_refused_and_not_published)
{
    struct err err;

    rows[0].payload = "{";
    rows[0].payload_len = 1;
    rows[1].payload = NULL;
    HEARS({.type = BROKER_CONFIRMED, .tag = 1});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(), "publish:m-3 flush");
    expect_states(ROW_REFUSED, ROW_REFUSED, ROW_CONFIRMED);
    ck_assert_int_eq(rows[0].cause, CAUSE_PAYLOAD);
    ck_assert_str_eq(rows[1].reason, "the payload is too long");
}
END_TEST

#define RETURNED(id)                                                                 \
    {                                                                                \
        .type = BROKER_RETURNED, .message_id = (id), .code = 312, .text = "NO_ROUTE" \
    }

START_TEST(what_is_returned_gets_a_second_chance)
{
    struct err err;

    HEARS(RETURNED("m-2"), {.type = BROKER_CONFIRMED, .tag = 3, .multiple = true});
    HEARS({.type = BROKER_CONFIRMED, .tag = 4});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(),
                     "publish:m-1 publish:m-2 publish:m-3 flush declare publish:m-2 flush");
    expect_states(ROW_CONFIRMED, ROW_CONFIRMED, ROW_CONFIRMED);
}
END_TEST

START_TEST(returned_twice_is_unroutable)
{
    struct err err;

    HEARS(RETURNED("m-2"), {.type = BROKER_CONFIRMED, .tag = 2},
          {.type = BROKER_CONFIRMED, .tag = 3, .multiple = true});
    HEARS(RETURNED("m-2"), {.type = BROKER_CONFIRMED, .tag = 4});
    ck_assert_int_eq(publish(&err), 0);
    expect_states(ROW_CONFIRMED, ROW_REFUSED, ROW_CONFIRMED);
    ck_assert_int_eq(rows[1].cause, CAUSE_UNROUTABLE);
    ck_assert_ptr_nonnull(strstr(rows[1].reason, "312"));
}
END_TEST

#define CLOSED(number)                                                     \
    {                                                                      \
        .type = BROKER_CHANNEL_CLOSED, .code = (number), .text = "go away" \
    }

START_TEST(a_channel_closed_once_is_published_on_again)
{
    struct err err;

    HEARS({.type = BROKER_CONFIRMED, .tag = 1}, CLOSED(406));
    HEARS({.type = BROKER_CONFIRMED, .tag = 2, .multiple = true}); /* a new channel counts from 1 */
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(),
                     "publish:m-1 publish:m-2 publish:m-3 flush reopen declare "
                     "confirm publish:m-2 publish:m-3 flush");
    expect_states(ROW_CONFIRMED, ROW_CONFIRMED, ROW_CONFIRMED);
}
END_TEST

START_TEST(the_one_message_that_closes_channels_is_found_and_refused_alone)
{
    struct err err;

    HEARS(CLOSED(406));
    HEARS(CLOSED(406));
    HEARS({.type = BROKER_CONFIRMED, .tag = 1}); /* m-1, alone */
    HEARS(CLOSED(406));                          /* m-2 */
    HEARS({.type = BROKER_CONFIRMED, .tag = 1}); /* m-3, on a channel of its own */
    ck_assert_int_eq(publish(&err), 0);
    expect_states(ROW_CONFIRMED, ROW_REFUSED, ROW_CONFIRMED);
    ck_assert_int_eq(rows[1].cause, CAUSE_CHANNEL);
    ck_assert_str_eq(rows[1].reason, "go away");
}
END_TEST

START_TEST(a_channel_closed_for_the_brokers_own_reasons_blames_no_message)
{
    struct err err;

    HEARS(CLOSED(541));
    HEARS(CLOSED(541));
    HEARS(CLOSED(541));
    ck_assert_int_eq(publish(&err), -1);
    ck_assert_int_eq(err.kind, ERR_RETRY);
    ck_assert(!broker_is_open(broker));
    expect_states(ROW_LEFT, ROW_LEFT, ROW_LEFT);
}
END_TEST

START_TEST(a_confirm_that_does_not_come_in_time_closes_the_connection)
{
    struct err err;

    HEARS({.type = BROKER_CONFIRMED, .tag = 1});
    ck_assert_int_eq(publish(&err), -1);
    ck_assert_int_eq(err.kind, ERR_RETRY);
    ck_assert(!broker_is_open(broker));
    expect_states(ROW_CONFIRMED, ROW_LEFT, ROW_LEFT);
}
END_TEST

START_TEST(a_blocked_broker_gets_nothing)
{
    struct err err;

    fake_broker_block(true);
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(), "");
    expect_states(ROW_LEFT, ROW_LEFT, ROW_LEFT);
}
END_TEST

START_TEST(in_an_alarm_confirms_may_come_late)
{
    struct err err;

    HEARS({.type = BROKER_BLOCKED, .text = "memory"});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert(broker_is_open(broker));
    expect_states(ROW_LEFT, ROW_LEFT, ROW_LEFT);
}
END_TEST

START_TEST(a_connection_that_breaks_in_the_middle_keeps_what_was_confirmed)
{
    struct err err;

    HEARS({.type = BROKER_CONFIRMED, .tag = 2});
    fake_broker_fails("pump", 3);
    ck_assert_int_eq(publish(&err), -1);
    expect_states(ROW_LEFT, ROW_CONFIRMED, ROW_LEFT);
}
END_TEST

START_TEST(what_cannot_be_handed_over_is_left)
{
    struct err err;

    fake_broker_fails("publish", 2);
    ck_assert_int_eq(publish(&err), -1);
    ck_assert_str_eq(fake_broker_calls(), "publish:m-1 publish:m-2");
    expect_states(ROW_LEFT, ROW_LEFT, ROW_LEFT);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("publish");
    TCase *t = tcase_create("batches");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, one_confirm_may_stand_for_all_before_it);
    tcase_add_test(t, confirms_come_in_any_order);
    tcase_add_test(t, what_is_nacked_stays_for_another_time);
    tcase_add_test(t, a_body_that_is_no_payload_is_refused_and_not_published);
    tcase_add_test(t, what_is_returned_gets_a_second_chance);
    tcase_add_test(t, returned_twice_is_unroutable);
    tcase_add_test(t, a_channel_closed_once_is_published_on_again);
    tcase_add_test(t, the_one_message_that_closes_channels_is_found_and_refused_alone);
    tcase_add_test(t, a_channel_closed_for_the_brokers_own_reasons_blames_no_message);
    tcase_add_test(t, a_confirm_that_does_not_come_in_time_closes_the_connection);
    tcase_add_test(t, a_blocked_broker_gets_nothing);
    tcase_add_test(t, in_an_alarm_confirms_may_come_late);
    tcase_add_test(t, a_connection_that_breaks_in_the_middle_keeps_what_was_confirmed);
    tcase_add_test(t, what_cannot_be_handed_over_is_left);
    suite_add_tcase(s, t);
    return suite_run(s);
}
