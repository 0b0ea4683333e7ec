#include "libcommon/daemon/daemon.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/daemon/memory.h"
#include "libcommon/daemon/readiness.h"
#include "libcommon/db/restore_mode.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/log_recent.h"
#include "libcommon/telemetry/metrics.h"
#include "libcommon/telemetry/tracer.h"

#define TURN_MS 10000  /* what a turn may take beside its waits for database and broker */
#define NAMES_MS 20000 /* ... and what resolvers take that ask name servers which are away */
#define LOOK_MS 1000   /* between two looks at the loops' progress */
#define FILES_MAX (1u << 20)
#define STACK_BYTES (8u << 20)
#define LOG_FLUSH_MS 1000
#define TRACE_FLUSH_MS 3000 /* of the drain's time */
#define EXIT_MS 10000       /* after the drain's time: what the exit itself may take */

/* Never freed: a thread that a drain could not wait for still beats. */
struct daemon_beat {
    struct daemon_beat *next;
    char name[32];
    _Atomic int64_t at_ms; /* of the last beat, or of the end of a rest */
};

const struct setting daemon_settings_rows[] = {
    SETTING_TEXT_ROW(daemon_settings, app_name, SETTING_STRING, "APP_NAME",
                     "distributed-messaging-platform", 128, NULL,
                     "Name of the installation, for logs."),
    SETTING_CHOICE_ROW(daemon_settings, log_level, "LOG_LEVEL", "info", "debug info warn error",
                       "Lowest level that is logged."),
    SETTING_INT_ROW(daemon_settings, shutdown_delay_ms, "SHUTDOWN_DELAY_MS", "0", 0, 300000,
                    "From SIGTERM on: how long the process works on as before while its readiness "
                    "says draining, so that load balancers let go of it first."),
    SETTING_INT_ROW(daemon_settings, drain_timeout_ms, "DRAIN_TIMEOUT_MS", "20000", 0, 600000,
                    "Longest time after that to the end of the process."),
    SETTING_BOOL_ROW(daemon_settings, core_dumps, "CORE_DUMPS", "false",
                     "Whether a crash may leave a core dump, and a debugger of the same user may "
                     "look in: both see passwords, keys and texts."),
    SETTING_TEXT_ROW(daemon_settings, failpoint, SETTING_STRING, "MSG_FAILPOINT", "", 128,
                     failpoint_check,
                     "For tests of bad days: name:kill, name:error or name:delay=<ms>, with "
                     ":every=<n> if wanted."),
    SETTINGS_END};

size_t daemon_settings_check(const struct daemon_settings *daemon,
                             const struct httpd_settings *httpd, const struct db_settings *db,
                             struct buf *errors)
{
    size_t faults = otlp_settings_check(&daemon->otlp, errors);

    faults += httpd_settings_check(httpd, errors);
    if (db)
        faults += db_settings_check(db, errors);
    return faults;
}

static struct {
    const struct daemon_program *program;
    const struct daemon_settings *settings;
    struct probe *probes[2];
    size_t probe_count;
    int signals; /* signalfd */
    int stop;    /* eventfd: the watcher is to end */
    int64_t look_every_ms;
    bool watchdog;
    int64_t patience_ms; /* without a beat */
    int64_t stop_at_ms;  /* the drain's deadline; set before stopping */
    pthread_t watcher;
    bool watching;
    /* leaving: a signal has come, others are to let go of us; stopping: the drain */
    _Atomic bool ready, leaving, stopping, forced;
    struct daemon_beat *_Atomic beats;
    const struct daemon_beat *told; /* found late, and said so */
    void (*reload)(void *arg);
    void *reload_arg;
} d = {.signals = -1, .stop = -1, .look_every_ms = LOOK_MS, .patience_ms = TURN_MS};

/* ---- start ---- */

