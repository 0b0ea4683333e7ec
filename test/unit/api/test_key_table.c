#include "api/key_table.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libcommon/base/random.h"
#include "test/unit/suite.h"

#define MANY 30000
#define NOW INT64_C(1800000000000000)

#define SAMPLES 40000
#define REPEAT 8 /* searches of a sample: the clock is coarser than one */
#define TRIES 5  /* a busy machine may look like a difference, but not each time */

static struct key_table *table;

static void setup(void)
{
    table = key_table_new();
}

static void teardown(void)
{
    key_table_free(table);
}

/* A hash that says its number. */
static void hash_of(uint64_t n, uint8_t hash[KEY_HASH_LEN])
{
    uint64_t x = n;

    for (size_t i = 0; i < KEY_HASH_LEN; i++) {
        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        hash[i] = (uint8_t)(x >> 56);
    }
}

static void add(struct key_row row)
{
    if (!row.networks)
        row.networks = "";
    if (!row.scopes)
        row.scopes = KEY_SEND;
    ck_assert(key_table_add(table, &row));
}

static void add_number(uint64_t n)
{
    struct key_row row = {.id = n, .customer_id = (int64_t)n * 2};

    hash_of(n, row.hash);
    add(row);
}

static enum key_answer ask_from(uint64_t n, const char *peer, int64_t now_us)
{
    uint8_t hash[KEY_HASH_LEN];
    struct key_grant grant = {0};
    enum key_answer answer;

    hash_of(n, hash);
    answer = key_table_ask(table, hash, peer, now_us, &grant);
    ck_assert(answer == KEY_UNKNOWN ? !grant.key_id : grant.key_id == n);
    return answer;
}

START_TEST(an_empty_table_knows_nobody)
{
    uint8_t hash[KEY_HASH_LEN] = {0};
    struct key_grant grant;

    key_table_seal(table);
    ck_assert_int_eq(key_table_ask(table, hash, "127.0.0.1", NOW, &grant), KEY_UNKNOWN);
    memset(hash, 0xff, sizeof(hash));
    ck_assert_int_eq(key_table_ask(table, hash, "127.0.0.1", NOW, &grant), KEY_UNKNOWN);
    ck_assert_uint_eq(key_table_count(table), 0);
}
END_TEST

/* Of each number of keys, so that no end of a search is left out. */
START_TEST(each_key_is_found_and_no_other)
{
    static const size_t sizes[] = {1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 1000, MANY};

    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        key_table_free(table);
        table = key_table_new();
        for (uint64_t n = 1; n <= sizes[s]; n++)
            add_number(n);
        key_table_seal(table);
        ck_assert_uint_eq(key_table_count(table), sizes[s]);
        for (uint64_t n = 1; n <= sizes[s]; n++)
            ck_assert_int_eq(ask_from(n, NULL, NOW), KEY_OK);
        for (uint64_t n = sizes[s] + 1; n <= sizes[s] + 100; n++)
            ck_assert_int_eq(ask_from(n, NULL, NOW), KEY_UNKNOWN);
    }
}
END_TEST

