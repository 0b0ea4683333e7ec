#ifndef LIBCOMMON_DAEMON_MEMORY_H
#define LIBCOMMON_DAEMON_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What was freed lies scattered among what is in use, and the C library keeps it for the next time:
 * a process would stay as large as it has ever been. From one thread.
 */

/* Once in a while: gives it back to the system, if it is worth it. */
void memory_give_back(int64_t now_ms);

/* The rule, pure: idle bytes are what the process has resident and does not use; least is the least
 * of it so far, or what could not be given back the last time. */
bool memory_worth(size_t idle, size_t *least);

#endif