static enum log_level parse_level(const char *name)
{
    static const char *const names[] = {
        [LOG_DEBUG] = "debug", [LOG_INFO] = "info", [LOG_WARN] = "warn", [LOG_ERROR] = "error"};

    for (int i = LOG_DEBUG; i <= LOG_ERROR; i++)
        if (!strcmp(name, names[i]))
            return (enum log_level)i;
    return LOG_INFO;
}

static void on_libevent_log(int severity, const char *text)
{
    if (severity == EVENT_LOG_ERR)
        log_error("libevent.error", L_MSG(text));
    else if (severity == EVENT_LOG_WARN)
        log_warn("libevent.warning", L_MSG(text));
}

/* libevent ends the process when this returns; what the log holds is written first. */
static void on_libevent_fatal(int code)
{
    log_error("libevent.fatal", L_INT("code", code));
    log_stop(LOG_FLUSH_MS);
    abort();
}

static void raise_file_limit(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files))
        return;
    if (files.rlim_cur >= FILES_MAX || files.rlim_cur == files.rlim_max)
        return;
    files.rlim_cur = files.rlim_max < FILES_MAX ? files.rlim_max : FILES_MAX;
    if (setrlimit(RLIMIT_NOFILE, &files))
        log_warn("start.file_limit", L_MSG(strerror(errno)));
}

/* What a peer nests is decoded recursively (the broker's library): the default may be less. */
static void raise_stack_size(void)
{
    pthread_attr_t attr;
    size_t size;

    if (pthread_getattr_default_np(&attr))
        return;
    if (!pthread_attr_getstacksize(&attr, &size) && size < STACK_BYTES &&
        !pthread_attr_setstacksize(&attr, STACK_BYTES))
        (void)pthread_setattr_default_np(&attr);
    pthread_attr_destroy(&attr);
}

