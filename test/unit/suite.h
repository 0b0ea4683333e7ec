#ifndef TEST_UNIT_SUITE_H
#define TEST_UNIT_SUITE_H

/* How every suite of unit tests runs: in one process, so that sanitizers and valgrind see what the
 * tests leave behind. ctest bounds its time. */

#include <check.h>
#include <stdlib.h>

/* Frees the suite; the exit code for main. */
static inline int suite_run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    int failed;

    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
