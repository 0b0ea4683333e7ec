#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics_internal.h"

#define COUNT_EVERY_MS 1000

#define FRACTION_DIGITS 6 /* of a second, in microseconds */

static void put_fraction(struct buf *out, uint64_t us, size_t digits)
{
    char text[FRACTION_DIGITS];

    for (size_t i = FRACTION_DIGITS; i-- > 0; us /= 10)
        text[i] = (char)('0' + us % 10);
    buf_putc(out, '.');
    buf_put(out, text, digits);
}

static void put_seconds(struct buf *out, uint64_t us)
{
    buf_put_uint(out, us / 1000000);
    put_fraction(out, us % 1000000, FRACTION_DIGITS);
}

static void put_sample(struct buf *out, const char *name, const char *suffix, const char *labels)
{
    buf_puts(out, name);
    buf_puts(out, suffix);
    if (*labels) {
        buf_putc(out, '{');
        buf_puts(out, labels);
        buf_putc(out, '}');
    }
    buf_putc(out, ' ');
}

/* OpenMetrics names a family of counters without the _total of its samples, and escapes quotes. */
static void put_head(struct buf *out, enum metrics_format format, const char *name,
                     const char *type, const char *help)
{
    bool open = format == METRICS_OPENMETRICS;
    size_t n = strlen(name);

    if (open && !strcmp(type, "counter"))
        n -= strlen("_total");
    buf_printf(out, "# HELP %.*s ", (int)n, name);
    for (; *help; help++) {
        if (*help == '\\' || (*help == '"' && open))
            buf_putc(out, '\\');
        buf_putc(out, *help);
    }
    buf_printf(out, "\n# TYPE %.*s %s\n", (int)n, name, type);
}

/* False: there is none. It is read again when it was written meanwhile, and left out when that
 * happens once more. */
static bool read_exemplar(const struct exemplar *e, uint64_t id[3], uint64_t *value,
                          uint64_t *at_us)
{
    for (int i = 0; i < 2; i++) {
        uint32_t version = atomic_load_explicit(&e->version, memory_order_acquire);

        if (!version)
            return false;
        id[0] = atomic_load_explicit(&e->trace_id[0], memory_order_acquire);
        id[1] = atomic_load_explicit(&e->trace_id[1], memory_order_acquire);
        id[2] = atomic_load_explicit(&e->span_id, memory_order_acquire);
        *value = (uint64_t)atomic_load_explicit(&e->value, memory_order_acquire);
        *at_us = (uint64_t)atomic_load_explicit(&e->at_us, memory_order_acquire);
        if (!(version & 1) && atomic_load_explicit(&e->version, memory_order_relaxed) == version)
            return true;
    }
    return false;
}

static void put_exemplar(struct buf *out, const struct exemplar *e)
{
    uint64_t id[3];
    uint64_t value;
    uint64_t at_us;

    if (!read_exemplar(e, id, &value, &at_us))
        return;
    buf_puts(out, " # {trace_id=\"");
    buf_put_hex(out, id, 16);
    buf_puts(out, "\",span_id=\"");
    buf_put_hex(out, id + 2, 8);
    buf_puts(out, "\"} ");
    put_seconds(out, value);
    buf_putc(out, ' ');
    put_seconds(out, at_us);
}

/* Without zeros at its end, but for OpenMetrics's own: it writes floating point numbers, 5.0. */
static void put_bound(struct buf *out, enum metrics_format format, bool seconds, uint64_t bound)
{
    uint64_t us = seconds ? bound % 1000000 : 0;
    size_t digits = us ? FRACTION_DIGITS : format == METRICS_OPENMETRICS;

    for (uint64_t rest = us; rest && rest % 10 == 0; rest /= 10)
        digits--;
    buf_put_uint(out, seconds ? bound / 1000000 : bound);
    if (digits)
        put_fraction(out, us, digits);
}

/* A page is mostly these lines, and whoever is asked for it has others to serve: no printf. */
static void put_bucket(struct buf *out, const char *name, const char *labels)
{
    buf_puts(out, name);
    buf_puts(out, "_bucket{");
    buf_puts(out, labels);
    buf_puts(out, *labels ? ",le=\"" : "le=\"");
}

static void put_histogram(struct buf *out, enum metrics_format format, const char *name,
                          const struct metric *m)
{
    bool seconds = m->type == METRIC_LATENCY;
    const int64_t *bounds;
    size_t n = metrics_bounds(m->type, &bounds);
    uint64_t count = 0;
    uint64_t total;

    for (size_t i = 0; i <= n; i++) {
        count += metrics_sum(m->slot + (unsigned)i);
        put_bucket(out, name, m->labels);
        if (i == n)
            buf_puts(out, "+Inf");
        else
            put_bound(out, format, seconds, (uint64_t)bounds[i]);
        buf_puts(out, "\"} ");
        buf_put_uint(out, count);
        if (format == METRICS_OPENMETRICS && m->exemplars)
            put_exemplar(out, &m->exemplars[i]);
        buf_putc(out, '\n');
    }
    put_sample(out, name, "_sum", m->labels);
    total = metrics_sum(m->slot + (unsigned)n + 1);
    if (seconds)
        put_seconds(out, total);
    else
        buf_put_uint(out, total);
    buf_putc(out, '\n');
    put_sample(out, name, "_count", m->labels);
    buf_put_uint(out, count);
    buf_putc(out, '\n');
}

