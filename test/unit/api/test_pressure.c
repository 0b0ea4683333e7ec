#include "api/pressure.h"

#include <check.h>
#include <semaphore.h>
#include <time.h>

#include "api/settings.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/pause.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

#define PATIENCE_SEC 20
#define SAMPLE_MS 100

static struct pressure *pressure;
static sem_t sampled;

static void note_sample(void)
{
    sem_post(&sampled);
}

/* The database's time, and of each lane how many wait and since when. */
#define SAMPLE(lanes) EXPECT("outbox_sample", .meanwhile = note_sample, .rows = "1000|" lanes)
#define NOTHING "0|\\N|0|\\N"

static void setup(void)
{
    fake_db_begin();
    sem_init(&sampled, 0, 0);
    api_settings.pressure_enabled = true;
    api_settings.pressure_sample_ms = SAMPLE_MS;
    api_settings.pressure_pending = 10;
    api_settings.pressure_age_sec = api_settings.pressure_depth = 0;
    EXPECT("schema_version", .rows = "999");
}

static void teardown(void)
{
    pressure_stop(pressure);
    sem_destroy(&sampled);
    fake_db_end();
}

static void wait_for_sample(void)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_SEC;
    ck_assert_int_eq(sem_timedwait(&sampled, &until), 0);
}

/* What is accepted counts as pending until somebody looks: not for the whole rest. */
START_TEST(traffic_ends_a_rest)
{
    int64_t began_ms;

    SAMPLE(NOTHING);
    SAMPLE(NOTHING);
    pressure = pressure_start();
    wait_for_sample();
    began_ms = clock_mono_ms();
    pressure_accepted(pressure, 11);
    ck_assert(pressure_high(pressure));
    wait_for_sample();
    ck_assert_int_lt(clock_mono_ms() - began_ms, 700); /* a rest is a second */
}
END_TEST

START_TEST(there_is_no_rest_while_sends_are_refused)
{
    int64_t began_ms;

    api_settings.pressure_age_sec = 5;
    SAMPLE("1|990.250000|0|\\N");
    SAMPLE("1|990.250000|0|\\N");
    SAMPLE(NOTHING);
    pressure = pressure_start();
    wait_for_sample();
    began_ms = clock_mono_ms();
    wait_for_sample();
    ck_assert(pressure_high(pressure));
    wait_for_sample();
    ck_assert_int_lt(clock_mono_ms() - began_ms, 700);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pressure");
    TCase *t = tcase_create("rest");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 2 * PATIENCE_SEC);
    tcase_add_test(t, traffic_ends_a_rest);
    tcase_add_test(t, there_is_no_rest_while_sends_are_refused);
    suite_add_tcase(s, t);
    return suite_run(s);
}
