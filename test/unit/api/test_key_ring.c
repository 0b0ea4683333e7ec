#include "api/key_ring.h"

#include <check.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/pause.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

#define PATIENCE_SEC 20
#define REFRESH_MS 50
#define SWAPS 20
#define ASKERS 4

/* id, hash, label, customer, scopes, networks, created, expires, revoked, replaced by */
#define HASH(eight) eight eight eight eight eight eight eight eight
#define HASH_A HASH("AAAAAAAA")
#define HASH_B HASH("BBBBBBBB")
#define KEY_A "1|" HASH_A "|a|0|send,read||1|\\N|\\N|\\N"
#define KEY_B "2|" HASH_B "|b|42|read||1|\\N|\\N|\\N"
#define KEY_A_REVOKED "1|" HASH_A "|a|0|send,read||1|\\N|900|2"
#define KEY_B_FOR_TWO_SECONDS "2|" HASH_B "|b|42|read||1|3000000|\\N|\\N"

static const struct db_settings settings;
static struct key_ring *ring;
static sem_t reached, go_on;

/* While a statement runs: the test looks at what there is before it, and lets it go on. */
static void stop_here(void)
{
    sem_post(&reached);
    sem_wait(&go_on);
}

static void setup(void)
{
    fake_db_begin();
    sem_init(&reached, 0, 0);
    sem_init(&go_on, 0, 0);
    EXPECT("schema_version", .rows = "999");
}

static void teardown(void)
{
    sem_post(&go_on); /* each script ends with a stop: nothing more is asked for until then */
    key_ring_free(ring);
    sem_destroy(&reached);
    sem_destroy(&go_on);
    fake_db_end();
}

static void wait_until_reached(void)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_SEC;
    ck_assert_int_eq(sem_timedwait(&reached, &until), 0);
}

static enum key_answer ask(uint8_t byte, struct key_grant *grant)
{
    uint8_t hash[KEY_HASH_LEN];

    memset(hash, byte, sizeof(hash));
    return key_ring_ask(ring, hash, "127.0.0.1", grant);
}

START_TEST(nobody_is_known_before_the_first_reading)
{
    struct key_grant grant;

    EXPECT("api_keys_look", .error = FAKE_DEADLOCK, .meanwhile = stop_here);
    ring = key_ring_start(&settings, REFRESH_MS);
    ck_assert_int_eq(ask(0xaa, &grant), KEY_UNKNOWN);
    ck_assert(key_ring_age_ms(ring) == INT64_MAX);
    wait_until_reached();
    ck_assert(key_ring_age_ms(ring) == INT64_MAX);
}
END_TEST

START_TEST(who_awaits_the_first_reading_knows_them)
{
    struct key_grant grant;

    EXPECT("api_keys_look", .rows = "7|500|1000");
    EXPECT("api_keys_read", .rows = KEY_A);
    EXPECT("api_keys_look", .rows = "7|500|1000", .meanwhile = stop_here);
    ring = key_ring_start(&settings, REFRESH_MS);
    key_ring_await(ring, PATIENCE_SEC * 1000);
    ck_assert_int_eq(ask(0xaa, &grant), KEY_OK);
    wait_until_reached();
}
END_TEST

START_TEST(a_first_try_that_fails_or_lasts_ends_the_wait)
{
    int64_t began_ms = clock_mono_ms();

    EXPECT("api_keys_look", .error = FAKE_DEADLOCK, .meanwhile = stop_here);
    EXPECT("api_keys_look", .error = FAKE_DEADLOCK, .meanwhile = stop_here);
    ring = key_ring_start(&settings, REFRESH_MS);
    wait_until_reached();
    key_ring_await(ring, 1);
    sem_post(&go_on);
    key_ring_await(ring, PATIENCE_SEC * 1000);
    ck_assert(key_ring_age_ms(ring) == INT64_MAX);
    ck_assert_int_lt(clock_mono_ms() - began_ms, PATIENCE_SEC * 1000);
    wait_until_reached();
}
END_TEST

START_TEST(a_change_of_the_counter_brings_the_new_keys)
{
    struct key_grant grant;

    EXPECT("api_keys_look", .rows = "7|500|1000");
    EXPECT("api_keys_read", .rows = KEY_A "\n" KEY_B, .has = {"FROM api_keys", "LIMIT"});
    EXPECT("api_keys_look", .rows = "7|500|1000", .meanwhile = stop_here); /* as it was */
    EXPECT("api_keys_look", .rows = "8|501|1000");
    EXPECT("api_keys_read", .rows = KEY_A_REVOKED);
    EXPECT("api_keys_look", .rows = "8|501|1000", .meanwhile = stop_here);
    ring = key_ring_start(&settings, REFRESH_MS);
    wait_until_reached();
    ck_assert_int_eq(ask(0xaa, &grant), KEY_OK);
    ck_assert(grant.key_id == 1 && grant.customer_id == 0 && grant.scopes == (KEY_SEND | KEY_READ));
    ck_assert_int_eq(ask(0xbb, &grant), KEY_OK);
    ck_assert(grant.key_id == 2 && grant.customer_id == 42 && grant.scopes == KEY_READ);
    sem_post(&go_on);
    wait_until_reached();
    ck_assert_int_eq(ask(0xaa, &grant), KEY_REVOKED);
    ck_assert_int_eq(ask(0xbb, &grant), KEY_UNKNOWN);
}
END_TEST

