#include <check.h>
#include <stdio.h>
#include <string.h>

#include "api/auth.h"
#include "test/unit/api/fake_ring.h"
#include "test/unit/suite.h"

#define PEER "192.0.2.7"
#define STALE_MS 30000

static struct auth *a;
static struct key_grant grant;
static char other[KEY_TEXT_MAX]; /* a key that the ring does not know */

static void setup(void)
{
    const struct auth_config config = {.ring = &fake_ring, .stale_ms = STALE_MS};
    uint8_t hash[KEY_HASH_LEN];

    fake_ring_make(7, KEY_SEND | KEY_READ);
    key_text_new(other, "cell", hash);
    a = auth_new(&config);
}

static void teardown(void)
{
    auth_free(a);
}

static enum auth_verdict judge(const char *authorization, const char *x_api_key, unsigned scope)
{
    return auth_judge(a, authorization, x_api_key, PEER, scope, &grant);
}

/* "<scheme><key>" */
static const char *with(const char *scheme, const char *key)
{
    static char text[2][KEY_TEXT_MAX + 32];
    static int turn;

    turn = !turn;
    snprintf(text[turn], sizeof(text[turn]), "%s%s", scheme, key);
    return text[turn];
}

START_TEST(a_key_comes_in_either_header)
{
    static const char *const schemes[] = {"Bearer ", "bearer ", "BEARER ", "Bearer   "};
    const char *key = fake_ring.text;

    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
        ck_assert_int_eq(judge(with(schemes[i], key), NULL, KEY_SEND), AUTH_OK);
    ck_assert_int_eq(judge(NULL, key, KEY_READ), AUTH_OK);
    ck_assert_int_eq(judge(with("Bearer ", key), key, KEY_READ), AUTH_OK);
    ck_assert_uint_eq(grant.key_id, 5);
    ck_assert_int_eq(grant.customer_id, 7);
    ck_assert_uint_eq(grant.scopes, KEY_SEND | KEY_READ);
    ck_assert_str_eq(fake_ring.peer, PEER);
    /* What somebody before us asks for is none of ours. */
    ck_assert_int_eq(judge("Basic YTpi", key, KEY_READ), AUTH_OK);
}
END_TEST

START_TEST(what_is_no_key_is_refused)
{
    const char *key = fake_ring.text;
    char cut[KEY_TEXT_MAX];

    ck_assert_int_eq(judge(NULL, NULL, KEY_SEND), AUTH_MISSING);
    ck_assert_int_eq(judge("", NULL, KEY_SEND), AUTH_MISSING);
    ck_assert_int_eq(judge("Basic YTpi", NULL, KEY_SEND), AUTH_MISSING);
    ck_assert_int_eq(judge(with("Bearers ", key), NULL, KEY_SEND), AUTH_MISSING);
    ck_assert_int_eq(judge(with("Bearer\t", key), NULL, KEY_SEND), AUTH_MISSING);
    ck_assert_int_eq(judge(key, NULL, KEY_SEND), AUTH_MISSING);
    ck_assert_int_eq(judge(with("Bearer ", key), other, KEY_SEND), AUTH_CONFLICTING);
    ck_assert_int_eq(judge(with("Bearer ", key), "", KEY_SEND), AUTH_CONFLICTING);
    ck_assert_int_eq(judge("Bearer", NULL, KEY_SEND), AUTH_MALFORMED);
    ck_assert_int_eq(judge("Bearer ", NULL, KEY_SEND), AUTH_MALFORMED);
    ck_assert_int_eq(judge(NULL, "", KEY_SEND), AUTH_MALFORMED);
    ck_assert_int_eq(judge(NULL, with(key, "x"), KEY_SEND), AUTH_MALFORMED);
    snprintf(cut, sizeof(cut), "%.*s", (int)strlen(key) - 1, key);
    ck_assert_int_eq(judge(NULL, cut, KEY_SEND), AUTH_MALFORMED);
}
END_TEST

START_TEST(the_ring_decides)
{
    static const struct {
        enum key_answer answer;
        enum auth_verdict verdict;
    } rows[] = {
        {KEY_OK, AUTH_OK},           {KEY_UNKNOWN, AUTH_UNKNOWN},     {KEY_EXPIRED, AUTH_EXPIRED},
        {KEY_REVOKED, AUTH_REVOKED}, {KEY_ELSEWHERE, AUTH_ELSEWHERE},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        fake_ring.answer = rows[i].answer;
        ck_assert_int_eq(judge(NULL, fake_ring.text, KEY_SEND), rows[i].verdict);
    }
    ck_assert_int_eq(judge(NULL, other, KEY_SEND), AUTH_UNKNOWN);
}
END_TEST

/* Each scope alone opens what asks for it, and nothing else. */
START_TEST(a_scope_opens_its_routes)
{
    for (unsigned has = KEY_SEND; has <= KEY_METRICS; has <<= 1) {
        fake_ring.grant.scopes = has;
        for (unsigned asked = KEY_SEND; asked <= KEY_METRICS; asked <<= 1)
            ck_assert_int_eq(judge(NULL, fake_ring.text, asked),
                             has == asked ? AUTH_OK : AUTH_SCOPE);
        ck_assert_int_eq(judge(NULL, fake_ring.text, 0), AUTH_OK);
    }
}
END_TEST

START_TEST(an_old_ring_is_believed_for_a_while)
{
    static const unsigned money[] = {KEY_SEND, KEY_TOPUP, KEY_ADMIN};

    fake_ring.grant.scopes = KEY_SEND | KEY_TOPUP | KEY_ADMIN | KEY_READ | KEY_METRICS;
    fake_ring.age_ms = AUTH_MONEY_STALE_MS;
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(judge(NULL, fake_ring.text, money[i]), AUTH_OK);
    fake_ring.age_ms = AUTH_MONEY_STALE_MS + 1;
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(judge(NULL, fake_ring.text, money[i]), AUTH_STALE);
    ck_assert_int_eq(judge(NULL, fake_ring.text, KEY_READ), AUTH_OK);
    fake_ring.age_ms = STALE_MS + 1;
    ck_assert_int_eq(judge(NULL, fake_ring.text, KEY_READ), AUTH_STALE);
    ck_assert_int_eq(judge(NULL, fake_ring.text, KEY_METRICS), AUTH_OK);
    fake_ring.age_ms = INT64_MAX; /* it was never filled: nobody can be told to be unknown */
    ck_assert_int_eq(judge(NULL, other, KEY_READ), AUTH_STALE);
    ck_assert_int_eq(judge(NULL, other, KEY_METRICS), AUTH_STALE);
    ck_assert_int_eq(judge(NULL, "nonsense", KEY_SEND), AUTH_MALFORMED);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("auth");
    TCase *tc = tcase_create("auth");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_key_comes_in_either_header);
    tcase_add_test(tc, what_is_no_key_is_refused);
    tcase_add_test(tc, the_ring_decides);
    tcase_add_test(tc, a_scope_opens_its_routes);
    tcase_add_test(tc, an_old_ring_is_believed_for_a_while);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