START_TEST(hashes_that_differ_in_any_one_bit_are_others)
{
    struct key_row row = {.id = 7};
    struct key_grant grant;

    memset(row.hash, 0x55, sizeof(row.hash));
    add(row);
    for (size_t bit = 0; bit < 8 * KEY_HASH_LEN; bit += 3) { /* neighbours on both sides */
        struct key_row near = row;

        near.id = 100 + bit;
        near.hash[bit / 8] ^= (uint8_t)(1u << bit % 8);
        add(near);
    }
    key_table_seal(table);
    for (size_t bit = 0; bit < 8 * KEY_HASH_LEN; bit++) {
        uint8_t hash[KEY_HASH_LEN];

        memcpy(hash, row.hash, sizeof(hash));
        hash[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ck_assert_int_eq(key_table_ask(table, hash, NULL, NOW, &grant),
                         bit % 3 ? KEY_UNKNOWN : KEY_OK);
        ck_assert(bit % 3 || grant.key_id == 100 + bit);
    }
    ck_assert_int_eq(key_table_ask(table, row.hash, NULL, NOW, &grant), KEY_OK);
    ck_assert_uint_eq(grant.key_id, 7);
}
END_TEST

START_TEST(what_a_key_grants)
{
    struct key_row all = {.id = 1, .scopes = KEY_ADMIN | KEY_SEND};
    struct key_row bound = {.id = 2, .scopes = KEY_ADMIN | KEY_SEND, .customer_id = 42};
    struct key_grant grant;

    hash_of(1, all.hash);
    hash_of(2, bound.hash);
    add(all);
    add(bound);
    key_table_seal(table);
    ck_assert_int_eq(key_table_ask(table, all.hash, NULL, NOW, &grant), KEY_OK);
    ck_assert(grant.customer_id == 0 && grant.scopes == (KEY_ADMIN | KEY_SEND));
    ck_assert_int_eq(key_table_ask(table, bound.hash, NULL, NOW, &grant), KEY_OK);
    ck_assert(grant.customer_id == 42 && grant.scopes == KEY_SEND);
}
END_TEST

START_TEST(a_key_ends_when_its_time_has_come)
{
    struct key_row expires = {.id = 1, .expires_us = NOW};
    struct key_row revoked = {.id = 2, .revoked_us = NOW};
    struct key_row both = {.id = 3, .revoked_us = NOW, .expires_us = NOW - 10};
    struct key_row never = {.id = 4};

    hash_of(1, expires.hash);
    hash_of(2, revoked.hash);
    hash_of(3, both.hash);
    hash_of(4, never.hash);
    add(expires);
    add(revoked);
    add(both);
    add(never);
    key_table_seal(table);
    ck_assert_int_eq(ask_from(1, NULL, NOW - 1), KEY_OK);
    ck_assert_int_eq(ask_from(1, NULL, NOW), KEY_EXPIRED);
    ck_assert_int_eq(ask_from(2, NULL, NOW - 1), KEY_OK);
    ck_assert_int_eq(ask_from(2, NULL, NOW), KEY_REVOKED);
    ck_assert_int_eq(ask_from(3, NULL, NOW - 11), KEY_OK);
    ck_assert_int_eq(ask_from(3, NULL, NOW - 1), KEY_EXPIRED);
    ck_assert_int_eq(ask_from(3, NULL, NOW), KEY_REVOKED);
    ck_assert_int_eq(ask_from(4, NULL, INT64_MAX - 1), KEY_OK);
}
END_TEST

START_TEST(a_key_is_used_from_where_it_may_be)
{
    struct key_row some = {.id = 1, .networks = "10.0.0.0/8,192.0.2.7,2001:db8::/32"};
    struct key_row unreadable = {.id = 2, .networks = "10.0.0.0/8,everywhere"};
    struct key_row anywhere = {.id = 3};
    static const char *const in[] = {"10.1.2.3", "192.0.2.7", "2001:db8::1", "::ffff:10.1.2.3"};
    static const char *const out[] = {"11.1.2.3", "192.0.2.8", "2001:db9::1", "::ffff:11.1.2.3",
                                      "",         "10.1.2",    "localhost",   NULL};

    hash_of(1, some.hash);
    hash_of(2, unreadable.hash);
    hash_of(3, anywhere.hash);
    add(some);
    add(unreadable);
    add(anywhere);
    key_table_seal(table);
    for (size_t i = 0; i < sizeof(in) / sizeof(in[0]); i++) {
        ck_assert_int_eq(ask_from(1, in[i], NOW), KEY_OK);
        ck_assert_int_eq(ask_from(2, in[i], NOW), KEY_ELSEWHERE);
        ck_assert_int_eq(ask_from(3, in[i], NOW), KEY_OK);
    }
    for (size_t i = 0; i < sizeof(out) / sizeof(out[0]); i++) {
        ck_assert_int_eq(ask_from(1, out[i], NOW), KEY_ELSEWHERE);
        ck_assert_int_eq(ask_from(3, out[i], NOW), KEY_OK);
    }
}
END_TEST

/* ---- time ---- */

/* Two kinds of wrong hashes: next to one that is there, and anything. */
static void wrong_hash(bool near, uint8_t hash[KEY_HASH_LEN])
{
    hash_of(near ? 1 + random_u64() % MANY : MANY + 1 + random_u64() % MANY, hash);
    if (near)
        hash[KEY_HASH_LEN - 1] ^= 1;
}

static double time_of(const uint8_t hash[KEY_HASH_LEN])
{
    struct timespec from;
    struct timespec to;
    struct key_grant grant;
    unsigned known = 0;

    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int i = 0; i < REPEAT; i++)
        known += key_table_ask(table, hash, "127.0.0.1", NOW, &grant) != KEY_UNKNOWN;
    clock_gettime(CLOCK_MONOTONIC, &to);
    ck_assert_uint_eq(known, 0);
    return (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec);
}

struct sample {
    size_t n;
    double mean, squares; /* Welford */
};

static void take(struct sample *s, double ns)
{
    double off = ns - s->mean;

    s->n++;
    s->mean += off / (double)s->n;
    s->squares += off * (ns - s->mean);
}

static int by_value(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* Welch's t of the two kinds, taken in a random turn; the slowest tenth was interrupted, and is
 * left out. */
static double welch(void)
{
    static double ns[SAMPLES];
    static double sorted[SAMPLES];
    static bool near[SAMPLES];
    struct sample kinds[2] = {0};
    double variance = 0;

    for (size_t i = 0; i < SAMPLES; i++) {
        uint8_t hash[KEY_HASH_LEN];

        near[i] = random_u64() & 1;
        wrong_hash(near[i], hash);
        ns[i] = sorted[i] = time_of(hash);
    }
    qsort(sorted, SAMPLES, sizeof(sorted[0]), by_value);
    for (size_t i = 0; i < SAMPLES; i++)
        if (ns[i] <= sorted[SAMPLES / 10 * 9])
            take(&kinds[near[i]], ns[i]);
    for (int k = 0; k < 2; k++)
        variance += kinds[k].squares / (double)(kinds[k].n - 1) / (double)kinds[k].n;
    return (kinds[0].mean - kinds[1].mean) / sqrt(variance);
}

/* For a quiet machine, and not with the others: KEY_TIMING=1. */
START_TEST(time_does_not_tell_how_near_a_wrong_key_is)
{
    double t = INFINITY;

    for (uint64_t n = 1; n <= MANY; n++)
        add_number(n);
    key_table_seal(table);
    for (int i = 0; i < TRIES && fabs(t) >= 4.5; i++)
        t = welch();
    ck_assert_msg(fabs(t) < 4.5, "t = %.2f", t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("key_table");
    TCase *t = tcase_create("key_table");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 50);
    tcase_add_test(t, an_empty_table_knows_nobody);
    tcase_add_test(t, each_key_is_found_and_no_other);
    tcase_add_test(t, hashes_that_differ_in_any_one_bit_are_others);
    tcase_add_test(t, what_a_key_grants);
    tcase_add_test(t, a_key_ends_when_its_time_has_come);
    tcase_add_test(t, a_key_is_used_from_where_it_may_be);
    if (getenv("KEY_TIMING"))
        tcase_add_test(t, time_does_not_tell_how_near_a_wrong_key_is);
    suite_add_tcase(s, t);
    return suite_run(s);
}