static void put_counter(struct buf *out, const char *name, const struct metric *m)
{
    put_sample(out, name, "", m->labels);
    buf_put_uint(out, metrics_sum(m->slot));
    buf_putc(out, '\n');
}

static void put_gauge(struct buf *out, const char *name, const struct metric *m)
{
    int64_t value = atomic_load_explicit(&m->value, memory_order_relaxed);

    if (value == METRICS_ABSENT)
        return;
    put_sample(out, name, "", m->labels);
    buf_put_int(out, value);
    buf_putc(out, '\n');
}

static void put_family(struct buf *out, enum metrics_format format, const struct family *f)
{
    static const char *const types[] = {[METRIC_COUNTER] = "counter",
                                        [METRIC_GAUGE] = "gauge",
                                        [METRIC_LATENCY] = "histogram",
                                        [METRIC_SIZES] = "histogram"};

    put_head(out, format, f->name, types[f->type], f->help);
    for (const struct metric *m = f->first; m; m = m->next) {
        if (f->type == METRIC_LATENCY || f->type == METRIC_SIZES)
            put_histogram(out, format, f->name, m);
        else if (f->type == METRIC_COUNTER)
            put_counter(out, f->name, m);
        else
            put_gauge(out, f->name, m);
    }
}

static unsigned count_entries(const char *path)
{
    DIR *dir = opendir(path);
    unsigned n = 0;

    if (!dir)
        return 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n > 2 ? n - 2 : 0;
}

/* A server's descriptors are thousands, and whoever scrapes may scrape often: counted once a
 * second.
 */
static unsigned open_descriptors(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int64_t due_ms;
    static unsigned n;
    int64_t now_ms = clock_mono_ms();
    unsigned counted;

    pthread_mutex_lock(&lock);
    if (now_ms >= due_ms) {
        n = count_entries("/proc/self/fd");
        due_ms = now_ms + COUNT_EVERY_MS;
    }
    counted = n;
    pthread_mutex_unlock(&lock);
    return counted;
}

/* Seconds since the epoch at which this process began: boot time plus field 22 of /proc/self/stat.
 */
static double start_time(void)
{
    static _Atomic(double) cached;
    char text[1024];
    FILE *f = fopen("/proc/self/stat", "re");
    char *at = NULL;
    unsigned long long ticks = 0;
    struct timespec up;

    if (atomic_load(&cached) > 0 || !f) {
        if (f)
            fclose(f);
        return atomic_load(&cached);
    }
    if (fgets(text, sizeof(text), f))
        at = strrchr(text, ')');
    fclose(f);
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (at)
        ticks = strtoull(at, NULL, 10);
    clock_gettime(CLOCK_BOOTTIME, &up);
    atomic_store(&cached, (double)clock_wall_us() / 1e6 -
                              ((double)up.tv_sec + (double)up.tv_nsec / 1e9) +
                              (double)ticks / (double)sysconf(_SC_CLK_TCK));
    return atomic_load(&cached);
}

static void read_memory(uint64_t *resident, uint64_t *virtual)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    FILE *f = fopen("/proc/self/statm", "re");
    char text[128];

    *resident = *virtual = 0;
    if (!f)
        return;
    if (fgets(text, sizeof(text), f)) {
        char *end;

        *virtual = strtoul(text, &end, 10) * page;
        *resident = strtoul(end, NULL, 10) * page;
    }
    fclose(f);
}

static void put_own(struct buf *out, enum metrics_format format, const char *name, const char *type,
                    const char *help, uint64_t value)
{
    put_head(out, format, name, type, help);
    put_sample(out, name, "", "");
    buf_put_uint(out, value);
    buf_putc(out, '\n');
}

static void put_process(struct buf *out, enum metrics_format format)
{
    struct rusage usage;
    struct rlimit files;
    uint64_t resident;
    uint64_t virtual;

    getrusage(RUSAGE_SELF, &usage);
    getrlimit(RLIMIT_NOFILE, &files);
    read_memory(&resident, &virtual);
    put_head(out, format, "process_cpu_seconds_total", "counter",
             "User and system CPU time spent.");
    buf_printf(out, "process_cpu_seconds_total %.6f\n",
               (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                   (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    put_own(out, format, "process_resident_memory_bytes", "gauge", "Resident memory.", resident);
    put_own(out, format, "process_virtual_memory_bytes", "gauge", "Virtual memory.", virtual);
    put_own(out, format, "process_open_fds", "gauge", "Open file descriptors.", open_descriptors());
    put_own(out, format, "process_max_fds", "gauge", "Most file descriptors that may be open.",
            files.rlim_cur);
    put_own(out, format, "process_threads", "gauge", "Threads.", count_entries("/proc/self/task"));
    put_head(out, format, "process_start_time_seconds", "gauge",
             "Start of the process since the epoch.");
    buf_printf(out, "process_start_time_seconds %.2f\n", start_time());
    put_own(out, format, "msg_log_dropped_total", "counter",
            "Log lines dropped because stdout did not take them.", log_dropped());
}

void metrics_render(struct buf *out, enum metrics_format format)
{
    for (const struct family *f = metrics_lock(); f; f = f->next)
        put_family(out, format, f);
    metrics_unlock();
    put_process(out, format);
    if (format == METRICS_OPENMETRICS)
        buf_puts(out, "# EOF\n");
}
