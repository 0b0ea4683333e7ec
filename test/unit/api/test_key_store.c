#include "api/key_store.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

#define HASH "1111111111111111111111111111111111111111111111111111111111111111"
#define LOOKS_FOR_HASH "SELECT id FROM api_keys WHERE hash=x'" HASH "'"

static struct db *db;
static struct err err;
static uint8_t hash[KEY_HASH_LEN];
static uint64_t id;

static void setup(void)
{
    fake_db_begin();
    key_store_register();
    db = fake_db_new();
    memset(hash, 0x11, sizeof(hash));
    id = 0;
}

static void teardown(void)
{
    db_free(db);
    fake_db_end();
}

/* ---- what there can be ---- */

static const struct {
    struct key_wish wish;
    bool ok;
} wishes[] = {
    {{.label = "shop", .scopes = KEY_SEND, .networks = ""}, true},
    {{.label = "Büro ½", .scopes = KEY_ADMIN, .networks = "10.0.0.0/8,::1"}, true},
    {{.label = "shop", .scopes = KEY_SEND | KEY_TOPUP, .customer_id = 7, .networks = ""}, true},
    {{.label = "shop", .scopes = KEY_SEND | KEY_ADMIN, .customer_id = 7, .networks = ""}, false},
    {{.label = "shop", .scopes = KEY_SEND, .customer_id = -1, .networks = ""}, false},
    {{.label = "shop", .scopes = 0, .networks = ""}, false},
    {{.label = "", .scopes = KEY_SEND, .networks = ""}, false},
    {{.scopes = KEY_SEND, .networks = ""}, false},
    {{.label = "a\nb", .scopes = KEY_SEND, .networks = ""}, false},
    {{.label = "a\x1b[31m", .scopes = KEY_SEND, .networks = ""}, false},
    {{.label = "a\x7f", .scopes = KEY_SEND, .networks = ""}, false},
    {{.label = "a\xc2\x9b", .scopes = KEY_SEND, .networks = ""}, false}, /* CSI of 8 bits */
    {{.label = "a\xff", .scopes = KEY_SEND, .networks = ""}, false},
    {{.label = "shop", .scopes = KEY_SEND, .networks = "10.0.0.1/8"}, false},
    {{.label = "shop", .scopes = KEY_SEND, .networks = "x'; DROP TABLE api_keys"}, false},
};

START_TEST(a_wish)
{
    ck_assert_msg(!key_wish_fault(&wishes[_i].wish) == wishes[_i].ok, "%s", wishes[_i].wish.label);
}
END_TEST

START_TEST(long_words_are_no_wish)
{
    char label[KEY_LABEL_MAX + 2] = {0};
    char networks[KEY_NETWORKS_MAX + 16] = "10.0.0.1";
    struct key_wish wish = {.label = label, .scopes = KEY_SEND, .networks = ""};

    memset(label, 'x', KEY_LABEL_MAX);
    ck_assert(!key_wish_fault(&wish));
    label[KEY_LABEL_MAX] = 'x';
    ck_assert(key_wish_fault(&wish));
    wish.label = "shop";
    wish.networks = networks;
    while (strlen(networks) <= KEY_NETWORKS_MAX) {
        ck_assert(!key_wish_fault(&wish));
        snprintf(networks + strlen(networks), sizeof(networks) - strlen(networks), ",10.0.0.1");
    }
    ck_assert(key_wish_fault(&wish));
}
END_TEST

/* ---- changes ---- */

static void expect_counter(void)
{
    EXPECT("api_keys_change", .has = {"change_counters", "value=value+1"});
}

/* Its customer lives here. */
static void expect_home(void)
{
    EXPECT("customer_moves_read", .has = {"customer_id=7"}, .rows = "");
}

START_TEST(a_key_is_made_once_in_one_transaction_with_the_counter)
{
    struct key_wish wish = {.label = "it's",
                            .scopes = KEY_SEND | KEY_READ,
                            .customer_id = 7,
                            .networks = "10.0.0.0/8",
                            .expires_sec = 90};

    expect_counter();
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "");
    expect_home();
    EXPECT("api_keys_change", .has = {"COUNT(*)"}, .rows = "0");
    EXPECT("api_keys_change", .has = {"INSERT INTO api_keys", "x'" HASH "','it\\'s',7,'send,read',",
                                      "'10.0.0.0/8',NOW(6)+INTERVAL 90 SECOND)"});
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "5");
    EXPECT("commit");
    ck_assert_int_eq(key_store_create(db, &wish, hash, &id, &err), 0);
    ck_assert_uint_eq(id, 5);
}
END_TEST

