#ifndef TEST_UNIT_COMPLAIN_H
#define TEST_UNIT_COMPLAIN_H

/* How a stand-in fails a test from whatever thread of the code under test it is called on. Check
 * can do so from the test's own only; from another one the sentence goes to stderr and the suite
 * ends. */

#include <check.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

__attribute__((format(printf, 2, 3), noreturn)) static void complain_from(pthread_t own,
                                                                          const char *format, ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (pthread_equal(pthread_self(), own))
        ck_abort_msg("%s", text);
    fprintf(stderr, "%s\n", text);
    abort();
}

#endif
