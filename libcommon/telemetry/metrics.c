#include "libcommon/telemetry/metrics.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/metrics_internal.h"
#include "libcommon/telemetry/tracer.h"

#define SLOTS 8192 /* 64 KiB a thread */

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

size_t metrics_bounds(enum metric_type type, const int64_t **bounds)
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

uint64_t metrics_sum(unsigned slot)
{
    uint64_t total = 0;

    for (struct block *b = atomic_load(&blocks); b; b = b->next)
        total += atomic_load_explicit(&b->slots[slot], memory_order_relaxed);
    return total;
}

const char *metrics_escape(char *to, size_t size, const char *value)
{
    char *at = to;

    MUST(size >= METRICS_ESCAPED(strlen(value)));
    for (; *value; value++) {
        if (strchr("\\\"\n", *value))
            *at++ = '\\';
        *at++ = *value;
        if (*value == '\n')
            at[-1] = 'n';
    }
    *at = '\0';
    return to;
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
    MUST(type != METRIC_COUNTER ||
         (strlen(name) > 6 && !strcmp(name + strlen(name) - 6, "_total")));
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
        slots_used += (unsigned)metrics_bounds(type, &bounds) + 2;
    if (type == METRIC_LATENCY)
        m->exemplars = must_alloc(metrics_bounds(type, &bounds) + 1, sizeof(*m->exemplars));
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

/* Returns the bucket. */
static size_t observe(const struct metric *m, int64_t *value)
{
    const int64_t *bounds;
    size_t n = metrics_bounds(m->type, &bounds);
    size_t i = 0;

    if (*value < 0)
        *value = 0;
    while (i<n && * value> bounds[i])
        i++;
    bump(m->slot + (unsigned)i, 1);
    bump(m->slot + (unsigned)n + 1, (uint64_t)*value);
    return i;
}

void metrics_observe(struct metric *m, int64_t value)
{
    observe(m, &value);
}

/* Release keeps each store behind the odd version, acquire in the reader each load before its
 * second look at it. */
static void put_exemplar(struct exemplar *e, int64_t value, const struct trace_context *trace)
{
    uint32_t version = atomic_load_explicit(&e->version, memory_order_relaxed);
    uint64_t id[3];

    if (version & 1 ||
        !atomic_compare_exchange_strong_explicit(&e->version, &version, version + 1,
                                                 memory_order_acquire, memory_order_relaxed))
        return;
    memcpy(id, trace->trace_id, sizeof(trace->trace_id));
    memcpy(id + 2, trace->span_id, sizeof(trace->span_id));
    atomic_store_explicit(&e->trace_id[0], id[0], memory_order_release);
    atomic_store_explicit(&e->trace_id[1], id[1], memory_order_release);
    atomic_store_explicit(&e->span_id, id[2], memory_order_release);
    atomic_store_explicit(&e->value, value, memory_order_release);
    atomic_store_explicit(&e->at_us, clock_wall_us(), memory_order_release);
    atomic_store_explicit(&e->version, version + 2, memory_order_release);
}

void metrics_observe_traced(struct metric *m, int64_t value, const struct trace_context *trace)
{
    size_t bucket = observe(m, &value);

    if (m->exemplars && trace && tracer_wants(trace))
        put_exemplar(&m->exemplars[bucket], value, trace);
}

uint64_t metrics_value(const struct metric *m)
{
    if (m->type == METRIC_GAUGE)
        return (uint64_t)atomic_load_explicit(&m->value, memory_order_relaxed);
    return metrics_sum(m->slot);
}

const struct family *metrics_lock(void)
{
    pthread_mutex_lock(&lock);
    return families;
}

void metrics_unlock(void)
{
    pthread_mutex_unlock(&lock);
}
