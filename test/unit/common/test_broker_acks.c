#include "libcommon/broker/broker_acks.h"
#include "test/unit/suite.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

struct frame {
    uint64_t tag;
    bool multiple;
};

static struct frame frames[1000];
static size_t count;

static void keep(uint64_t tag, bool multiple, void *arg)
{
    (void)arg;
    frames[count++] = (struct frame){tag, multiple};
}

static void collect(struct broker_acks *a)
{
    count = 0;
    broker_acks_collect(a, keep, NULL);
}

static void deliver(struct broker_acks *a, uint64_t from, uint64_t to)
{
    for (uint64_t t = from; t <= to; t++)
        ck_assert(broker_acks_delivered(a, t));
}

static void done(struct broker_acks *a, uint64_t from, uint64_t to)
{
    for (uint64_t t = from; t <= to; t++)
        ck_assert(broker_acks_done(a, t, false));
}

START_TEST(a_finished_head_is_one_frame)
{
    struct broker_acks a = {0};

    deliver(&a, 1, 200);
    done(&a, 1, 150);
    collect(&a);
    ck_assert_uint_eq(count, 1);
    ck_assert_uint_eq(frames[0].tag, 150);
    ck_assert(frames[0].multiple);
    collect(&a);
    ck_assert_uint_eq(count, 0);
    broker_acks_free(&a);
}
END_TEST

/* RabbitMQ acks everything and then closes the channel when a multiple ack names a tag that it no
 * longer holds: the tag must be one that is still due. */
START_TEST(a_multiple_never_names_a_settled_tag)
{
    struct broker_acks a = {0};

    deliver(&a, 1, 6);
    done(&a, 3, 6);
    collect(&a);
    ck_assert_uint_eq(count, 4);
    for (size_t i = 0; i < count; i++)
        ck_assert(!frames[i].multiple);
    ck_assert(broker_acks_done(&a, 1, false));
    ck_assert(broker_acks_done(&a, 2, false));
    collect(&a);
    ck_assert_uint_eq(count, 1);
    ck_assert_uint_eq(frames[0].tag, 2);
    ck_assert(frames[0].multiple);
    broker_acks_free(&a);
}
END_TEST

START_TEST(a_rejected_tag_is_not_acked)
{
    struct broker_acks a = {0};

    deliver(&a, 1, 3);
    ck_assert(broker_acks_settled(&a, 3));
    ck_assert(!broker_acks_done(&a, 3, false));
    ck_assert(broker_acks_done(&a, 2, true));
    collect(&a);
    ck_assert_uint_eq(count, 1);
    ck_assert_uint_eq(frames[0].tag, 2);
    ck_assert(frames[0].multiple);
    broker_acks_free(&a);
}
END_TEST

START_TEST(twice_and_unknown_are_ignored)
{
    struct broker_acks a = {0};

    deliver(&a, 10, 12);
    ck_assert(!broker_acks_done(&a, 9, false));
    ck_assert(!broker_acks_done(&a, 13, true));
    done(&a, 11, 11);
    ck_assert(!broker_acks_done(&a, 11, false));
    collect(&a);
    ck_assert(!broker_acks_done(&a, 11, false));
    ck_assert(!broker_acks_delivered(&a, 12));
    broker_acks_clear(&a);
    ck_assert(!broker_acks_done(&a, 12, false));
    ck_assert(broker_acks_delivered(&a, 1));
    broker_acks_free(&a);
}
END_TEST

/* One delivery that never ends must not make the list grow with everything that passes it. */
START_TEST(a_stuck_head_does_not_grow_memory)
{
    struct broker_acks a = {0};

    deliver(&a, 1, 1);
    for (uint64_t t = 2; t < 100000; t += 100) {
        deliver(&a, t, t + 99);
        done(&a, t, t + 99);
        collect(&a);
        ck_assert_uint_eq(count, 100);
    }
    ck_assert_uint_le(a.cap, 512);
    ck_assert(broker_acks_done(&a, 1, false));
    collect(&a);
    ck_assert_uint_eq(count, 1);
    ck_assert_uint_eq(frames[0].tag, 1);
    ck_assert(!frames[0].multiple);
    broker_acks_free(&a);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("broker_acks");
    TCase *tc = tcase_create("all");

    tcase_add_test(tc, a_finished_head_is_one_frame);
    tcase_add_test(tc, a_multiple_never_names_a_settled_tag);
    tcase_add_test(tc, a_rejected_tag_is_not_acked);
    tcase_add_test(tc, twice_and_unknown_are_ignored);
    tcase_add_test(tc, a_stuck_head_does_not_grow_memory);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
