#include "outboxd/publish.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/domain/bundle.h"
#include "test/unit/fake_broker.h"
#include "test/unit/suite.h"

#define ROWS 400
#define TRACE "00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01"

static struct publisher publisher; /* too large for a stack */
static struct broker *broker;
static struct row rows[ROWS];
static size_t n;
static char ids[ROWS][8];
static struct buf payload;

static void payload_of(struct buf *out, const char *text, const char *routing_key)
{
    const char *recipients[] = {"0912"};
    struct message m = {.customer_id = 7,
                        .id = "m",
                        .transaction_id = "c-m",
                        .text = text,
                        .text_len = strlen(text),
                        .recipients = recipients,
                        .recipient_count = 1};

    message_put_payload(out, &m, "exchange", routing_key, TRACE, "k=v", 42);
}

static void setup(void)
{
    fake_broker_begin();
    publish_register();
    broker = fake_broker_new();
    publish_init(&publisher, MESSAGE_NORMAL, 1);
    payload_of(&payload, "hello", "normal");
    n = 3;
    for (int i = 0; i < ROWS; i++) {
        snprintf(ids[i], sizeof(ids[i]), "m-%d", i + 1);
        rows[i] = (struct row){.id = i + 1,
                               .aggregate_id = ids[i],
                               .payload = payload.data,
                               .payload_len = payload.len};
    }
    fake_broker_hears_nothing(); /* the look before a burst */
}

static void setup_bundles(void)
{
    setup();
    publisher.bundle_max = 50;
}

static void teardown(void)
{
    broker_free(broker);
    publish_free(&publisher);
    buf_free(&payload);
    fake_broker_end();
}

static int publish_within(int64_t ms, struct err *err)
{
    return publish_batch(&publisher, broker, rows, n, clock_mono_ms() + ms, err);
}

/* What is confirmed is so at once; the time is for a slow machine. */
static int publish(struct err *err)
{
    return publish_within(10000, err);
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

START_TEST(without_bundles_each_message_is_as_it_always_was)
{
    static const char body[] =
        "{\"customer_id\":7,\"text\":\"hello\",\"recipients\":[\"0912\"],\"type\":\"normal\","
        "\"transaction_id\":\"c-m\",\"message_identifier\":\"m\"}";
    struct err err;

    HEARS({.type = BROKER_CONFIRMED, .tag = 3, .multiple = true});
    ck_assert_int_eq(publish(&err), 0);
    for (size_t i = 0; i < n; i++) {
        const struct broker_message *m = fake_broker_published(i);

        ck_assert_uint_eq(m->bundle, 0);
        ck_assert_str_eq(m->exchange, "exchange");
        ck_assert_str_eq(m->routing_key, "normal");
        ck_assert_str_eq(m->message_id, ids[i]);
        ck_assert_str_eq(m->traceparent, TRACE);
        ck_assert_str_eq(m->tracestate, "k=v");
        ck_assert_int_eq(m->accepted_us, 42);
        ck_assert_uint_eq(m->body_len, sizeof(body) - 1);
        ck_assert_mem_eq(m->body, body, sizeof(body) - 1);
        ck_assert_ptr_null(m->death_reason);
        ck_assert_ptr_null(m->death_queue);
    }
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
    ck_assert_int_eq(publish_within(30, &err), -1);
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
    ck_assert_int_eq(publish_within(30, &err), 0);
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

/* ---- bundles ---- */

static void expect_all(enum row_state state)
{
    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(rows[i].state, state);
}

static void again(void)
{
    for (size_t i = 0; i < n; i++)
        rows[i].state = ROW_TO_PUBLISH;
    fake_broker_hears_nothing();
}

static bool count_member(const struct bundle_member *m, void *arg)
{
    size_t *members = arg;

    ck_assert_ptr_nonnull(m->message);
    ck_assert_str_eq(m->message->transaction_id, "c-m");
    ck_assert_str_eq(m->traceparent, TRACE);
    ck_assert_str_eq(m->tracestate, "k=v");
    ck_assert_int_eq(m->accepted_us, 42);
    ++*members;
    return true;
}

static size_t members_of(size_t i)
{
    const struct broker_message *m = fake_broker_published(i);
    size_t members = 0;
    struct err err;

    ck_assert_str_eq(m->exchange, "exchange");
    ck_assert_str_eq(m->routing_key, "normal");
    if (!m->bundle)
        return 1;
    ck_assert_uint_le(m->body_len, BUNDLE_BYTES_MAX);
    ck_assert_ptr_null(m->traceparent);
    ck_assert_ptr_null(m->tracestate);
    ck_assert_int_eq(m->accepted_us, 0);
    ck_assert_int_eq(bundle_read(m->bundle, m->body, m->body_len, count_member, &members, &err), 0);
    return members;
}

START_TEST(rows_of_a_batch_share_a_message)
{
    struct err err;

    HEARS({.type = BROKER_CONFIRMED, .tag = 1});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(), "bundle:m-1 flush");
    ck_assert_uint_eq(members_of(0), 3);
    expect_all(ROW_CONFIRMED);
    ck_assert_uint_eq(rows[2].together, 3);
}
END_TEST

START_TEST(one_alone_is_no_bundle)
{
    struct err err;

    n = 1;
    HEARS({.type = BROKER_CONFIRMED, .tag = 1});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(), "publish:m-1 flush");
    ck_assert_str_eq(fake_broker_published(0)->tracestate, "k=v");
    ck_assert_int_eq(fake_broker_published(0)->accepted_us, 42);
    ck_assert_uint_eq(rows[0].together, 1);
}
END_TEST

