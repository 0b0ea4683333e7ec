#ifndef LIBCOMMON_DOMAIN_OPERATOR_INI_H
#define LIBCOMMON_DOMAIN_OPERATOR_INI_H

/*
 * An INI file as libinih reads it, without what that does unseen: it cuts long lines into two,
 * takes what follows a blank and a semicolon for a comment, cuts the blanks at the end of a line,
 * and goes on behind what it does not understand. Here each of these is a fault with its line and
 * its reason, and the line is not used.
 *
 *   [section]
 *   key = value
 *    which goes on, when a line begins with a blank
 *   # a comment begins in the first column, with # or ;
 *
 * Pure.
 */

#include <stdbool.h>
#include <stddef.h>

#include "libcommon/base/buf.h"

#define OPERATOR_INI_BYTES_MAX (256 * 1024)

struct operator_ini_item {
    const char *section; /* "": before the first */
    const char *key;     /* NULL: the section begins */
    const char *value;
    unsigned line;
    bool continued; /* the value of the key before goes on */
};

/* Good for the time of the call. */
typedef void operator_ini_fn(const struct operator_ini_item *item, void *arg);

/* Returns the number of faults; a line "name:12: why" for each is appended to errors. */
size_t operator_ini_read(const char *text, size_t n, const char *name, operator_ini_fn *fn,
                         void *arg, struct buf *errors);

#endif
