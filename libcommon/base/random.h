#ifndef LIBCOMMON_BASE_RANDOM_H
#define LIBCOMMON_BASE_RANDOM_H

/* Random bytes from the kernel, buffered by thread. Never blocks after boot, never fails. */

#include <stddef.h>
#include <stdint.h>

#define UUID_TEXT_SIZE 37 /* 36 characters and a NUL */

void random_bytes(void *p, size_t n);
uint64_t random_u64(void);

/* A time-ordered UUIDv7 (RFC 9562 section 5.7) in lower case; ids of one thread only ever grow. */
void random_uuid7(char out[UUID_TEXT_SIZE]);

#endif