static const struct {
    size_t rows, bundle_max, bundles, largest, smallest;
} shares[] = {
    {10, 50, 1, 10, 10}, {11, 50, 2, 6, 5},       {25, 50, 3, 9, 7},    {50, 50, 4, 13, 11},
    {51, 50, 4, 13, 12}, {200, 50, 4, 50, 50},    {201, 50, 5, 41, 37}, {25, 10, 3, 9, 7},
    {4, 2, 2, 2, 2},     {400, 500, 4, 100, 100}, {3, 1, 3, 1, 1},
};

START_TEST(a_batch_is_shared_out_evenly)
{
    size_t total = 0;
    struct err err;

    publisher.bundle_max = shares[_i].bundle_max;
    n = shares[_i].rows;
    HEARS({.type = BROKER_CONFIRMED, .tag = shares[_i].bundles, .multiple = true});
    ck_assert_int_eq(publish(&err), 0);
    for (size_t i = 0; i < shares[_i].bundles; i++) {
        size_t members = members_of(i);

        ck_assert_uint_le(members, shares[_i].largest);
        ck_assert_uint_ge(members, shares[_i].smallest);
        total += members;
    }
    ck_assert_uint_eq(total, n);
    expect_all(ROW_CONFIRMED);
}
END_TEST

START_TEST(a_row_that_failed_before_goes_alone)
{
    struct err err;

    n = 5;
    rows[2].attempts = 1;
    HEARS({.type = BROKER_CONFIRMED, .tag = 3, .multiple = true});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(), "bundle:m-1 publish:m-3 bundle:m-4 flush");
    expect_all(ROW_CONFIRMED);
}
END_TEST

START_TEST(a_body_that_is_no_payload_is_not_put_into_a_bundle)
{
    struct err err;

    n = 4;
    rows[0].payload = NULL;
    rows[2].payload = "{";
    rows[2].payload_len = 1;
    HEARS({.type = BROKER_CONFIRMED, .tag = 1});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(), "bundle:m-2 flush");
    ck_assert_uint_eq(members_of(0), 2);
    ck_assert_int_eq(rows[0].state, ROW_REFUSED);
    ck_assert_int_eq(rows[1].state, ROW_CONFIRMED);
    ck_assert_int_eq(rows[2].state, ROW_REFUSED);
    ck_assert_int_eq(rows[3].state, ROW_CONFIRMED);
}
END_TEST

