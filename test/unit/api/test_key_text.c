#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/key_scope.h"
#include "api/key_text.h"
#include "libcommon/base/buf.h"
#include "test/unit/suite.h"

#define KEYS 200
#define LIVE "msg_live_000A7dl5PEW67zZCpFU9uKaHnGgOvQKAR_1Emoax"

static bool reads(const char *text, size_t n)
{
    uint8_t hash[KEY_HASH_LEN];

    return key_text_read(text, n, hash);
}

/* Worked out by another program. */
START_TEST(keys_and_their_hashes_are_the_known_ones)
{
    static const struct {
        const char *text, *hash;
    } known[] = {
        {LIVE, "2cd283c6c12d0046d539d9bd9ba6f8bac935100183fe36a6d821835c84ed8cf5"},
        {"msg_t_2lFA6LboL2xx0ldQH2K1TdSrwuqMMiME3_0LTSb7",
         "9c41a087eed39bfc69f3f28597ed5c341212227539791ba81a204c30117dd5a0"},
        {"msg_0123456789abcdef_000000000000000000000000000000000_16OKZm",
         "eeacf3f89cc51b6e88acb4bb5f880aca4d3fc9826c10885cf37c3b034f2c2b75"},
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        uint8_t hash[KEY_HASH_LEN];
        struct buf hex = {0};

        ck_assert(key_text_read(known[i].text, strlen(known[i].text), hash));
        buf_put_hex(&hex, hash, sizeof(hash));
        ck_assert_str_eq(hex.data, known[i].hash);
        buf_free(&hex);
    }
}
END_TEST

START_TEST(a_new_key_reads_and_is_like_no_other)
{
    static char keys[KEYS][KEY_TEXT_MAX];
    uint8_t made[KEY_HASH_LEN];
    uint8_t hash[KEY_HASH_LEN];

    for (int i = 0; i < KEYS; i++) {
        key_text_new(keys[i], i % 2 ? "live" : "0123456789abcdef", made);
        ck_assert_uint_lt(strlen(keys[i]), KEY_TEXT_MAX);
        ck_assert(!strncmp(keys[i], i % 2 ? "msg_live_" : "msg_0123456789abcdef_", i % 2 ? 9 : 21));
        ck_assert(key_text_read(keys[i], strlen(keys[i]), hash));
        ck_assert_mem_eq(made, hash, sizeof(hash));
        for (int k = 0; k < i; k++)
            ck_assert_str_ne(keys[k], keys[i]);
    }
}
END_TEST

/* Every byte at every place, in keys of each length of cell. */
START_TEST(no_change_of_one_character_is_a_key)
{
    char text[KEY_TEXT_MAX];
    uint8_t hash[KEY_HASH_LEN];

    for (int length = 1; length <= KEY_CELL_MAX; length++) {
        char cell[KEY_CELL_MAX + 1] = {0};
        size_t n;

        memset(cell, 'a', (size_t)length);
        key_text_new(text, cell, hash);
        n = strlen(text);
        for (size_t at = 0; at < n; at++) {
            char right = text[at];

            for (int c = 0; c < 256; c++) {
                text[at] = (char)c;
                ck_assert_msg(reads(text, n) == (text[at] == right), "%d at %zu", c, at);
            }
            text[at] = right;
        }
    }
}
END_TEST

START_TEST(no_character_may_be_lost_added_or_change_places)
{
    static const char added[] = "0aZ_ \n";
    char text[KEY_TEXT_MAX];
    char other[KEY_TEXT_MAX + 1];
    uint8_t hash[KEY_HASH_LEN];
    size_t n;

    key_text_new(text, "live", hash);
    n = strlen(text);
    for (size_t at = 0; at <= n; at++) {
        for (const char *c = added; *c; c++) {
            memcpy(other, text, at);
            other[at] = *c;
            memcpy(other + at + 1, text + at, n - at);
            ck_assert_msg(!reads(other, n + 1), "%c more at %zu", *c, at);
        }
        ck_assert_msg(reads(text, at) == (at == n), "the first %zu", at);
        if (at == n)
            continue;
        memcpy(other, text, at);
        memcpy(other + at, text + at + 1, n - at - 1);
        ck_assert_msg(!reads(other, n - 1), "without %zu", at);
        if (at + 1 == n || text[at] == text[at + 1])
            continue;
        memcpy(other, text, n);
        other[at] = text[at + 1];
        other[at + 1] = text[at];
        ck_assert_msg(!reads(other, n), "%zu and the next", at);
    }
}
END_TEST

