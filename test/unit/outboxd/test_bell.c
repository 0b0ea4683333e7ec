#include "outboxd/bell.h"

#include <check.h>
#include <semaphore.h>

#include "libcommon/base/must.h"
#include "test/unit/fake_broker.h"
#include "test/unit/suite.h"

#define LONG_MS 10000

static char exchange[] = "messages";
static const struct broker_settings settings = {.exchange = exchange,
                                                .heartbeat_sec = 600,
                                                .connect_timeout_ms = LONG_MS,
                                                .rpc_timeout_ms = LONG_MS};
static struct pause relay;
static sem_t told, go_on;

static void heard(void *arg, unsigned what)
{
    (void)arg;
    (void)what;
}

static void hears(void *arg, bool yes)
{
    (void)arg;
    (void)yes;
    MUST(sem_post(&told) == 0);
    MUST(sem_wait(&go_on) == 0);
}

static struct bell *started(void)
{
    struct bell *b;

    b = bell_start(&settings, &(struct bell_ear){.heard = heard, .hears = hears}, &relay);
    MUST(sem_wait(&told) == 0);
    return b;
}

static void setup(void)
{
    fake_broker_begin();
    pause_init(&relay);
    MUST(sem_init(&told, 0, 0) == 0 && sem_init(&go_on, 0, 0) == 0);
}

static void teardown(void)
{
    sem_destroy(&go_on);
    sem_destroy(&told);
    pause_destroy(&relay);
    fake_broker_end();
}

START_TEST(a_bell_ends_when_it_is_told)
{
    struct bell *b = started();

    MUST(sem_post(&go_on) == 0);
    pause_stop(&relay);
    bell_wake(b);
    ck_assert(pause_ended(&relay, LONG_MS));
    bell_free(b);
}
END_TEST

/* As it may be when it connects: who stops the relay waits for no longer than they want to. */
START_TEST(a_bell_that_is_busy_is_not_waited_for)
{
    struct bell *b = started();

    pause_stop(&relay);
    bell_wake(b);
    ck_assert(!pause_ended(&relay, 1));
    MUST(sem_post(&go_on) == 0);
    ck_assert(pause_ended(&relay, LONG_MS));
    bell_free(b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bell");
    TCase *tc = tcase_create("end");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_bell_ends_when_it_is_told);
    tcase_add_test(tc, a_bell_that_is_busy_is_not_waited_for);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