START_TEST(a_message_without_anything_in_it_goes_alone)
{
    static const char empty[] =
        "{\"exchange\":\"exchange\",\"routing_key\":\"normal\",\"message\":{}}";
    struct err err;

    rows[1].payload = empty;
    rows[1].payload_len = strlen(empty);
    HEARS({.type = BROKER_CONFIRMED, .tag = 3, .multiple = true});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(), "publish:m-1 publish:m-2 publish:m-3 flush");
    expect_all(ROW_CONFIRMED);
}
END_TEST

START_TEST(a_bundle_is_of_one_queue)
{
    struct buf other = {0};
    struct err err;

    payload_of(&other, "hello", "elsewhere");
    n = 5;
    rows[2].payload = rows[3].payload = other.data;
    rows[2].payload_len = rows[3].payload_len = other.len;
    HEARS({.type = BROKER_CONFIRMED, .tag = 3, .multiple = true});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(), "bundle:m-1 bundle:m-3 publish:m-5 flush");
    ck_assert_str_eq(fake_broker_published(1)->routing_key, "elsewhere");
    expect_all(ROW_CONFIRMED);
    buf_free(&other);
}
END_TEST

/* A row of so many bytes of text. */
static void put_large(struct buf *out, size_t bytes)
{
    struct buf text = {0};

    while (text.len < bytes)
        buf_putc(&text, 'x');
    payload_of(out, text.data, "normal");
    buf_free(&text);
}

START_TEST(a_bundle_has_a_bound_in_bytes)
{
    struct buf large = {0};
    struct err err;

    put_large(&large, 100 << 10);
    n = 5;
    for (size_t i = 0; i < n; i++) {
        rows[i].payload = large.data;
        rows[i].payload_len = large.len;
    }
    HEARS({.type = BROKER_CONFIRMED, .tag = 3, .multiple = true});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(), "bundle:m-1 bundle:m-3 publish:m-5 flush");
    for (size_t i = 0; i < 3; i++)
        ck_assert_uint_le(fake_broker_published(i)->body_len, BUNDLE_BYTES_MAX);
    expect_all(ROW_CONFIRMED);
    buf_free(&large);
}
END_TEST

START_TEST(what_is_larger_than_a_bundle_goes_alone)
{
    struct buf large = {0};
    struct err err;

    put_large(&large, 300 << 10);
    rows[2].payload = large.data;
    rows[2].payload_len = large.len;
    HEARS({.type = BROKER_CONFIRMED, .tag = 2, .multiple = true});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(), "bundle:m-1 publish:m-3 flush");
    ck_assert_uint_gt(fake_broker_published(1)->body_len, 300 << 10);
    expect_all(ROW_CONFIRMED);
    buf_free(&large);
}
END_TEST

START_TEST(members_of_a_returned_bundle_get_their_second_chance_alone)
{
    struct err err;

    n = 12;
    HEARS(RETURNED("m-7"), {.type = BROKER_CONFIRMED, .tag = 2, .multiple = true});
    HEARS({.type = BROKER_CONFIRMED, .tag = 3}, RETURNED("m-8"),
          {.type = BROKER_CONFIRMED, .tag = 8, .multiple = true});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(),
                     "bundle:m-1 bundle:m-7 flush declare publish:m-7 publish:m-8 publish:m-9 "
                     "publish:m-10 publish:m-11 publish:m-12 flush");
    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(rows[i].state, i == 7 ? ROW_REFUSED : ROW_CONFIRMED);
    ck_assert_int_eq(rows[7].cause, CAUSE_UNROUTABLE);
    ck_assert_ptr_nonnull(strstr(rows[7].reason, "312"));
}
END_TEST

