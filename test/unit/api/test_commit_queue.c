#include <check.h>
#include <stdlib.h>

#include "api/commit_queue.h"
#include "test/unit/suite.h"

#define OPS 2000

static struct operation *ops; /* OPS of them */
static struct commit_queue *queue;
static struct commit_hand hand, other;

static const struct commit_limits limits = {
    .max = OPS, .max_bytes = 100000, .batch_rows = 100, .batch_bytes = 10000, .beside_rows = 4};

static void setup(void)
{
    ops = calloc(OPS, sizeof(*ops));
    ck_assert_ptr_nonnull(ops);
    queue = commit_queue_new(&limits);
}

/* Of the batches of a test, none may be in hand and nothing may wait at its end. */
static void teardown(void)
{
    commit_queue_free(queue);
    free(ops);
}

/* ops[i]: a send of a customer's to one recipient. */
static bool put(int i, int64_t customer_id)
{
    ops[i] = (struct operation){.kind = OPERATION_SEND,
                                .customer_id = customer_id,
                                .bytes = 10,
                                .packet_bytes = 10,
                                .message.recipient_count = 1};
    return commit_queue_put(queue, &ops[i]);
}

static void take(struct commit_hand *h)
{
    ck_assert(commit_queue_may_take(queue));
    commit_queue_take(queue, h);
}

static void take_rest(void)
{
    while (!commit_queue_empty(queue)) {
        take(&hand);
        commit_queue_done(queue, &hand);
    }
}

START_TEST(one_batch_takes_everything_in_order)
{
    ck_assert(commit_queue_empty(queue) && !commit_queue_may_take(queue));
    for (int i = 0; i < 50; i++)
        ck_assert(put(i, i % 7));
    take(&hand);
    ck_assert_uint_eq(hand.n, 50);
    for (int i = 0; i < 50; i++)
        ck_assert_ptr_eq(hand.ops[i], &ops[i]);
    ck_assert(commit_queue_empty(queue));
    commit_queue_done(queue, &hand);
}
END_TEST

START_TEST(another_joins_in_only_when_enough_waits)
{
    put(0, 1);
    take(&hand);
    for (int i = 1; i < 4; i++)
        put(i, 100 + i);
    ck_assert(!commit_queue_may_take(queue));
    put(4, 104);
    take(&other);
    ck_assert_uint_eq(other.n, 4);
    commit_queue_done(queue, &other);
    put(5, 105);
    ck_assert(!commit_queue_may_take(queue));
    commit_queue_done(queue, &hand);
    take(&hand);
    ck_assert_uint_eq(hand.n, 1);
    commit_queue_done(queue, &hand);
}
END_TEST

START_TEST(batches_in_hand_share_no_customer)
{
    put(0, 1);
    take(&hand);
    for (int i = 1; i < 20; i++)
        put(i, 1);
    ck_assert(!commit_queue_may_take(queue)); /* many wait, but all for the first */
    for (int i = 20; i < 24; i++)
        put(i, i);
    take(&other);
    ck_assert_uint_eq(other.n, 4);
    for (int i = 0; i < 4; i++)
        ck_assert_ptr_eq(other.ops[i], &ops[20 + i]);
    commit_queue_done(queue, &hand);
    take(&hand); /* beside the other one, which is still in hand */
    ck_assert_uint_eq(hand.n, 19);
    for (int i = 0; i < 19; i++)
        ck_assert_ptr_eq(hand.ops[i], &ops[1 + i]);
    commit_queue_done(queue, &hand);
    commit_queue_done(queue, &other);
}
END_TEST

START_TEST(what_does_not_fit_stays_in_order)
{
    for (int i = 0; i < 150; i++)
        put(i, i);
    take(&hand);
    ck_assert_uint_eq(hand.n, limits.batch_rows);
    commit_queue_done(queue, &hand);
    take(&hand);
    ck_assert_uint_eq(hand.n, 50);
    ck_assert_ptr_eq(hand.ops[0], &ops[100]);
    commit_queue_done(queue, &hand);
}
END_TEST

START_TEST(a_single_request_above_the_limits_passes)
{
    put(0, 1);
    ops[0].message.recipient_count = limits.batch_rows * 2;
    put(1, 2);
    take(&hand);
    ck_assert_uint_eq(hand.n, 1);
    commit_queue_done(queue, &hand);
    ops[2] = (struct operation){
        .kind = OPERATION_TOPUP, .customer_id = 3, .packet_bytes = limits.batch_bytes * 2};
    ck_assert(commit_queue_put(queue, &ops[2]));
    take(&hand);
    ck_assert_uint_eq(hand.n, 1);
    commit_queue_done(queue, &hand);
    take_rest();
}
END_TEST

START_TEST(a_full_queue_refuses)
{
    for (int i = 0; i < OPS; i++)
        ck_assert(put(i, i));
    ck_assert(!commit_queue_put(queue, &(struct operation){.customer_id = 1}));
    take_rest();
    ops[0] = (struct operation){.customer_id = 1, .bytes = limits.max_bytes + 1};
    ck_assert(commit_queue_put(queue, &ops[0])); /* alone, whatever it weighs */
    ck_assert(!put(1, 2));
    take_rest();
}
END_TEST

