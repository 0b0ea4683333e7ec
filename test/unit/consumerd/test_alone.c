#include "consumerd/alone.h"

#include <check.h>
#include <poll.h>

#include "libcommon/base/clock.h"
#include "test/unit/suite.h"

#define NORMAL MESSAGE_NORMAL
#define EXPRESS MESSAGE_EXPRESS

static struct job_queue *queues[MESSAGE_LANES];
static struct alone *alone;

static void make(int64_t closed_ms_max)
{
    for (int lane = 0; lane < MESSAGE_LANES; lane++)
        queues[lane] = job_queue_new();
    alone = alone_new(queues, closed_ms_max);
}

static void setup(void)
{
    make(ALONE_CLOSED_MS_MAX);
}

static void teardown(void)
{
    alone_free(alone);
    for (int lane = 0; lane < MESSAGE_LANES; lane++)
        job_queue_free(queues[lane]);
}

/* Since it was last asked. */
static bool poked(enum message_type lane)
{
    struct job_list none = TAILQ_HEAD_INITIALIZER(none);
    struct pollfd p = {.fd = job_queue_fd(queues[lane]), .events = POLLIN};
    bool yes = poll(&p, 1, 0) > 0;

    job_queue_take(queues[lane], &none);
    return yes;
}

static void wait_until_open_is_over(void)
{
    while (clock_mono_ms() < alone_due_ms(alone))
        poll(NULL, 0, 1);
}

START_TEST(lanes_join_as_long_as_nobody_is_suspected)
{
    ck_assert(alone_join(alone, NORMAL));
    ck_assert(alone_join(alone, EXPRESS));
    ck_assert(alone_may_join(alone, NORMAL));
}
END_TEST

/* Nobody waits for the normal lane's hand but the suspect. */
START_TEST(express_is_the_last_to_stop)
{
    ck_assert(alone_join(alone, NORMAL));
    ck_assert(alone_join(alone, EXPRESS));
    alone_tell(alone, NORMAL, true, true);
    ck_assert(!alone_may_join(alone, NORMAL));
    ck_assert(alone_join(alone, EXPRESS));
    ck_assert(!alone_may_begin(alone, NORMAL));
    alone_tell(alone, NORMAL, false, true);
    ck_assert(!alone_join(alone, EXPRESS));
    ck_assert(!alone_may_begin(alone, NORMAL));
    poked(NORMAL);
    alone_tell(alone, EXPRESS, false, false);
    ck_assert(poked(NORMAL));
    ck_assert(alone_begin(alone, NORMAL));
}
END_TEST

START_TEST(beside_a_suspect_nobody_has_anything)
{
    ck_assert(alone_begin(alone, EXPRESS));
    ck_assert(!alone_join(alone, NORMAL));
    ck_assert(!alone_join(alone, EXPRESS));
    ck_assert(!alone_begin(alone, NORMAL));
    alone_tell(alone, EXPRESS, true, false);
    ck_assert(!alone_join(alone, NORMAL));
    ck_assert(!poked(NORMAL));
    alone_tell(alone, EXPRESS, false, false);
    ck_assert(poked(NORMAL));
    ck_assert(alone_join(alone, NORMAL));
}
END_TEST

START_TEST(what_was_joined_counts_until_it_is_told_otherwise)
{
    ck_assert(alone_join(alone, EXPRESS));
    ck_assert(!alone_begin(alone, NORMAL));
    alone_tell(alone, EXPRESS, false, false);
    ck_assert(alone_begin(alone, NORMAL));
}
END_TEST

START_TEST(quick_suspects_follow_one_another)
{
    for (int i = 0; i < 3; i++) {
        ck_assert(alone_begin(alone, NORMAL));
        alone_tell(alone, NORMAL, true, true);
        alone_tell(alone, NORMAL, false, true);
    }
    ck_assert(!alone_may_join(alone, NORMAL));
}
END_TEST

