#ifndef LOADTEST_REPORT_H
#define LOADTEST_REPORT_H

/* The results of a run: the ancestor's three lines and what came since, or one JSON object. */

#include <stdio.h>

#include "test/loadtest/load.h"
#include "test/loadtest/verify.h"

/* verified: NULL when the run was not verified. */
void report_print(const struct options *options, const struct load_result *load,
                  const struct verify_result *verified, bool ok, FILE *to);

#endif
