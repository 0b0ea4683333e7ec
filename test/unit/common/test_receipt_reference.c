#include "libcommon/domain/receipt_reference.h"

#include <stdio.h>
#include <string.h>

#include "test/unit/suite.h"

#define KEY "a key that is long enough"
#define MESSAGE "0192f3a1-7c3e-7b1a-9a51-3f0c2b7d9e10"

static char written[RECEIPT_REFERENCE_SIZE];

static const char *write_one(const char *operator_name, unsigned position)
{
    ck_assert(receipt_reference_write(written, KEY, operator_name, MESSAGE, position));
    return written;
}

static bool reads(const char *text, const char *key, const char *operator_name)
{
    struct receipt_reference out;

    return receipt_reference_read(text, strlen(text), key, operator_name, &out);
}

START_TEST(what_is_written_is_read)
{
    static const unsigned positions[] = {0, 7, 999, UINT32_MAX};

    for (size_t i = 0; i < sizeof(positions) / sizeof(positions[0]); i++) {
        const char *text = write_one("kannel", positions[i]);
        struct receipt_reference out;

        ck_assert(receipt_reference_read(text, strlen(text), KEY, "kannel", &out));
        ck_assert_str_eq(out.message_id, MESSAGE);
        ck_assert_uint_eq(out.position, positions[i]);
    }
}
END_TEST

/* It stands in an address and in a form without an escape. */
START_TEST(every_character_is_plain)
{
    const char *text = write_one("kannel", 12);

    ck_assert_uint_eq(strspn(text, "0123456789abcdefghijklmnopqrstuvwxyz-."), strlen(text));
    ck_assert_uint_eq(strlen(text), strlen(MESSAGE) + 3 + 1 + 32);
}
END_TEST

START_TEST(another_key_or_operator_does_not_read_it)
{
    const char *text = write_one("kannel", 3);

    ck_assert(reads(text, KEY, "kannel"));
    ck_assert(!reads(text, "another key, long enough", "kannel"));
    ck_assert(!reads(text, KEY, "twilio"));
    ck_assert(!reads(text, "", "kannel"));
    ck_assert(!reads(text, NULL, "kannel"));
}
END_TEST

START_TEST(a_changed_one_is_refused)
{
    char text[RECEIPT_REFERENCE_SIZE + 8];
    size_t n = strlen(write_one("kannel", 3));

    for (size_t i = 0; i < n; i++) {
        snprintf(text, sizeof(text), "%s", written);
        text[i] = text[i] == '1' ? '2' : '1';
        if (strcmp(text, written) != 0)
            ck_assert_msg(!reads(text, KEY, "kannel"), "%s", text);
    }
    for (size_t i = 0; i < n; i++) {
        snprintf(text, sizeof(text), "%s", written);
        text[i] = '\0';
        ck_assert(!reads(text, KEY, "kannel"));
    }
    snprintf(text, sizeof(text), "%s0", written);
    ck_assert(!reads(text, KEY, "kannel"));
}
END_TEST

/* The mac is right, but no reference of ours reads so. */
START_TEST(what_is_no_identifier_is_not_signed)
{
    char out[RECEIPT_REFERENCE_SIZE];

    ck_assert(!receipt_reference_write(out, KEY, "kannel", "", 0));
    ck_assert(!receipt_reference_write(out, KEY, "kannel", "a.b", 0));
    ck_assert(!receipt_reference_write(out, KEY, "kannel", "a\nb", 0));
    ck_assert(!receipt_reference_write(out, "", "kannel", MESSAGE, 0));
    ck_assert(!receipt_reference_write(out, KEY, "kannel",
                                       "123456789012345678901234567890123456789012345678901", 0));
    ck_assert(receipt_reference_write(
        out, KEY, "kannel", "12345678901234567890123456789012345678901234567890", UINT32_MAX));
    ck_assert(reads(out, KEY, "kannel"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("receipt_reference");
    TCase *t = tcase_create("receipt_reference");

    tcase_add_test(t, what_is_written_is_read);
    tcase_add_test(t, every_character_is_plain);
    tcase_add_test(t, another_key_or_operator_does_not_read_it);
    tcase_add_test(t, a_changed_one_is_refused);
    tcase_add_test(t, what_is_no_identifier_is_not_signed);
    suite_add_tcase(s, t);
    return suite_run(s);
}