START_TEST(after_a_while_it_is_open_for_as_long)
{
    int64_t began_ms = clock_mono_ms();

    ck_assert(alone_begin(alone, NORMAL));
    poll(NULL, 0, 220);
    alone_tell(alone, NORMAL, false, true);
    ck_assert(!alone_may_begin(alone, NORMAL));
    ck_assert(alone_may_join(alone, NORMAL) && alone_may_join(alone, EXPRESS));
    ck_assert_int_ge(alone_due_ms(alone), began_ms + 2 * 220);
    wait_until_open_is_over();
    ck_assert(!alone_may_join(alone, EXPRESS));
    ck_assert(alone_may_begin(alone, NORMAL));
}
END_TEST

START_TEST(two_lanes_with_suspects_take_turns)
{
    alone_tell(alone, NORMAL, false, true);
    ck_assert(alone_begin(alone, EXPRESS));
    alone_tell(alone, EXPRESS, false, false);
    alone_tell(alone, EXPRESS, false, true);
    wait_until_open_is_over();
    ck_assert(!alone_begin(alone, EXPRESS));
    poked(EXPRESS);
    alone_tell(alone, NORMAL, false, false); /* they are gone */
    ck_assert(poked(EXPRESS));
    ck_assert(alone_begin(alone, EXPRESS));
}
END_TEST

/* Its suspects follow one another as the lane has them: the next one is begun in the turn that
 * settles the last one. */
START_TEST(a_lane_with_many_suspects_is_not_alone_for_ever)
{
    alone_tell(alone, NORMAL, false, true);
    ck_assert(alone_begin(alone, NORMAL));
    alone_tell(alone, NORMAL, true, true);
    ck_assert(alone_begin(alone, NORMAL));
    poll(NULL, 0, 220);
    ck_assert(!alone_begin(alone, NORMAL));
    ck_assert(alone_may_begin(alone, NORMAL)); /* a turn, to say so */
    alone_tell(alone, NORMAL, false, true);
    ck_assert(alone_may_join(alone, EXPRESS));
    ck_assert(!alone_may_begin(alone, NORMAL));
}
END_TEST

START_TEST(a_lane_that_is_alone_makes_way_for_the_suspects_of_the_other)
{
    ck_assert(alone_begin(alone, NORMAL));
    alone_tell(alone, NORMAL, true, true);
    alone_tell(alone, EXPRESS, false, true);
    ck_assert(!alone_begin(alone, NORMAL));
    alone_tell(alone, NORMAL, false, true);
    wait_until_open_is_over();
    ck_assert(!alone_begin(alone, NORMAL));
    ck_assert(alone_begin(alone, EXPRESS));
}
END_TEST

START_TEST(a_suspect_that_cannot_be_begun_closes_for_so_long_only)
{
    teardown();
    make(300);
    ck_assert(alone_join(alone, NORMAL));
    alone_tell(alone, EXPRESS, false, true);
    for (int i = 0; i < 2; i++) {
        ck_assert(!alone_may_join(alone, NORMAL));
        while (!alone_may_join(alone, NORMAL))
            poll(NULL, 0, 1);
        ck_assert(!alone_may_begin(alone, EXPRESS)); /* beside that it is not begun either */
        while (alone_may_join(alone, NORMAL))
            poll(NULL, 0, 1);
    }
    alone_tell(alone, NORMAL, false, false);
    ck_assert(alone_begin(alone, EXPRESS));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("alone");
    TCase *t = tcase_create("alone");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, lanes_join_as_long_as_nobody_is_suspected);
    tcase_add_test(t, express_is_the_last_to_stop);
    tcase_add_test(t, beside_a_suspect_nobody_has_anything);
    tcase_add_test(t, what_was_joined_counts_until_it_is_told_otherwise);
    tcase_add_test(t, quick_suspects_follow_one_another);
    tcase_add_test(t, after_a_while_it_is_open_for_as_long);
    tcase_add_test(t, two_lanes_with_suspects_take_turns);
    tcase_add_test(t, a_lane_with_many_suspects_is_not_alone_for_ever);
    tcase_add_test(t, a_lane_that_is_alone_makes_way_for_the_suspects_of_the_other);
    tcase_add_test(t, a_suspect_that_cannot_be_begun_closes_for_so_long_only);
    suite_add_tcase(s, t);
    return suite_run(s);
}