/* The commit went through and its answer was lost: asked again, it is found. */
START_TEST(a_key_whose_commit_was_lost_is_found_again)
{
    struct key_wish wish = {.label = "shop", .scopes = KEY_SEND, .networks = ""};

    expect_counter();
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "");
    EXPECT("api_keys_change", .has = {"COUNT(*)"}, .rows = "0");
    EXPECT("api_keys_change", .has = {"INSERT INTO api_keys"});
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "5");
    EXPECT("commit", .error = FAKE_LOST);
    ck_assert_int_eq(key_store_create(db, &wish, hash, &id, &err), -1);
    ck_assert_int_eq(err.kind, ERR_UNKNOWN);
    ck_assert_int_eq(db_acquire(db, &err), 0);
    expect_counter();
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "5");
    EXPECT("commit");
    ck_assert_int_eq(key_store_create(db, &wish, hash, &id, &err), 0);
    ck_assert_uint_eq(id, 5);
}
END_TEST

START_TEST(there_are_not_more_keys_than_replicas_hold)
{
    struct key_wish wish = {.label = "shop", .scopes = KEY_SEND, .networks = ""};

    expect_counter();
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "");
    EXPECT("api_keys_change", .has = {"COUNT(*)"}, .rows = "100000");
    ck_assert_int_eq(key_store_create(db, &wish, hash, &id, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    ck_assert(strstr(fake_db_ran(), "rollback"));
}
END_TEST

START_TEST(what_cannot_be_is_not_asked_for)
{
    struct key_wish wish = {.label = "shop", .scopes = KEY_ADMIN, .customer_id = 7, .networks = ""};

    ck_assert_int_eq(key_store_create(db, &wish, hash, &id, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    ck_assert_str_eq(fake_db_ran(), "");
}
END_TEST

START_TEST(only_a_key_that_is_there_is_revoked)
{
    expect_counter();
    EXPECT("api_keys_change", .has = {"SELECT customer_id", "WHERE id=5"}, .rows = "7");
    expect_home();
    EXPECT("api_keys_change", .has = {"SELECT id FROM api_keys WHERE id=5"}, .rows = "5");
    EXPECT("api_keys_change", .has = {"SET revoked_at=NOW(6)", "WHERE id=5 AND",
                                      "revoked_at IS NULL OR revoked_at>NOW(6)"});
    EXPECT("commit");
    ck_assert_int_eq(key_store_revoke(db, 5, &err), 0);
    expect_counter();
    EXPECT("api_keys_change", .has = {"SELECT customer_id", "WHERE id=6"}, .rows = "");
    EXPECT("api_keys_change", .has = {"WHERE id=6"}, .rows = "");
    ck_assert_int_eq(key_store_revoke(db, 6, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
}
END_TEST

/* It was copied there, and is changed there. */
START_TEST(who_has_moved_has_left_the_keys_as_they_were)
{
    struct key_wish wish = {.label = "shop", .scopes = KEY_SEND, .customer_id = 7, .networks = ""};

    expect_counter();
    EXPECT("api_keys_change", .has = {"SELECT customer_id", "WHERE id=5"}, .rows = "7");
    EXPECT("customer_moves_read", .rows = "7|4|b|2026-01-01 00:00:00");
    ck_assert_int_eq(key_store_revoke(db, 5, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    ck_assert_ptr_nonnull(strstr(err.msg, "to cell b"));
    expect_counter();
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "");
    EXPECT("customer_moves_read", .rows = "7|2|b|2026-01-01 00:00:00");
    ck_assert_int_eq(key_store_create(db, &wish, hash, &id, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
}
END_TEST

START_TEST(a_rotation_leaves_the_old_key_its_time)
{
    expect_counter();
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "");
    EXPECT("api_keys_change", .has = {"SELECT customer_id"}, .rows = "0"); /* everybody's */
    EXPECT("api_keys_change", .has = {"revoked_at IS NOT NULL", "id=5"}, .rows = "0");
    EXPECT("api_keys_change",
           .has = {"INSERT INTO api_keys", "SELECT x'" HASH "',label,customer_id,scopes,networks,",
                   "TIMESTAMPDIFF(MICROSECOND,created_at,expires_at)", "WHERE id=5"});
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "6");
    EXPECT("api_keys_change",
           .has = {"revoked_at=NOW(6)+INTERVAL 60 SECOND", "replaced_by=6", "WHERE id=5"});
    EXPECT("commit");
    ck_assert_int_eq(key_store_rotate(db, 5, 60, hash, &id, &err), 0);
    ck_assert_uint_eq(id, 6);
}
END_TEST

START_TEST(what_is_dead_is_not_rotated)
{
    expect_counter();
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "");
    EXPECT("api_keys_change", .has = {"SELECT customer_id"}, .rows = "0");
    EXPECT("api_keys_change", .has = {"revoked_at IS NOT NULL"}, .rows = "1");
    ck_assert_int_eq(key_store_rotate(db, 5, 0, hash, &id, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    expect_counter();
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "");
    EXPECT("api_keys_change", .has = {"SELECT customer_id"}, .rows = "");
    EXPECT("api_keys_change", .has = {"revoked_at IS NOT NULL"}, .rows = "");
    ck_assert_int_eq(key_store_rotate(db, 5, 0, hash, &id, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
}
END_TEST

/* ---- the first key ---- */

START_TEST(the_first_admin_key_is_made)
{
    bool made;

    EXPECT("leader", .has = {"GET_LOCK"}, .rows = "1");
    expect_counter();
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "");
    EXPECT("api_keys_change", .has = {"FIND_IN_SET('admin',scopes)"}, .rows = "");
    EXPECT("api_keys_change", .has = {"INSERT INTO api_keys", "send,read,topup,admin,metrics"});
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "1");
    EXPECT("commit");
    EXPECT("leader", .has = {"RELEASE_LOCK"}, .rows = "1");
    ck_assert_int_eq(key_store_bootstrap(db, hash, &id, &made, &err), 0);
    ck_assert(made && id == 1);
}
END_TEST

START_TEST(a_second_one_is_not)
{
    bool made;

    EXPECT("leader", .has = {"GET_LOCK"}, .rows = "1");
    expect_counter();
    EXPECT("api_keys_change", .has = {LOOKS_FOR_HASH}, .rows = "");
    EXPECT("api_keys_change", .has = {"FIND_IN_SET('admin',scopes)"}, .rows = "1");
    EXPECT("leader", .has = {"RELEASE_LOCK"}, .rows = "1");
    ck_assert_int_eq(key_store_bootstrap(db, hash, &id, &made, &err), 0);
    ck_assert(!made && id == 0);
    ck_assert(strstr(fake_db_ran(), "rollback") && !strstr(fake_db_ran(), "commit"));
}
END_TEST

START_TEST(nor_is_one_while_another_process_makes_it)
{
    bool made;

    EXPECT("leader", .has = {"GET_LOCK"}, .rows = "0");
    ck_assert_int_eq(key_store_bootstrap(db, hash, &id, &made, &err), -1);
    ck_assert_int_eq(err.kind, ERR_RETRY);
}
END_TEST

/* ---- reading ---- */

static size_t rows;

static bool count_row(const struct key_row *row, void *arg)
{
    ck_assert_ptr_null(arg);
    ck_assert_uint_eq(row->id, ++rows);
    return true;
}

START_TEST(keys_are_read_page_by_page)
{
    static char page[1000 * 120];
    size_t at = 0;

    for (int i = 1; i <= 1000; i++)
        at += (size_t)snprintf(page + at, sizeof(page) - at,
                               "%s%d|" HASH "|l|0|send||1|\\N|\\N|\\N", i > 1 ? "\n" : "", i);
    rows = 0;
    EXPECT("api_keys_read", .has = {"id>0 ORDER BY id LIMIT 1000"}, .rows = page);
    EXPECT("api_keys_read", .has = {"id>1000 ORDER BY id LIMIT 1000"},
           .rows = "1001|" HASH "|l|0|send||1|\\N|\\N|\\N");
    ck_assert_int_eq(key_store_each(db, false, count_row, NULL, &err), 0);
    ck_assert_uint_eq(rows, 1001);
}
END_TEST

static bool check_row(const struct key_row *row, void *arg)
{
    (void)arg;
    ck_assert(row->id == 3 && row->customer_id == 42 && row->scopes == (KEY_SEND | KEY_READ));
    ck_assert_mem_eq(row->hash, hash, sizeof(hash));
    ck_assert_str_eq(row->label, "shop");
    ck_assert_str_eq(row->networks, "10.0.0.0/8");
    ck_assert(row->created_us == 10 && row->expires_us == 20 && row->revoked_us == 30 &&
              row->replaced_by == 4);
    rows++;
    return false; /* memory is out */
}

START_TEST(what_a_row_says)
{
    rows = 0;
    EXPECT("api_keys_read", .has = {"revoked_at>NOW(6)-INTERVAL 30 DAY"},
           .rows = "3|" HASH "|shop|42|send,later,read|10.0.0.0/8|10|20|30|4");
    ck_assert_int_eq(key_store_each(db, true, check_row, NULL, &err), -1);
    ck_assert_int_eq(err.kind, ERR_RETRY);
    ck_assert_uint_eq(rows, 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("key_store");
    TCase *t = tcase_create("key_store");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, a_wish, 0, (int)(sizeof(wishes) / sizeof(wishes[0])));
    tcase_add_test(t, long_words_are_no_wish);
    tcase_add_test(t, a_key_is_made_once_in_one_transaction_with_the_counter);
    tcase_add_test(t, a_key_whose_commit_was_lost_is_found_again);
    tcase_add_test(t, there_are_not_more_keys_than_replicas_hold);
    tcase_add_test(t, what_cannot_be_is_not_asked_for);
    tcase_add_test(t, only_a_key_that_is_there_is_revoked);
    tcase_add_test(t, who_has_moved_has_left_the_keys_as_they_were);
    tcase_add_test(t, a_rotation_leaves_the_old_key_its_time);
    tcase_add_test(t, what_is_dead_is_not_rotated);
    tcase_add_test(t, the_first_admin_key_is_made);
    tcase_add_test(t, a_second_one_is_not);
    tcase_add_test(t, nor_is_one_while_another_process_makes_it);
    tcase_add_test(t, keys_are_read_page_by_page);
    tcase_add_test(t, what_a_row_says);
    suite_add_tcase(s, t);
    return suite_run(s);
}
