#ifndef LIBCOMMON_DAEMON_DAEMON_H
#define LIBCOMMON_DAEMON_DAEMON_H

/*
 * What every daemon's main does around its own work: the command line, settings, log, signals,
 * service-manager notification, /healthz /readyz /metrics /status. main is daemon_main with the
 * program, its verbs and the function that serves. That one is the same everywhere: daemon_start,
 * build the parts, daemon_ready, daemon_wait (returns on SIGTERM or SIGINT), drain, free in reverse
 * order, daemon_stop, exit code.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/settings.h"
#include "libcommon/daemon/probe.h"
#include "libcommon/daemon/status.h"
#include "libcommon/net/httpd.h"
#include "libcommon/net/otlp.h"

#define EXIT_SETTINGS 78 /* EX_CONFIG of sysexits.h */

struct daemon_settings {
    char *app_name, *log_level, *failpoint;
    bool core_dumps;           /* daemon_main goes by it */
    int64_t shutdown_delay_ms; /* from SIGTERM to the drain */
    int64_t drain_timeout_ms;  /* from there to the end */
    struct otlp_settings otlp; /* its rows are a group of their own; without them tracing is off */
};

extern const struct setting daemon_settings_rows[];

/* What spans the rows that daemons share: appends a line to errors for each fault, returns their
 * number. db: NULL for a program without. */
size_t daemon_settings_check(const struct daemon_settings *daemon,
                             const struct httpd_settings *httpd, const struct db_settings *db,
                             struct buf *errors);

struct daemon_program {
    const char *name;    /* "msg-outboxd" */
    const char *summary; /* one line for --help */
    const char *verbs;   /* further lines for --help, "" if none */
    const char *spared;  /* a required setting that no verb needs; NULL: none */
    /* ... one that serve does not need, by what the environment says of it. May be NULL. */
    const char *(*spared_in_service)(void);
    /* A verb that needs no required setting at all, nor that settings fit each other; NULL: none */
    const char *plain_verb;
    const struct settings_group *groups;
    size_t group_count;
    /* Checks that span settings: appends lines to errors, returns their number. May be NULL. */
    size_t (*check)(struct buf *errors);
    /* With --check alone, when the settings are right: what else there is to warn of, on stdout.
     * May be NULL. */
    void (*look)(void);
};

#define DAEMON_USAGE (-1)

/* "msg-outboxd parked ...": the last row of a table has no name. */
struct daemon_verb {
    const char *name;
    const char *usage; /* what may follow the name, "" for nothing */
    /* Gets what follows the verb. Returns the exit code, or DAEMON_USAGE when it cannot be read. */
    int (*run)(int argc, char **argv);
};

/* --help, --version, --check, --health, --settings-markdown; else loads the settings and runs the
 * verb (verbs may be NULL) or, without one, serve. Returns the exit code: EXIT_SETTINGS for wrong
 * settings, options and verbs. */
int daemon_main(const struct daemon_program *program, const struct daemon_verb *verbs,
                int (*serve)(void), int argc, char **argv);

/* Log, tracing, signals (SIGTERM, SIGINT and SIGHUP blocked in all threads, SIGPIPE ignored; SIGHUP
 * has certificates read again, and does what daemon_on_reload says), file limit, the start-up line
 * with the effective settings. Before any thread is started. */
void daemon_start(const struct daemon_program *program, const struct daemon_settings *settings);

/* Progress: each long-lived loop has a beat and beats it on every turn. One that is silent for
 * longer than a turn may take (30 s, and what the timeouts of daemon_depend_on allow) makes
 * /healthz say 503, and the service manager's watchdog is not fed. name is copied. */
struct daemon_beat;
struct daemon_beat *daemon_beat_new(const char *name);
void daemon_beat(struct daemon_beat *beat);
/* The loop has nothing to do for so long: the time counts from then. */
void daemon_beat_rest(struct daemon_beat *beat, int64_t ms);

/* What SIGHUP does beside reading certificates again: fn runs on the thread of daemon_wait, and may
 * block for as long as reading a few files takes. Before daemon_wait. */
void daemon_on_reload(void (*fn)(void *arg), void *arg);

void daemon_ready(void); /* READY=1 */
/* Waits for SIGTERM or SIGINT, then for shutdown_delay_ms (or another signal) while all parts work
 * on and readiness is gone. */
void daemon_wait(void);
/* What is left of drain_timeout_ms, never below 0. */
int daemon_drain_left_ms(void);
/* After all parts: flushes spans, while there is time, and the log. ended false: threads are left
 * that the drain could not wait for, and the process ends here, with code 0, before anything is
 * torn down that they use. */
void daemon_stop(bool ended);

/* What readiness depends on; watched until daemon_stop. Before the HTTP server is started, once.
 * broker: NULL where it is not used. */
void daemon_depend_on(const struct db_settings *db, const struct broker_settings *broker);
/* The HTTP server of a daemon that has no routes but these, started. NULL on failure. beside: as in
 * httpd.h. */
struct httpd *daemon_http_start(const struct httpd_settings *settings, int64_t beside,
                                struct err *err);

/* /healthz, /readyz (all that it depends on must be ok, and its lanes (readiness.h) at work;
 * "?for=traffic" asks the first dependency alone),
 * /metrics, and /status, a page for people, with the /status.json it reads. */
#define DAEMON_ROUTE_WORDS (HTTPD_NO_LIMIT | HTTPD_NO_SPAN | HTTPD_EXPECT_200)
#define DAEMON_PROBE_WORDS (DAEMON_ROUTE_WORDS | HTTPD_PROBE)
#define DAEMON_HEALTH_COUNT 2
#define DAEMON_WATCH_COUNT 3
/* clang-format off */
#define DAEMON_HEALTH_ROUTES                                              \
    {"GET", "/healthz", daemon_handle_healthz, DAEMON_PROBE_WORDS, NULL}, \
    {"GET", "/readyz", daemon_handle_readyz, DAEMON_PROBE_WORDS, NULL}
#define DAEMON_WATCH_ROUTES(words_, metrics_needs_, status_needs_)             \
    {"GET", "/metrics", daemon_handle_metrics, (words_), (metrics_needs_)},    \
    {"GET", "/status", status_handle_page, (words_), (status_needs_)},         \
    {"GET", "/status.json", daemon_handle_status, (words_), (status_needs_)}
#define DAEMON_ROUTES \
    DAEMON_HEALTH_ROUTES, DAEMON_WATCH_ROUTES(DAEMON_ROUTE_WORDS, NULL, NULL)
/* clang-format on */
void daemon_handle_healthz(struct httpd_request *req, void *arg);
void daemon_handle_readyz(struct httpd_request *req, void *arg);
void daemon_handle_metrics(struct httpd_request *req, void *arg);
void daemon_handle_status(struct httpd_request *req, void *arg);

#endif
