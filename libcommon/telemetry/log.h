#ifndef LIBCOMMON_TELEMETRY_LOG_H
#define LIBCOMMON_TELEMETRY_LOG_H

/*
 * One JSON object a line on stdout: ts, level, service, version, event, then the fields given.
 * Lines go through a bounded ring to a writer thread, so that a reader of stdout that stalls never
 * blocks a daemon: what does not fit is dropped and counted. Any thread may log.
 * Event names are dotted nouns ("outbox.parked") and listed in docs/log-events.md. Recipients,
 * texts, passwords and keys are never passed here.
 */

#include <stdint.h>

struct err;
struct trace_context;

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_field {
    const char *key;
    enum { LOG_FIELD_STR, LOG_FIELD_INT, LOG_FIELD_ERR, LOG_FIELD_TRACE } type;
    union {
        const char *str;
        int64_t num;
        const struct err *err;
        const struct trace_context *trace;
    } v;
};

#define L_STR(k, s) ((struct log_field){.key = (k), .type = LOG_FIELD_STR, .v.str = (s)})
#define L_INT(k, n) ((struct log_field){.key = (k), .type = LOG_FIELD_INT, .v.num = (int64_t)(n)})
#define L_MSG(s) L_STR("msg", (s))
/* error, error.type and error.code of a struct err */
#define L_ERR(e) ((struct log_field){.key = "error", .type = LOG_FIELD_ERR, .v.err = (e)})
/* trace_id and span_id; NULL adds nothing */
#define L_TRACE(t) ((struct log_field){.key = "trace", .type = LOG_FIELD_TRACE, .v.trace = (t)})

#define LOG_EVENT(level, event, ...) \
    log_write((level), (event), (const struct log_field[]){__VA_ARGS__, {.key = 0}})
#define log_debug(event, ...) LOG_EVENT(LOG_DEBUG, event, __VA_ARGS__)
#define log_info(event, ...) LOG_EVENT(LOG_INFO, event, __VA_ARGS__)
#define log_warn(event, ...) LOG_EVENT(LOG_WARN, event, __VA_ARGS__)
#define log_error(event, ...) LOG_EVENT(LOG_ERROR, event, __VA_ARGS__)

/* Starts the writer. Before it, and in tests that never call it, lines are written at once. */
void log_start(const char *service, enum log_level level);
/* For a program whose stdout is its answer: lines go to stderr. Before log_start. */
void log_to_stderr(void);
/* Writes out what is left within timeout_ms, ends the writer. Other threads may still log; their
 * lines are written at once. */
void log_stop(int timeout_ms);
void log_write(enum log_level level, const char *event, const struct log_field *fields);
uint64_t log_dropped(void);

#endif
