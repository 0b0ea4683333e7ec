#include <check.h>

#include "libcommon/db/db.h"
#include "libcommon/db/db_internal.h"
#include "test/unit/suite.h"

static struct err of(unsigned code)
{
    return (struct err){.kind = db_error_kind(code), .code = code};
}

START_TEST(a_broken_connection_or_statement_leaves_the_outcome_open)
{
    static const unsigned codes[] = {2006, 2013, 2055, 1053, 1927, 4031, 1317, 1969};

    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        struct err err = of(codes[i]);

        ck_assert_msg(db_outcome_unknown(&err), "%u", codes[i]);
        ck_assert_msg(err.kind == ERR_RETRY, "%u", codes[i]);
    }
}
END_TEST

START_TEST(a_packet_that_is_too_large_was_not_done_and_ends_the_session)
{
    static const unsigned codes[] = {1153, 2020};

    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        struct err err = of(codes[i]);

        ck_assert_msg(db_is_too_large(&err), "%u", codes[i]);
        ck_assert_msg(!db_outcome_unknown(&err), "%u", codes[i]);
        ck_assert_msg(err.kind == ERR_PERMANENT, "%u", codes[i]);
        ck_assert_msg(db_error_ends_session(codes[i]), "%u", codes[i]);
        ck_assert_msg(db_error_text_is_plain(codes[i]), "%u", codes[i]);
    }
}
END_TEST

START_TEST(a_server_that_refuses_writes_did_nothing_and_is_left)
{
    static const unsigned codes[] = {1290, 1792, 1836, 1047};

    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        struct err err = of(codes[i]);

        ck_assert_msg(db_error_ends_session(codes[i]), "%u", codes[i]);
        ck_assert_msg(db_error_is_refusal(codes[i]), "%u", codes[i]);
        ck_assert_msg(!db_outcome_unknown(&err), "%u", codes[i]);
        ck_assert_msg(err.kind == ERR_RETRY, "%u", codes[i]);
        ck_assert_msg(db_is_read_only(&err) == (codes[i] != 1047), "%u", codes[i]);
    }
}
END_TEST

START_TEST(texts_that_hold_values_or_statements_are_not_shown)
{
    ck_assert(!db_error_text_is_plain(1062));
    ck_assert(!db_error_text_is_plain(1064));
    ck_assert(!db_error_text_is_plain(1406));
    ck_assert(db_error_text_is_plain(1205));
}
END_TEST

START_TEST(what_an_account_may_not_do_is_known)
{
    struct err table = of(1142);
    struct err column = of(1143);
    struct err other = of(1146);

    ck_assert(db_is_forbidden(&table) && db_is_forbidden(&column) && !db_is_forbidden(&other));
    ck_assert(table.kind == ERR_RETRY); /* of a daemon: somebody may mend it */
}
END_TEST

START_TEST(what_nobody_thought_of_is_the_servers_trouble)
{
    struct err err = of(1999);

    ck_assert_int_eq(err.kind, ERR_RETRY);
    ck_assert(!db_outcome_unknown(&err) && !db_is_conflict(&err) && !db_is_too_large(&err));
}
END_TEST

/* What the values of a statement, or the statement, have done will be done again. */
START_TEST(the_statements_own_errors_are_not_tried_again)
{
    static const unsigned values[] = {1048, 1264, 1265, 1267, 1270, 1271, 1292, 1300, 1366,
                                      1367, 1406, 1411, 1525, 1690, 1977, 3140, 3854, 4025};
    static const unsigned texts[] = {1052, 1054, 1064, 1136, 1210, 1241, 1253, 1305, 4078};

    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        ck_assert_msg(of(values[i]).kind == ERR_PERMANENT, "%u", values[i]);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        ck_assert_msg(of(texts[i]).kind == ERR_BUG, "%u", texts[i]);
}
END_TEST

/* A table, an index or a right that is not there may be given while we wait. */
START_TEST(what_a_person_may_mend_is_tried_again)
{
    static const unsigned codes[] = {1044, 1045, 1049, 1142, 1143, 1146, 1176, 1227};

    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        ck_assert_msg(of(codes[i]).kind == ERR_RETRY, "%u", codes[i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("db_error");
    TCase *t = tcase_create("db_error");

    tcase_add_test(t, a_broken_connection_or_statement_leaves_the_outcome_open);
    tcase_add_test(t, a_packet_that_is_too_large_was_not_done_and_ends_the_session);
    tcase_add_test(t, a_server_that_refuses_writes_did_nothing_and_is_left);
    tcase_add_test(t, texts_that_hold_values_or_statements_are_not_shown);
    tcase_add_test(t, what_an_account_may_not_do_is_known);
    tcase_add_test(t, what_nobody_thought_of_is_the_servers_trouble);
    tcase_add_test(t, the_statements_own_errors_are_not_tried_again);
    tcase_add_test(t, what_a_person_may_mend_is_tried_again);
    suite_add_tcase(s, t);
    return suite_run(s);
}