START_TEST(a_batch_is_bounded_by_customers_and_bytes)
{
    struct commit_limits wide = {
        .max = OPS, .max_bytes = SIZE_MAX, .batch_rows = OPS, .batch_bytes = 95, .beside_rows = 4};

    commit_queue_free(queue);
    queue = commit_queue_new(&wide);
    for (int i = 0; i < 20; i++)
        put(i, i);
    take(&hand);
    ck_assert_uint_eq(hand.n, 9);
    commit_queue_done(queue, &hand);
    take_rest();
    commit_queue_free(queue);
    wide.batch_bytes = SIZE_MAX;
    queue = commit_queue_new(&wide);
    for (int i = 0; i < OPS; i++)
        put(i, i);
    take(&hand);
    ck_assert_uint_eq(hand.n, BATCH_CUSTOMERS_MAX);
    commit_queue_done(queue, &hand);
    take_rest();
}
END_TEST

START_TEST(one_of_many_recipients_is_worth_a_batch)
{
    put(0, 1);
    take(&hand);
    ops[1] = (struct operation){
        .kind = OPERATION_SEND, .customer_id = 2, .bytes = 10, .message.recipient_count = 4};
    ck_assert(commit_queue_put(queue, &ops[1]));
    take(&other);
    ck_assert_ptr_eq(other.ops[0], &ops[1]);
    commit_queue_done(queue, &other);
    commit_queue_done(queue, &hand);
}
END_TEST

START_TEST(what_is_aside_comes_first)
{
    put(0, 1);
    put(1, 2);
    put(2, 3);
    take(&hand);
    put(3, 1);
    commit_queue_set_aside(queue, &ops[0]);
    commit_queue_set_aside(queue, &ops[2]);
    ck_assert(commit_queue_has_aside(queue));
    commit_queue_done(queue, &hand);
    put(4, 3);
    commit_queue_return(queue);
    ck_assert(!commit_queue_has_aside(queue));
    take(&hand);
    ck_assert_uint_eq(hand.n, 4);
    ck_assert_ptr_eq(hand.ops[0], &ops[0]);
    ck_assert_ptr_eq(hand.ops[1], &ops[2]);
    ck_assert_ptr_eq(hand.ops[2], &ops[3]);
    ck_assert_ptr_eq(hand.ops[3], &ops[4]);
    commit_queue_done(queue, &hand);
}
END_TEST

START_TEST(what_is_aside_is_not_lost_alone)
{
    put(0, 1);
    take(&hand);
    commit_queue_set_aside(queue, &ops[0]);
    commit_queue_done(queue, &hand);
    ck_assert(!commit_queue_empty(queue) && !commit_queue_may_take(queue));
    commit_queue_return(queue);
    put(1, 2); /* behind it */
    take(&hand);
    ck_assert_uint_eq(hand.n, 2);
    ck_assert_ptr_eq(hand.ops[1], &ops[1]);
    commit_queue_done(queue, &hand);
}
END_TEST

/* Whatever comes and goes: all leave once, each customer's in order, no two batches share one. */
START_TEST(nothing_is_lost_or_reordered)
{
    struct commit_hand hands[3] = {0};
    int last_of[40] = {0};
    int next = 0;
    int left = 0;
    unsigned dice = 1;

    while (left < OPS) {
        struct commit_hand *h;

        dice = dice * 1103515245 + 12345;
        h = &hands[(dice >> 16) % 3];
        if ((dice >> 20) % 4 && next < OPS) {
            ck_assert(put(next, (dice >> 22) % 40));
            next++;
        } else if (h->n) {
            commit_queue_done(queue, h);
        } else if (commit_queue_may_take(queue)) {
            commit_queue_take(queue, h);
            for (size_t i = 0; i < h->n; i++) {
                int at = (int)(h->ops[i] - ops);

                ck_assert_int_gt(at + 1, last_of[h->ops[i]->customer_id]);
                last_of[h->ops[i]->customer_id] = at + 1;
                for (int k = 0; k < 3; k++)
                    for (size_t j = 0; &hands[k] != h && j < hands[k].n; j++)
                        ck_assert_int_ne(hands[k].ops[j]->customer_id, h->ops[i]->customer_id);
            }
            left += (int)h->n;
        }
    }
    ck_assert(commit_queue_empty(queue));
    for (int k = 0; k < 3; k++)
        if (hands[k].n)
            commit_queue_done(queue, &hands[k]);
}
END_TEST

START_TEST(small_batches_that_follow_closely_gather)
{
    ck_assert_int_eq(commit_queue_gather_us(100, 400, 1), 1200);
    ck_assert_int_eq(commit_queue_gather_us(0, 50000, 7), 1500); /* bounded */
    ck_assert_int_eq(commit_queue_gather_us(20000, 700, 1), 0);  /* after a quiet time */
    ck_assert_int_eq(commit_queue_gather_us(0, 700, 8), 0); /* enough have come by themselves */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("commit_queue");
    TCase *t = tcase_create("batches");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, one_batch_takes_everything_in_order);
    tcase_add_test(t, small_batches_that_follow_closely_gather);
    tcase_add_test(t, another_joins_in_only_when_enough_waits);
    tcase_add_test(t, batches_in_hand_share_no_customer);
    tcase_add_test(t, what_does_not_fit_stays_in_order);
    tcase_add_test(t, a_single_request_above_the_limits_passes);
    tcase_add_test(t, a_full_queue_refuses);
    tcase_add_test(t, a_batch_is_bounded_by_customers_and_bytes);
    tcase_add_test(t, one_of_many_recipients_is_worth_a_batch);
    tcase_add_test(t, what_is_aside_comes_first);
    tcase_add_test(t, what_is_aside_is_not_lost_alone);
    tcase_add_test(t, nothing_is_lost_or_reordered);
    suite_add_tcase(s, t);
    return suite_run(s);
}
