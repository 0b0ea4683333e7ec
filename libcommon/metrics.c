#include "libcommon/metrics.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "libcommon/buf.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/must.h"

#define SLOTS 8192 /* 64 KiB a thread */

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_LATENCY, METRIC_SIZES };

struct metric {
    struct metric *next; /* in the family */
    enum metric_type type;
    char *labels;
    unsigned slot;         /* counter: one; histogram: a bucket each, +Inf, then the sum */
    _Atomic int64_t value; /* gauge */
};

struct family {
    struct family *next;
    char *name;
    char *help;
    enum metric_type type;
    struct metric *first;
    struct metric **last;
};

struct block {
    struct block *next;
    _Atomic bool taken; /* by a running thread */
    _Atomic uint64_t slots[SLOTS];
};

static const int64_t latency_us[] = {250,     500,     1000,     2500,    5000,   10000,
                                     25000,   50000,   100000,   250000,  500000, 1000000,
                                     2500000, 5000000, 10000000, 30000000};
static const int64_t sizes[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct family *families;
static struct family **families_last = &families;
static unsigned slots_used;
static struct block *_Atomic blocks;
static _Thread_local struct block *mine;
static pthread_key_t block_key;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

static size_t bounds_of(enum metric_type type, const int64_t **bounds)
{
    *bounds = type == METRIC_LATENCY ? latency_us : sizes;
    return type == METRIC_LATENCY ? COUNT(latency_us) : COUNT(sizes);
}

static void give_back(void *block)
{
    atomic_store_explicit(&((struct block *)block)->taken, false, memory_order_release);
}

static void make_key(void)
{
    MUST(pthread_key_create(&block_key, give_back) == 0);
}

/* A block stays in the list when its thread ends, since its counts still count; the next new thread
 * goes on with it, so that threads that come and go cost no memory. */
static struct block *take_block(void)
{
    struct block *b;

    pthread_once(&key_once, make_key);
    for (b = atomic_load(&blocks); b; b = b->next) {
        bool taken = false;

        if (atomic_compare_exchange_strong_explicit(&b->taken, &taken, true, memory_order_acquire,
                                                    memory_order_relaxed))
            break;
    }
    if (!b) {
        b = must_alloc(1, sizeof(*b));
        atomic_init(&b->taken, true);
        b->next = atomic_load(&blocks);
        while (!atomic_compare_exchange_weak(&blocks, &b->next, b))
            ;
    }
    MUST(pthread_setspecific(block_key, b) == 0);
    return b;
}

static struct block *my_block(void)
{
    if (!mine)
        mine = take_block();
    return mine;
}

static void bump(unsigned slot, uint64_t n)
{
    _Atomic uint64_t *p = &my_block()->slots[slot];

    atomic_store_explicit(p, atomic_load_explicit(p, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static uint64_t sum(unsigned slot)
{
    uint64_t total = 0;

    for (struct block *b = atomic_load(&blocks); b; b = b->next)
        total += atomic_load_explicit(&b->slots[slot], memory_order_relaxed);
    return total;
}

static struct family *find_family(const char *name, const char *help, enum metric_type type)
{
    struct family *f;

    for (f = families; f; f = f->next) {
        if (!strcmp(f->name, name)) {
            MUST(f->type == type);
            return f;
        }
    }
    f = must_alloc(1, sizeof(*f));
    f->name = must_strdup(name);
    f->help = must_strdup(help);
    f->type = type;
    f->last = &f->first;
    *families_last = f;
    families_last = &f->next;
    return f;
}

static struct metric *find(const char *name, const char *help, const char *labels,
                           enum metric_type type)
{
    const int64_t *bounds;
    struct family *f;
    struct metric *m;

    pthread_mutex_lock(&lock);
    f = find_family(name, help, type);
    for (m = f->first; m; m = m->next)
        if (!strcmp(m->labels, labels))
            goto out;
    m = must_alloc(1, sizeof(*m));
    m->type = type;
    m->labels = must_strdup(labels);
    m->slot = slots_used;
    if (type == METRIC_COUNTER)
        slots_used += 1;
    else if (type != METRIC_GAUGE)
        slots_used += (unsigned)bounds_of(type, &bounds) + 2;
    MUST(slots_used <= SLOTS);
    *f->last = m;
    f->last = &m->next;
out:
    pthread_mutex_unlock(&lock);
    return m;
}

struct metric *metrics_counter(const char *family, const char *help, const char *labels)
{
    return find(family, help, labels, METRIC_COUNTER);
}

struct metric *metrics_gauge(const char *family, const char *help, const char *labels)
{
    return find(family, help, labels, METRIC_GAUGE);
}

struct metric *metrics_latency(const char *family, const char *help, const char *labels)
{
    return find(family, help, labels, METRIC_LATENCY);
}

struct metric *metrics_sizes(const char *family, const char *help, const char *labels)
{
    return find(family, help, labels, METRIC_SIZES);
}

void metrics_add(struct metric *counter, uint64_t n)
{
    bump(counter->slot, n);
}

void metrics_set(struct metric *gauge, int64_t value)
{
    atomic_store_explicit(&gauge->value, value, memory_order_relaxed);
}

void metrics_observe(struct metric *m, int64_t value)
{
    const int64_t *bounds;
    size_t n = bounds_of(m->type, &bounds);
    size_t i = 0;

    if (value < 0)
        value = 0;
    while (i < n && value > bounds[i])
        i++;
    bump(m->slot + (unsigned)i, 1);
    bump(m->slot + (unsigned)n + 1, (uint64_t)value);
}

uint64_t metrics_value(const struct metric *m)
{
    if (m->type == METRIC_GAUGE)
        return (uint64_t)atomic_load_explicit(&m->value, memory_order_relaxed);
    return sum(m->slot);
}

static void put_seconds(struct buf *out, uint64_t us)
{
    buf_printf(out, "%llu.%06llu", (unsigned long long)(us / 1000000),
               (unsigned long long)(us % 1000000));
}

static void put_sample(struct buf *out, const char *name, const char *suffix, const char *labels)
{
    buf_puts(out, name);
    buf_puts(out, suffix);
    if (*labels)
        buf_printf(out, "{%s}", labels);
    buf_putc(out, ' ');
}

static void put_histogram(struct buf *out, const char *name, const struct metric *m)
{
    const int64_t *bounds;
    size_t n = bounds_of(m->type, &bounds);
    uint64_t count = 0;
    uint64_t total;

    for (size_t i = 0; i <= n; i++) {
        count += sum(m->slot + (unsigned)i);
        buf_printf(out, "%s_bucket{%s%sle=\"", name, m->labels, *m->labels ? "," : "");
        if (i == n)
            buf_puts(out, "+Inf");
        else if (m->type == METRIC_LATENCY)
            buf_printf(out, "%g", (double)bounds[i] / 1e6);
        else
            buf_put_int(out, bounds[i]);
        buf_printf(out, "\"} %llu\n", (unsigned long long)count);
    }
    put_sample(out, name, "_sum", m->labels);
    total = sum(m->slot + (unsigned)n + 1);
    if (m->type == METRIC_LATENCY)
        put_seconds(out, total);
    else
        buf_put_uint(out, total);
    buf_putc(out, '\n');
    put_sample(out, name, "_count", m->labels);
    buf_put_uint(out, count);
    buf_putc(out, '\n');
}

static void put_family(struct buf *out, const struct family *f)
{
    static const char *const types[] = {[METRIC_COUNTER] = "counter",
                                        [METRIC_GAUGE] = "gauge",
                                        [METRIC_LATENCY] = "histogram",
                                        [METRIC_SIZES] = "histogram"};

    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", f->name, f->help, f->name, types[f->type]);
    for (const struct metric *m = f->first; m; m = m->next) {
        if (f->type == METRIC_LATENCY || f->type == METRIC_SIZES) {
            put_histogram(out, f->name, m);
            continue;
        }
        put_sample(out, f->name, "", m->labels);
        if (f->type == METRIC_COUNTER)
            buf_put_uint(out, sum(m->slot));
        else
            buf_put_int(out, atomic_load_explicit(&m->value, memory_order_relaxed));
        buf_putc(out, '\n');
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

static void put_process(struct buf *out)
{
    struct rusage usage;
    struct rlimit files;
    unsigned long pages_virtual = 0;
    unsigned long pages_resident = 0;
    long page = sysconf(_SC_PAGESIZE);
    FILE *f = fopen("/proc/self/statm", "re");
    char text[128];

    getrusage(RUSAGE_SELF, &usage);
    getrlimit(RLIMIT_NOFILE, &files);
    if (f) {
        if (fgets(text, sizeof(text), f)) {
            char *end;

            pages_virtual = strtoul(text, &end, 10);
            pages_resident = strtoul(end, NULL, 10);
        }
        fclose(f);
    }
    buf_printf(out,
               "# HELP process_cpu_seconds_total User and system CPU time spent.\n"
               "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total %.6f\n",
               (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                   (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    buf_printf(out,
               "# HELP process_resident_memory_bytes Resident memory.\n"
               "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes %lu\n"
               "# HELP process_virtual_memory_bytes Virtual memory.\n"
               "# TYPE process_virtual_memory_bytes gauge\nprocess_virtual_memory_bytes %lu\n",
               pages_resident * (unsigned long)page, pages_virtual * (unsigned long)page);
    buf_printf(out,
               "# HELP process_open_fds Open file descriptors.\n"
               "# TYPE process_open_fds gauge\nprocess_open_fds %u\n"
               "# HELP process_max_fds Most file descriptors that may be open.\n"
               "# TYPE process_max_fds gauge\nprocess_max_fds %llu\n"
               "# HELP process_threads Threads.\n"
               "# TYPE process_threads gauge\nprocess_threads %u\n",
               count_entries("/proc/self/fd"), (unsigned long long)files.rlim_cur,
               count_entries("/proc/self/task"));
    buf_printf(out,
               "# HELP process_start_time_seconds Start of the process since the epoch.\n"
               "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds %.2f\n",
               start_time());
    buf_printf(out,
               "# HELP msg_log_dropped_total Log lines dropped because stdout did not take them.\n"
               "# TYPE msg_log_dropped_total counter\nmsg_log_dropped_total %llu\n",
               (unsigned long long)log_dropped());
}

void metrics_render(struct buf *out)
{
    pthread_mutex_lock(&lock);
    for (const struct family *f = families; f; f = f->next)
        put_family(out, f);
    pthread_mutex_unlock(&lock);
    put_process(out);
}
