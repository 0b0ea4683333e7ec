#ifndef LIBCOMMON_BASE_MUST_H
#define LIBCOMMON_BASE_MUST_H

/*
 * MUST(cond) guards states that cannot be: always compiled in, logs and aborts. An abort is safe by
 * design (the transaction rolls back, the broker redelivers); input from the network, the database
 * or a user never reaches it. Allocation at start and of small fixed objects goes through
 * must_alloc.
 */

#include <stddef.h>

#define MUST(cond) ((cond) ? (void)0 : must_fail(#cond, __FILE__, __LINE__))

void must_fail(const char *what, const char *file, int line) __attribute__((noreturn));

/* calloc that aborts when memory is out: never for sizes that a peer chooses. */
void *must_alloc(size_t count, size_t size) __attribute__((returns_nonnull));
char *must_strdup(const char *s) __attribute__((returns_nonnull));

#endif