START_TEST(other_shapes_are_no_keys)
{
    static const char *const wrong[] = {
        "",
        "msg_",
        "msg_live_",
        "Bearer " LIVE,
        " " LIVE,
        LIVE "\n",
        LIVE LIVE,
        /* each with the checksum that fits what is before it */
        "msg__000A7dl5PEW67zZCpFU9uKaHnGgOvQKAR_0ImYl1",
        "MSG_live_000A7dl5PEW67zZCpFU9uKaHnGgOvQKAR_49F7nO",
        "msg_live_000A7dl5PEW67zZCpFU9uKaHnGgOvQKA-_2OrJA6",
        "msg_Live_000A7dl5PEW67zZCpFU9uKaHnGgOvQKAR_4Si5lA",
        "msg_0123456789abcdefg_000A7dl5PEW67zZCpFU9uKaHnGgOvQKAR_1mg9bD",
        "msg_live_000A7dl5PEW67zZCpFU9uKaHnGgOvQKA_3ehPnI",
        "msg_live_000A7dl5PEW67zZCpFU9uKaHnGgOvQKAR0_459oHn",
    };
    char large[4096];

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_msg(!reads(wrong[i], strlen(wrong[i])), "%s", wrong[i]);
    memset(large, '0', sizeof(large));
    for (size_t i = 0; i < strlen("msg_live_"); i++)
        large[i] = "msg_live_"[i];
    for (size_t n = 0; n < sizeof(large); n++)
        ck_assert(!reads(large, n));
}
END_TEST

START_TEST(cells)
{
    static const char *const wrong[] = {"", "Live", "li-ve", "li_ve", "live ", "0123456789abcdefg"};

    ck_assert(key_text_cell_ok("live"));
    ck_assert(key_text_cell_ok("0"));
    ck_assert(key_text_cell_ok("0123456789abcdef"));
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_msg(!key_text_cell_ok(wrong[i]), "%s", wrong[i]);
}
END_TEST

START_TEST(scopes_and_their_words)
{
    static const char *const wrong[] = {"",     "send,",     ",send",     "send,,read",
                                        "Send", "send,send", "send read", "all"};
    unsigned scopes;
    struct buf out = {0};

    ck_assert(key_scopes_read("read,send", &scopes));
    ck_assert_uint_eq(scopes, KEY_SEND | KEY_READ);
    key_scopes_put(&out, scopes);
    ck_assert_str_eq(out.data, "send,read");
    buf_reset(&out);
    ck_assert(key_scopes_read("send,read,topup,admin,metrics,webhooks", &scopes));
    key_scopes_put(&out, scopes);
    ck_assert_str_eq(out.data, "send,read,topup,admin,metrics,webhooks");
    buf_free(&out);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_msg(!key_scopes_read(wrong[i], &scopes), "%s", wrong[i]);
    ck_assert(!key_scopes_read("send,invoices,read", &scopes));
    ck_assert_uint_eq(scopes, KEY_SEND | KEY_READ);
    ck_assert_str_eq(key_scope_name(KEY_TOPUP), "topup");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("key_text");
    TCase *t = tcase_create("key_text");

    tcase_add_test(t, keys_and_their_hashes_are_the_known_ones);
    tcase_add_test(t, a_new_key_reads_and_is_like_no_other);
    tcase_add_test(t, no_change_of_one_character_is_a_key);
    tcase_add_test(t, no_character_may_be_lost_added_or_change_places);
    tcase_add_test(t, other_shapes_are_no_keys);
    tcase_add_test(t, cells);
    tcase_add_test(t, scopes_and_their_words);
    suite_add_tcase(s, t);
    return suite_run(s);
}
