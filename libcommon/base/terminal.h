#ifndef LIBCOMMON_BASE_TERMINAL_H
#define LIBCOMMON_BASE_TERMINAL_H

/*
 * Text of others for a person's terminal: what would steer it (control characters, C1 included) and
 * bytes that are not UTF-8 are shown as \xhh, on one line. For what verbs print of messages, rows
 * and brokers; blocks as the stream does.
 */

#include <stddef.h>
#include <stdio.h>

void terminal_put(FILE *to, const char *s, size_t n);
void terminal_puts(FILE *to, const char *s); /* NULL: nothing */

#endif
