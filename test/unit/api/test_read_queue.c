#include "api/read_queue.h"

#include <check.h>
#include <stdlib.h>

#include "api/reads.h"
#include "libcommon/base/must.h"
#include "test/unit/suite.h"

static const struct read_queue_limits limits = {.waiting = 6, .waiting_each = 4, .at_work_each = 2};
static struct read_queue *queue;
static int64_t made;   /* reads so far: each has its number as its limit */
static int64_t number; /* of the one taken last */

static void setup(void)
{
    queue = read_queue_new(&limits);
    made = 0;
}

static bool put(int64_t user_id)
{
    struct read_job *job = must_alloc(1, sizeof(*job));
    bool fits;

    *job = (struct read_job){.user_id = user_id, .limit = ++made};
    fits = read_queue_put(queue, job);
    if (!fits)
        free(job);
    return fits;
}

/* The customer whose read begins; 0: none may. */
static int64_t take(void)
{
    struct read_job *job = read_queue_take(queue);
    int64_t user_id = job ? job->user_id : 0;

    number = job ? job->limit : 0;
    free(job);
    return user_id;
}

static void finish(void)
{
    for (int64_t user_id = take(); user_id; user_id = take())
        read_queue_done(queue, user_id);
    ck_assert(read_queue_is_empty(queue));
    read_queue_free(queue);
}

START_TEST(customers_take_turns)
{
    ck_assert(put(1) && put(1) && put(1) && put(2) && put(3));
    ck_assert_int_eq(take(), 1);
    ck_assert_int_eq(take(), 2);
    ck_assert_int_eq(take(), 3);
    ck_assert_int_eq(take(), 1);
    for (int64_t user_id = 1; user_id <= 3; user_id++)
        read_queue_done(queue, user_id);
    read_queue_done(queue, 1);
    finish();
}
END_TEST

START_TEST(one_customer_does_not_take_all_threads)
{
    ck_assert(put(1) && put(1) && put(1) && put(1));
    ck_assert_int_eq(take(), 1);
    ck_assert_int_eq(take(), 1);
    ck_assert_int_eq(take(), 0);
    ck_assert(!read_queue_may_take(queue) && !read_queue_is_empty(queue));
    ck_assert(put(2) && read_queue_may_take(queue));
    ck_assert_int_eq(take(), 2);
    read_queue_done(queue, 1);
    ck_assert_int_eq(take(), 1);
    ck_assert_int_eq(take(), 0);
    read_queue_done(queue, 1);
    read_queue_done(queue, 1);
    read_queue_done(queue, 2);
    finish();
}
END_TEST

START_TEST(one_customer_does_not_take_all_room)
{
    ck_assert(put(1) && put(1) && put(1) && put(1));
    ck_assert(!put(1));
    ck_assert(put(2) && put(3));
    ck_assert(!put(4));
    finish();
}
END_TEST

START_TEST(a_customers_reads_stay_in_order)
{
    ck_assert(put(1) && put(1) && put(1));
    for (int64_t n = 1; n <= 3; n++) {
        ck_assert_int_eq(take(), 1);
        ck_assert_int_eq(number, n);
        read_queue_done(queue, 1);
    }
    finish();
}
END_TEST

/* Whatever happens in whatever order: nothing is lost, nobody is forgotten while it may begin. */
START_TEST(nothing_is_forgotten)
{
    int64_t at_work[8] = {0};
    unsigned seed = 1;
    int in = 0;
    int out = 0;

    for (int i = 0; i < 20000; i++) {
        int64_t user_id;

        seed = seed * 1103515245u + 12345u;
        user_id = 1 + (seed >> 16) % 7;
        if ((seed >> 24) % 3 == 0) {
            in += put(user_id);
        } else if ((seed >> 24) % 3 == 1) {
            user_id = take();
            out += user_id != 0;
            at_work[user_id] += user_id != 0;
            ck_assert_int_le(at_work[user_id], 2);
        } else if (at_work[user_id]) {
            at_work[user_id]--;
            read_queue_done(queue, user_id);
        }
    }
    for (int64_t user_id = 1; user_id < 8; user_id++)
        while (at_work[user_id]-- > 0)
            read_queue_done(queue, user_id);
    for (int64_t user_id = take(); user_id; user_id = take(), out++)
        read_queue_done(queue, user_id);
    ck_assert_int_eq(in, out);
    finish();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("read_queue");
    TCase *t = tcase_create("turns");

    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, customers_take_turns);
    tcase_add_test(t, one_customer_does_not_take_all_threads);
    tcase_add_test(t, one_customer_does_not_take_all_room);
    tcase_add_test(t, a_customers_reads_stay_in_order);
    tcase_add_test(t, nothing_is_forgotten);
    suite_add_tcase(s, t);
    return suite_run(s);
}
