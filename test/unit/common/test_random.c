#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/random.h"
#include "test/unit/suite.h"

START_TEST(identifiers_are_version_7_and_only_grow)
{
    static char ids[20000][UUID_TEXT_SIZE]; /* many of one millisecond */
    char time[13];
    long long ms;

    for (int i = 0; i < 20000; i++)
        random_uuid7(ids[i]);
    for (int i = 0; i < 20000; i++) {
        const char *id = ids[i];

        ck_assert_uint_eq(strlen(id), 36);
        ck_assert_uint_eq(strspn(id, "0123456789abcdef-"), 36);
        ck_assert(id[8] == '-' && id[13] == '-' && id[18] == '-' && id[23] == '-');
        ck_assert_int_eq(id[14], '7');
        ck_assert(strchr("89ab", id[19]) != NULL);
        if (i)
            ck_assert_int_gt(strcmp(id, ids[i - 1]), 0);
    }
    memcpy(time, ids[0], 8);
    memcpy(time + 8, ids[0] + 9, 4);
    time[12] = '\0';
    ms = strtoll(time, NULL, 16);
    ck_assert_int_le(llabs(ms - (long long)(clock_wall_us() / 1000)), 60000);
}
END_TEST

START_TEST(every_byte_is_filled_whatever_the_size)
{
    static unsigned char a[5000];
    static unsigned char b[5000];
    size_t same = 0;

    random_bytes(a, 3);
    random_bytes(a, sizeof(a));
    random_bytes(b, sizeof(b));
    for (size_t i = 0; i < sizeof(a); i++)
        same += a[i] == b[i];
    ck_assert_uint_lt(same, 100); /* about 20 by chance */
    ck_assert(random_u64() != random_u64());
}
END_TEST

int main(void)
{
    Suite *s = suite_create("random");
    TCase *t = tcase_create("random");

    tcase_add_test(t, identifiers_are_version_7_and_only_grow);
    tcase_add_test(t, every_byte_is_filled_whatever_the_size);
    suite_add_tcase(s, t);
    return suite_run(s);
}