/* The counter of a database that was loaded from a backup stands lower, or where it stood. */
START_TEST(another_time_of_change_is_a_change)
{
    struct key_grant grant;

    EXPECT("api_keys_look", .rows = "7|500|1000");
    EXPECT("api_keys_read", .rows = KEY_A);
    EXPECT("api_keys_look", .rows = "7|499|1000");
    EXPECT("api_keys_read", .rows = KEY_B);
    EXPECT("api_keys_look", .rows = "6|400|1000");
    EXPECT("api_keys_read", .rows = KEY_A);
    EXPECT("api_keys_look", .rows = "\\N|\\N|1000");
    EXPECT("api_keys_read", .rows = "");
    EXPECT("api_keys_look", .rows = "\\N|\\N|1000", .meanwhile = stop_here);
    ring = key_ring_start(&settings, REFRESH_MS);
    wait_until_reached();
    ck_assert_int_eq(ask(0xaa, &grant), KEY_UNKNOWN);
    ck_assert_int_lt(key_ring_age_ms(ring), 1000 * PATIENCE_SEC);
}
END_TEST

/* Old keys stay, and their age says how old. */
START_TEST(a_failure_keeps_what_there_was)
{
    struct key_grant grant;
    int64_t age_ms;

    EXPECT("api_keys_look", .rows = "7|500|1000");
    EXPECT("api_keys_read", .rows = KEY_A);
    EXPECT("api_keys_look", .error = FAKE_LOST);
    EXPECT("api_keys_look", .rows = "8|501|1000");
    EXPECT("api_keys_read", .error = FAKE_LOST); /* in the middle of a reading */
    EXPECT("api_keys_look", .rows = "8|501|1000", .meanwhile = stop_here);
    EXPECT("api_keys_read", .rows = KEY_B);
    EXPECT("api_keys_look", .rows = "8|501|1000", .meanwhile = stop_here);
    ring = key_ring_start(&settings, REFRESH_MS);
    wait_until_reached();
    age_ms = key_ring_age_ms(ring);
    ck_assert(age_ms >= 2 * REFRESH_MS && age_ms < 1000 * PATIENCE_SEC);
    ck_assert_int_eq(ask(0xaa, &grant), KEY_OK);
    sem_post(&go_on);
    wait_until_reached();
    ck_assert_int_eq(ask(0xaa, &grant), KEY_UNKNOWN);
    ck_assert_int_eq(ask(0xbb, &grant), KEY_OK);
}
END_TEST

/* Ours may be hours off: what counts is how long the database says it is until then. */
START_TEST(expiry_follows_the_clock_of_the_database)
{
    struct key_grant grant;
    int64_t give_up_ms = clock_mono_ms() + 1000 * PATIENCE_SEC;

    EXPECT("api_keys_look", .rows = "7|500|1000000");
    EXPECT("api_keys_read", .rows = KEY_B_FOR_TWO_SECONDS);
    EXPECT("api_keys_look", .rows = "7|500|1050000", .meanwhile = stop_here);
    ring = key_ring_start(&settings, REFRESH_MS);
    wait_until_reached();
    ck_assert_int_eq(ask(0xbb, &grant), KEY_OK);
    while (ask(0xbb, &grant) == KEY_OK && clock_mono_ms() < give_up_ms)
        pause_sleep(10);
    ck_assert_int_eq(ask(0xbb, &grant), KEY_EXPIRED);
}
END_TEST

/* ---- swaps under load ---- */

static _Atomic bool asking;
static _Atomic unsigned wrong;

/* One of the two is always there. */
static void *ask_on(void *arg)
{
    struct key_grant grant;

    (void)arg;
    while (atomic_load(&asking)) {
        enum key_answer answer = ask(0xaa, &grant);

        if (answer != KEY_OK && answer != KEY_REVOKED)
            atomic_fetch_add(&wrong, 1);
        if (answer == KEY_OK && (grant.key_id != 1 || grant.scopes != (KEY_SEND | KEY_READ)))
            atomic_fetch_add(&wrong, 1);
        key_ring_age_ms(ring);
    }
    return NULL;
}

START_TEST(who_asks_sees_the_old_keys_or_the_new)
{
    static char looks[SWAPS][32];
    pthread_t threads[ASKERS];

    for (int i = 0; i < SWAPS; i++) {
        snprintf(looks[i], sizeof(looks[i]), "%d|%d|1000", i + 1, i + 1);
        EXPECT("api_keys_look", .rows = looks[i], .meanwhile = i == 1 ? stop_here : NULL);
        EXPECT("api_keys_read", .rows = i % 2 ? KEY_A "\n" KEY_B : KEY_A_REVOKED);
    }
    EXPECT("api_keys_look", .rows = looks[SWAPS - 1], .meanwhile = stop_here);
    ring = key_ring_start(&settings, REFRESH_MS);
    wait_until_reached();
    atomic_store(&asking, true);
    for (int i = 0; i < ASKERS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, ask_on, NULL), 0);
    sem_post(&go_on);
    wait_until_reached();
    atomic_store(&asking, false);
    for (int i = 0; i < ASKERS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_eq(atomic_load(&wrong), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("key_ring");
    TCase *t = tcase_create("key_ring");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 2 * PATIENCE_SEC);
    tcase_add_test(t, nobody_is_known_before_the_first_reading);
    tcase_add_test(t, who_awaits_the_first_reading_knows_them);
    tcase_add_test(t, a_first_try_that_fails_or_lasts_ends_the_wait);
    tcase_add_test(t, a_change_of_the_counter_brings_the_new_keys);
    tcase_add_test(t, another_time_of_change_is_a_change);
    tcase_add_test(t, a_failure_keeps_what_there_was);
    tcase_add_test(t, expiry_follows_the_clock_of_the_database);
    tcase_add_test(t, who_asks_sees_the_old_keys_or_the_new);
    suite_add_tcase(s, t);
    return suite_run(s);
}