START_TEST(members_are_published_alone_on_the_channel_after_the_one_that_was_closed)
{
    struct err err;

    n = 12;
    HEARS({.type = BROKER_CONFIRMED, .tag = 1}, CLOSED(406));
    HEARS({.type = BROKER_CONFIRMED, .tag = 6, .multiple = true});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(),
                     "bundle:m-1 bundle:m-7 flush reopen declare confirm publish:m-7 publish:m-8 "
                     "publish:m-9 publish:m-10 publish:m-11 publish:m-12 flush");
    expect_all(ROW_CONFIRMED);
}
END_TEST

START_TEST(the_one_member_that_closes_channels_is_found)
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
}
END_TEST

START_TEST(after_a_nack_the_next_batch_goes_alone)
{
    struct err err;

    HEARS({.type = BROKER_NACKED, .tag = 1});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert(publisher.nacked);
    expect_all(ROW_LEFT);

    again();
    HEARS({.type = BROKER_CONFIRMED, .tag = 3, .multiple = true}); /* on a new channel */
    ck_assert_int_eq(publish(&err), 0);
    expect_all(ROW_CONFIRMED);

    again();
    HEARS({.type = BROKER_CONFIRMED, .tag = 4});
    ck_assert_int_eq(publish(&err), 0);
    ck_assert_str_eq(fake_broker_calls(), "bundle:m-1 flush reopen confirm publish:m-1 publish:m-2 "
                                          "publish:m-3 flush bundle:m-1 flush");
    expect_all(ROW_CONFIRMED);
}
END_TEST

START_TEST(a_bundle_that_is_not_confirmed_in_time_is_left_whole)
{
    struct err err;

    n = 12;
    HEARS({.type = BROKER_CONFIRMED, .tag = 2});
    ck_assert_int_eq(publish_within(30, &err), -1);
    ck_assert(!broker_is_open(broker));
    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(rows[i].state, i < 6 ? ROW_LEFT : ROW_CONFIRMED);
}
END_TEST

START_TEST(a_bundle_that_cannot_be_handed_over_is_left_whole)
{
    struct err err;

    fake_broker_fails("publish", 1);
    ck_assert_int_eq(publish(&err), -1);
    expect_all(ROW_LEFT);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("publish");
    TCase *t = tcase_create("batches");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, one_confirm_may_stand_for_all_before_it);
    tcase_add_test(t, without_bundles_each_message_is_as_it_always_was);
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
    t = tcase_create("bundles");
    tcase_add_checked_fixture(t, setup_bundles, teardown);
    tcase_add_test(t, rows_of_a_batch_share_a_message);
    tcase_add_test(t, one_alone_is_no_bundle);
    tcase_add_loop_test(t, a_batch_is_shared_out_evenly, 0, sizeof(shares) / sizeof(shares[0]));
    tcase_add_test(t, a_row_that_failed_before_goes_alone);
    tcase_add_test(t, a_body_that_is_no_payload_is_not_put_into_a_bundle);
    tcase_add_test(t, a_message_without_anything_in_it_goes_alone);
    tcase_add_test(t, a_bundle_is_of_one_queue);
    tcase_add_test(t, a_bundle_has_a_bound_in_bytes);
    tcase_add_test(t, what_is_larger_than_a_bundle_goes_alone);
    tcase_add_test(t, members_of_a_returned_bundle_get_their_second_chance_alone);
    tcase_add_test(t, members_are_published_alone_on_the_channel_after_the_one_that_was_closed);
    tcase_add_test(t, the_one_member_that_closes_channels_is_found);
    tcase_add_test(t, after_a_nack_the_next_batch_goes_alone);
    tcase_add_test(t, a_bundle_that_is_not_confirmed_in_time_is_left_whole);
    tcase_add_test(t, a_bundle_that_cannot_be_handed_over_is_left_whole);
    suite_add_tcase(s, t);
    return suite_run(s);
}
