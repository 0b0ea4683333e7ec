#include <check.h>
#include <string.h>

#include "libcommon/domain/recipient.h"
#include "test/unit/suite.h"

START_TEST(states_parse_back_in_either_case)
{
    enum recipient_state state;

    for (int i = 0; i < RECIPIENT_STATES; i++) {
        ck_assert(recipient_state_parse(recipient_state_name((enum recipient_state)i), &state));
        ck_assert_int_eq(state, i);
    }
    ck_assert(recipient_state_parse("DONE", &state));
    ck_assert_int_eq(state, RECIPIENT_DONE);
    ck_assert(!recipient_state_parse("processing", &state));
}
END_TEST

/* What the audit adds up: every state is open, kept or refunded, and one of them only. */
START_TEST(every_state_is_in_one_set)
{
    for (int i = 0; i < RECIPIENT_STATES; i++) {
        enum recipient_state state = (enum recipient_state)i;
        static const enum recipient_set sets[] = {RECIPIENT_OPEN, RECIPIENT_KEPT,
                                                  RECIPIENT_REFUNDED};
        int in = 0;

        for (int k = 0; k < 3; k++) {
            struct buf list = {0};

            recipient_put_states(&list, sets[k]);
            in += strstr(list.data, recipient_state_name(state)) != NULL;
            buf_free(&list);
        }
        ck_assert_int_eq(in, 1);
        ck_assert(!recipient_is_refunded(state) || recipient_is_final(state));
    }
}
END_TEST

START_TEST(a_template_gets_its_words)
{
    struct buf sql = {0};

    recipient_put_template(&sql, "a {open} b {refunded} {unknown} {");
    ck_assert_str_eq(sql.data, "a 'pending','sending' b 'failed' {unknown} {");
    buf_reset(&sql);
    recipient_put_sentence(&sql);
    ck_assert_str_eq(sql.data, "pending, sending, done or failed");
    buf_free(&sql);
}
END_TEST

START_TEST(a_row_is_pending_and_has_its_own_price)
{
    const char *numbers[] = {"111", "+222"};
    struct message m = {
        .customer_id = 7, .type = MESSAGE_EXPRESS, .recipients = numbers, .recipient_count = 2};
    struct buf sql = {0};

    strcpy(m.id, "m-1");
    recipient_put_row(&sql, &m, 1, 5);
    ck_assert_str_eq(sql.data, "(7,'pending','express','+222','m-1',1,5)");
    buf_free(&sql);
}
END_TEST

START_TEST(what_is_dropped_is_held_by_the_caller)
{
    struct recipient r = {.id = 9,
                          .state = RECIPIENT_SENDING,
                          .message_id = "m-1",
                          .user_id = 7,
                          .price = 3,
                          .position = 2,
                          .attempt = 4};
    struct recipient_change c = recipient_drop(&r, "why");

    ck_assert_int_eq(c.transition, RECIPIENT_DROP);
    ck_assert_int_eq(c.result, RECIPIENT_HELD);
    ck_assert_uint_eq(c.attempt, 4);
    ck_assert_int_eq(c.price, 3);
    ck_assert_ptr_null(c.unknown); /* as the row says */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("recipient");
    TCase *t = tcase_create("words");

    tcase_add_test(t, states_parse_back_in_either_case);
    tcase_add_test(t, every_state_is_in_one_set);
    tcase_add_test(t, a_template_gets_its_words);
    tcase_add_test(t, a_row_is_pending_and_has_its_own_price);
    tcase_add_test(t, what_is_dropped_is_held_by_the_caller);
    suite_add_tcase(s, t);
    return suite_run(s);
}
