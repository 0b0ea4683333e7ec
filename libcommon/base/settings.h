#ifndef LIBCOMMON_BASE_SETTINGS_H
#define LIBCOMMON_BASE_SETTINGS_H

/*
 * Settings from the environment. A setting is one row in one table; the rows feed parsing, --help,
 * --check, the start-up log line and docs/settings.md. A value may also come from the file that
 * NAME_FILE names (one trailing newline is cut). An empty value counts as unset. Loading goes
 * through all rows and reports every fault, not the first.
 *
 * A program has several groups: its own rows and those of the parts it uses. The target struct of a
 * group holds int64_t for SETTING_INT, bool for SETTING_BOOL, char * for the others (owned by the
 * settings, wiped and released by settings_free). Not thread-safe: load at start, read-only
 * afterwards.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct buf;

enum setting_type {
    SETTING_INT,
    SETTING_BOOL, /* true false 1 0 yes no on off */
    SETTING_STRING,
    SETTING_ADDR,   /* host:port or :port; with the default "" also none */
    SETTING_CHOICE, /* one of choices; with the default "" also none of them */
    SETTING_URI,    /* a string that is masked where it is shown: user's secret and query */
    SETTING_SECRET, /* a string that is never shown */
};

struct setting {
    const char *name;
    enum setting_type type;
    bool no_file;        /* NAME_FILE is a setting of its own */
    size_t offset;       /* into the group's target */
    const char *initial; /* default as text; NULL: required; "" for strings: may be empty */
    int64_t min, max;    /* of a number; max of a text: its longest length in bytes, 0 = 1,024 */
    const char *choices; /* "a b c" for SETTING_CHOICE */
    const char *help;
    /* Further check of a non-empty string; writes a sentence's end ("must be ...") on failure. */
    bool (*check)(const char *value, char *why, size_t size);
};

/* A row of a table whose group's target is a struct tag_. longest: as max above; check may be NULL.
 */
#define SETTING_INT_ROW(tag_, field_, name_, initial_, min_, max_, help_)              \
    {                                                                                  \
        .name = (name_), .type = SETTING_INT, .offset = offsetof(struct tag_, field_), \
        .initial = (initial_), .min = (min_), .max = (max_), .help = (help_)           \
    }
#define SETTING_BOOL_ROW(tag_, field_, name_, initial_, help_)                          \
    {                                                                                   \
        .name = (name_), .type = SETTING_BOOL, .offset = offsetof(struct tag_, field_), \
        .initial = (initial_), .help = (help_)                                          \
    }
#define SETTING_CHOICE_ROW(tag_, field_, name_, initial_, choices_, help_)                \
    {                                                                                     \
        .name = (name_), .type = SETTING_CHOICE, .offset = offsetof(struct tag_, field_), \
        .initial = (initial_), .choices = (choices_), .help = (help_)                     \
    }
#define SETTING_TEXT_ROW(tag_, field_, kind_, name_, initial_, longest_, check_, help_) \
    {                                                                                   \
        .name = (name_), .type = (kind_), .offset = offsetof(struct tag_, field_),      \
        .initial = (initial_), .max = (longest_), .check = (check_), .help = (help_)    \
    }

/* The last row of every table. */
#define SETTINGS_END \
    {                \
        .name = NULL \
    }

struct settings_group {
    const struct setting *rows;
    void *target;
};

/* Returns the number of faults; a line for each is appended to errors. */
size_t settings_load(const struct settings_group *groups, size_t n, struct buf *errors);
#define SETTINGS_SPARE_ALL "*"
/* The same, but that the required setting spared (NULL: none; SETTINGS_SPARE_ALL) may be missing;
 * its text is NULL then. */
size_t settings_load_sparing(const struct settings_group *groups, size_t n, const char *spared,
                             struct buf *errors);
/* The same as settings_load, but that a file's lines stand for the environment: NAME=value, the
 * last one counts; quotes around a value are cut, and other lines are nobody's. For what has
 * settings like ours, and is another's. */
size_t settings_load_file(const struct settings_group *groups, size_t n, const char *path,
                          struct buf *errors);
void settings_free(const struct settings_group *groups, size_t n);
/* Wipes the values of secrets and URIs where the environment holds them, in our memory and in
 * /proc/<pid>/environ: they are loaded, and will not be again. */
void settings_forget_environment(const struct settings_group *groups, size_t n);
/* The value of a setting that is text, by its name; NULL when there is none. */
const char *settings_text(const struct settings_group *groups, size_t n, const char *name);
/* Likewise of one that is true or false. */
const bool *settings_flag(const struct settings_group *groups, size_t n, const char *name);

void settings_print_help(const struct settings_group *groups, size_t n, FILE *to);
void settings_print_markdown(const struct settings_group *groups, size_t n, FILE *to);
/* "NAME=value NAME=value ...", secrets as ***, and of every other text what stands before an @ or
 * behind a ?. */
void settings_describe(const struct settings_group *groups, size_t n, struct buf *out);

/* Splits "host:port" or ":port" (all addresses). host has room for size bytes. False: malformed. */
bool settings_split_addr(const char *addr, char *host, size_t size, uint16_t *port);
/* Whether the port of a URL, if it names one, is a number from 1 to 65,535. */
bool settings_url_port_ok(const char *url);

/* For checks that span settings: one that must not be above another. The number of faults, 0 or 1,
 * with a line in errors. */
size_t settings_check_order(const char *low_name, int64_t low, const char *high_name, int64_t high,
                            struct buf *errors);

#endif
