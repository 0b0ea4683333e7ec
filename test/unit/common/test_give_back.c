#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/daemon/memory.h"
#include "test/unit/suite.h"

#define MIB ((size_t)1 << 20)

START_TEST(what_is_much_more_than_before_is_worth_it)
{
    size_t least = SIZE_MAX;

    ck_assert(!memory_worth(30 * MIB, &least));
    ck_assert(!memory_worth(20 * MIB, &least));
    ck_assert(!memory_worth(28 * MIB, &least));
    ck_assert(memory_worth(29 * MIB, &least));
    ck_assert_uint_eq(least, 20 * MIB);
    least = 29 * MIB; /* nothing of it could be given back */
    ck_assert(!memory_worth(30 * MIB, &least));
    ck_assert(!memory_worth(21 * MIB, &least));
    ck_assert(memory_worth(30 * MIB, &least));
}
END_TEST

/* Whatever there is to give: it is safe, and looks once in a while alone. */
START_TEST(giving_back_harms_nobody)
{
    char *kept = malloc(MIB);

    memset(kept, 'k', MIB);
    for (int64_t ms = 0; ms < 20000; ms += 1000)
        memory_give_back(ms);
    ck_assert_int_eq(kept[MIB - 1], 'k');
    free(kept);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("give_back");
    TCase *t = tcase_create("rule");

    tcase_add_test(t, what_is_much_more_than_before_is_worth_it);
    tcase_add_test(t, giving_back_harms_nobody);
    suite_add_tcase(s, t);
    return suite_run(s);
}
