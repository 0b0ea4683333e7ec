#ifndef LIBCOMMON_TELEMETRY_LOG_RECENT_H
#define LIBCOMMON_TELEMETRY_LOG_RECENT_H

/*
 * The latest warnings and errors of this process, for people who look at /status: which event, how
 * often, when first and last. Nothing else of a log line is kept. An event that repeats is counted
 * in its place; a new one takes the place of the one that has been silent longest. Any thread.
 */

#include <stdint.h>

#include "libcommon/telemetry/log.h"

#define LOG_RECENT_MAX 24

struct buf;

/* error_type: "" when the line has none. Copies event, which is cut at 63 bytes. */
void log_recent_add(enum log_level level, const char *event, const char *error_type,
                    int64_t wall_us);
/* Appends a JSON list, the latest first. */
void log_recent_render(struct buf *out);

#endif