static void open_signals(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t set;

    sigaction(SIGPIPE, &ignore, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    MUST(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    d.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    d.stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    MUST(d.signals >= 0 && d.stop >= 0);
}

static void publish_build_info(const struct daemon_program *program)
{
    struct buf labels = {0};

    buf_printf(&labels, "version=\"%s\",component=\"%s\"", PROJECT_VERSION, program->name);
    if (!labels.failed)
        metrics_set(metrics_gauge("msg_build_info", "Always 1.", labels.data), 1);
    buf_free(&labels);
}

static void log_settings(const struct daemon_program *program)
{
    struct buf text = {0};

    settings_describe(program->groups, program->group_count, &text);
    log_info("start", L_STR("app", d.settings->app_name), L_INT("pid", getpid()),
             L_STR("settings", text.failed ? "" : text.data));
    buf_free(&text);
}

void daemon_start(const struct daemon_program *program, const struct daemon_settings *settings)
{
    uint64_t watchdog_us = 0;

    d.program = program;
    d.settings = settings;
    raise_stack_size();
    open_signals();
    log_start(program->name, parse_level(settings->log_level));
    failpoint_arm(settings->failpoint);
    event_set_log_callback(on_libevent_log);
    event_set_fatal_callback(on_libevent_fatal);
    raise_file_limit();
    publish_build_info(program);
    d.watchdog = sd_watchdog_enabled(0, &watchdog_us) > 0;
    if (d.watchdog && (int64_t)(watchdog_us / 2000) < LOOK_MS)
        d.look_every_ms = (int64_t)(watchdog_us / 2000);
    log_settings(program);
    otlp_start(&settings->otlp, program->name);
}

/* ---- watchdog and signals ---- */

struct daemon_beat *daemon_beat_new(const char *name)
{
    struct daemon_beat *beat = must_alloc(1, sizeof(*beat));

    snprintf(beat->name, sizeof(beat->name), "%s", name);
    atomic_init(&beat->at_ms, clock_mono_ms());
    beat->next = atomic_load(&d.beats);
    while (!atomic_compare_exchange_weak(&d.beats, &beat->next, beat))
        ;
    return beat;
}

void daemon_beat_rest(struct daemon_beat *beat, int64_t ms)
{
    atomic_store_explicit(&beat->at_ms, clock_mono_ms() + ms, memory_order_relaxed);
}

void daemon_beat(struct daemon_beat *beat)
{
    daemon_beat_rest(beat, 0);
}

/* Loops that have ended beat no more: in the drain its deadline is the judge. */
static bool in_drain(int64_t now_ms)
{
    return atomic_load(&d.stopping) && now_ms < d.stop_at_ms + EXIT_MS;
}

/* The loop that has been silent longest, if that is too long; else NULL. Any thread. */
static const struct daemon_beat *late_beat(int64_t *silent_ms)
{
    int64_t now_ms = clock_mono_ms();
    const struct daemon_beat *late = NULL;

    *silent_ms = d.patience_ms;
    if (in_drain(now_ms))
        return NULL;
    for (const struct daemon_beat *beat = atomic_load(&d.beats); beat; beat = beat->next) {
        int64_t at_ms = atomic_load_explicit(&beat->at_ms, memory_order_relaxed);

        if (now_ms - at_ms <= *silent_ms)
            continue;
        late = beat;
        *silent_ms = now_ms - at_ms;
    }
    return late;
}

static void look_at_loops(void)
{
    int64_t silent_ms;
    const struct daemon_beat *late = late_beat(&silent_ms);

    if (late && late != d.told)
        log_error("watchdog.stale", L_STR("loop", late->name), L_INT("silent_ms", silent_ms));
    d.told = late;
    if (!late && d.watchdog)
        sd_notify(0, "WATCHDOG=1");
}

static bool ends(const struct signalfd_siginfo *info)
{
    const char *name = info->ssi_signo == SIGHUP   ? "SIGHUP"
                       : info->ssi_signo == SIGINT ? "SIGINT"
                                                   : "SIGTERM";

    log_info("signal", L_STR("signal", name), L_INT("sender", info->ssi_pid));
    if (info->ssi_signo == SIGHUP) {
        httpd_reload();
        if (d.reload)
            d.reload(d.reload_arg);
    }
    return info->ssi_signo != SIGHUP;
}

enum heard { HEARD_SIGNAL, HEARD_END, HEARD_NOTHING };

/* Looks at the loops and feeds the watchdog until a signal comes that ends the process, the watcher
 * is told to end, or the time is up (-1: never). */
static enum heard wait_signal(int64_t ms)
{
    struct pollfd fds[] = {{.fd = d.signals, .events = POLLIN}, {.fd = d.stop, .events = POLLIN}};
    int64_t until_ms = clock_mono_ms() + ms;
    struct signalfd_siginfo info;

    for (;;) {
        int64_t left_ms = ms < 0 ? d.look_every_ms : until_ms - clock_mono_ms();
        int n;

        if (left_ms < 0)
            left_ms = 0;
        n = poll(fds, 2, (int)(left_ms < d.look_every_ms ? left_ms : d.look_every_ms));
        if (n >= 0)
            look_at_loops();
        memory_give_back(clock_mono_ms());
        if (n > 0 && fds[0].revents && read(d.signals, &info, sizeof(info)) == sizeof(info) &&
            ends(&info))
            return HEARD_SIGNAL;
        if (n > 0 && fds[1].revents)
            return HEARD_END;
        if (ms >= 0 && clock_mono_ms() >= until_ms)
            return HEARD_NOTHING;
    }
}

/* During the drain: a second signal ends the patience, a third the process. */
static void *watch(void *arg)
{
    struct sigaction by_default = {.sa_handler = SIG_DFL};
    sigset_t set;

    (void)arg;
    if (wait_signal(-1) != HEARD_SIGNAL)
        return NULL;
    atomic_store(&d.forced, true);
    httpd_give_up();
    sigaction(SIGTERM, &by_default, NULL);
    sigaction(SIGINT, &by_default, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    wait_signal(-1);
    return NULL;
}

void daemon_on_reload(void (*fn)(void *arg), void *arg)
{
    d.reload = fn;
    d.reload_arg = arg;
}

void daemon_ready(void)
{
    atomic_store(&d.ready, true);
    sd_notify(0, "READY=1");
    log_info("ready", L_STR("component", d.program->name));
}

void daemon_wait(void)
{
    const struct daemon_settings *s = d.settings;

    wait_signal(-1);
    atomic_store(&d.leaving, true);
    /* However long all of it is set to be, the service manager waits for it. */
    sd_notifyf(0, "STOPPING=1\nEXTEND_TIMEOUT_USEC=%lld",
               (long long)(s->shutdown_delay_ms + s->drain_timeout_ms + EXIT_MS) * 1000);
    if (s->shutdown_delay_ms) {
        log_info("leaving", L_INT("delay_ms", s->shutdown_delay_ms));
        wait_signal(s->shutdown_delay_ms);
    }
    d.stop_at_ms = clock_mono_ms() + s->drain_timeout_ms;
    atomic_store(&d.stopping, true);
    log_info("drain", L_INT("timeout_ms", s->drain_timeout_ms));
    MUST(pthread_create(&d.watcher, NULL, watch, NULL) == 0);
    d.watching = true;
}

int daemon_drain_left_ms(void)
{
    int64_t left_ms;

    if (!atomic_load(&d.stopping))
        return (int)d.settings->drain_timeout_ms;
    if (atomic_load(&d.forced))
        return 0;
    left_ms = d.stop_at_ms - clock_mono_ms();
    return left_ms > 0 ? (int)left_ms : 0;
}

void daemon_stop(bool ended)
{
    int left_ms = daemon_drain_left_ms();
    uint64_t one = 1;

    for (size_t i = 0; i < d.probe_count; i++)
        probe_free(d.probes[i]);
    otlp_stop(left_ms < TRACE_FLUSH_MS ? left_ms : TRACE_FLUSH_MS);
    if (d.watching) {
        while (write(d.stop, &one, sizeof(one)) < 0)
            MUST(errno == EINTR);
        pthread_join(d.watcher, NULL);
        d.watching = false;
    }
    log_info("stop", L_STR("forced", atomic_load(&d.forced) ? "true" : "false"));
    log_stop(LOG_FLUSH_MS);
    if (!ended)
        _Exit(EXIT_SUCCESS);
}

/* ---- /healthz /readyz /metrics /status.json ---- */

static int64_t longer(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

void daemon_depend_on(const struct db_settings *db, const struct broker_settings *broker)
{
    int64_t broker_ms = 0;

    d.probes[d.probe_count++] = probe_db(db);
    if (broker) {
        d.probes[d.probe_count++] = probe_broker(broker);
        broker_ms = 2 * broker->connect_timeout_ms + broker->rpc_timeout_ms;
    }
    /* A turn may wait for a name server, and for either until it gives up; that is no hang. */
    d.patience_ms +=
        NAMES_MS + longer(db->connect_timeout_ms + 2 * db->statement_timeout_ms, broker_ms);
}

struct httpd *daemon_http_start(const struct httpd_settings *settings, int64_t beside,
                                struct err *err)
{
    static const struct httpd_route routes[] = {DAEMON_ROUTES};
    const struct httpd_config config = {.settings = settings,
                                        .routes = routes,
                                        .route_count = sizeof(routes) / sizeof(routes[0]),
                                        .beside = beside};
    struct httpd *httpd = httpd_new(&config, err);

    if (!httpd)
        return NULL;
    if (httpd_start(httpd, err)) {
        httpd_free(httpd);
        return NULL;
    }
    log_info("server.listening", L_INT("port", httpd_port(httpd)));
    return httpd;
}

void daemon_handle_healthz(struct httpd_request *req, void *arg)
{
    int64_t silent_ms;
    const struct daemon_beat *late = late_beat(&silent_ms);
    char body[128];

    (void)arg;
    if (late)
        snprintf(body, sizeof(body), "{\"status\":\"stuck\",\"loop\":\"%s\",\"silent_ms\":%lld}",
                 late->name, (long long)silent_ms);
    else
        snprintf(body, sizeof(body), "{\"status\":\"ok\"}");
    httpd_reply(req, late ? 503 : 200, body, strlen(body));
}

/* Appends "status", "dependencies", in restore mode "mode", and what else readiness.h has to say;
 * whether the first asked of the dependencies and the process are ready, and the lanes, if all are
 * asked. */
static bool put_readiness(struct buf *out, const struct httpd_request *req, size_t asked)
{
    bool draining = atomic_load(&d.leaving) || httpd_draining(req);
    bool ready = atomic_load(&d.ready) && !draining;
    struct buf list = {0};

    for (size_t i = 0; i < d.probe_count; i++) {
        bool ok = probe_ok(d.probes[i]);

        if (i < asked)
            ready = ready && ok;
        buf_printf(&list, "%s\"%s\":\"%s\"", i ? "," : "", probe_name(d.probes[i]),
                   probe_state(d.probes[i]));
    }
    if (asked == d.probe_count)
        ready = readiness_of_lanes() && ready;
    buf_printf(out, "\"status\":\"%s\",\"dependencies\":{%s}%s",
               draining ? "draining"
               : ready  ? "ready"
                        : "not_ready",
               list.data ? list.data : "", restore_mode_shown() ? ",\"mode\":\"restore\"" : "");
    readiness_put(out);
    buf_free(&list);
    return ready;
}

void daemon_handle_readyz(struct httpd_request *req, void *arg)
{
    const char *purpose = httpd_query(req, "for");
    size_t asked = purpose && !strcmp(purpose, "traffic") && d.probe_count ? 1 : d.probe_count;
    struct buf body = {0};
    bool ready;

    (void)arg;
    buf_putc(&body, '{');
    ready = put_readiness(&body, req, asked);
    buf_putc(&body, '}');
    httpd_reply(req, ready && !body.failed ? 200 : 503, body.failed ? "{}" : body.data,
                body.failed ? 2 : body.len);
    buf_free(&body);
}

/* What the status page shows and /metrics does not tell. */
void daemon_handle_status(struct httpd_request *req, void *arg)
{
    struct buf body = {0};

    (void)arg;
    buf_puts(&body, "{\"app\":");
    buf_put_json(&body, d.settings->app_name, strlen(d.settings->app_name));
    buf_printf(&body, ",\"component\":\"%s\",\"version\":\"%s\",\"now\":\"", d.program->name,
               PROJECT_VERSION);
    clock_put_rfc3339(&body, clock_wall_us());
    buf_puts(&body, "\",");
    put_readiness(&body, req, d.probe_count);
    buf_puts(&body, ",\"events\":");
    log_recent_render(&body);
    buf_putc(&body, '}');
    if (body.failed)
        httpd_reply_error(req, 503, "unavailable", "Out of memory.", NULL);
    else
        httpd_reply(req, 200, body.data, body.len);
    buf_free(&body);
}

void daemon_handle_metrics(struct httpd_request *req, void *arg)
{
    enum metrics_format format = metrics_format_for(httpd_header(req, "Accept"));
    struct buf body = {0};

    (void)arg;
    for (size_t i = 0; i < d.probe_count; i++)
        probe_ok(d.probes[i]); /* sets its gauge */
    tracer_observe();
    metrics_render(&body, format);
    if (body.failed)
        httpd_reply_error(req, 503, "unavailable", "Out of memory.", NULL);
    else
        httpd_reply_type(req, 200, metrics_content_type(format), body.data, body.len);
    buf_free(&body);
}
