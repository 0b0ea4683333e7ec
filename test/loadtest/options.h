#ifndef LOADTEST_OPTIONS_H
#define LOADTEST_OPTIONS_H

/*
 * The command line of msg-loadtest: one row an option, which feeds parsing and -help. Names, forms
 * and defaults of the ancestor's driver: one dash or two, `-name value` or `-name=value`, durations
 * as 30s, 2m or 500ms, the database as user:password@tcp(host:port)/name. The database
 * may also be named in the environment, where other users of the machine do not see its password:
 * SEED_DB_DSN, or SEED_DB_DSN_FILE, a file. Strings point into argv, the environment or the
 * options, which stay where they are.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "libcommon/db/db.h"

enum seed_method { SEED_DB, SEED_HTTP };

struct options {
    const char *base_url, *ca_file, *seed_desc, *seed_method, *seed_db_dsn, *operators;
    const char *rate_curve;
    char dsn_of_file[512];
    const char *api_key, *api_key_file; /* after parsing, api_key has the key of either */
    char key_read[256];
    double rps, express_ratio, users_zipf;
    int64_t duration_us, timeout_us, seed_timeout_us, drain_timeout_us;
    int64_t concurrency, user_start, users, recipients, seed_balance, seed_concurrency;
    bool seed_only, verify, json, help;
};

/* "1m30s" to microseconds; false: malformed or beyond a year. */
bool options_duration(const char *text, int64_t *us);
/* Fills host, port, name, user and password, which options_dsn_free releases, and sets the rest to
 * values for a tool. A query after "?" is ignored. */
bool options_dsn(const char *dsn, struct db_settings *settings);
void options_dsn_free(struct db_settings *settings);
/* Returns 0, or -1 with a sentence in why that says what is wrong. Reads -api-key-file. */
int options_parse(struct options *options, int argc, char **argv, char *why, size_t size);
void options_print_help(FILE *to);

#endif
