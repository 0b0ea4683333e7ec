#include "libcommon/telemetry/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/err.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/base/trace.h"
#include "libcommon/telemetry/log_recent.h"

#define RING_SIZE (1u << 20)

static struct {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    pthread_cond_t drained;
    pthread_t writer;
    size_t head;  /* bytes ever written in; head - tail <= RING_SIZE */
    size_t tail;  /* bytes ever written out */
    bool running; /* the writer takes what is put in the ring */
    bool stopping;
    const char *service;
    enum log_level level;
    int fd;
    _Atomic uint64_t dropped;
} logger = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .filled = PTHREAD_COND_INITIALIZER,
    .drained = PTHREAD_COND_INITIALIZER,
    .level = LOG_INFO,
    .fd = STDOUT_FILENO,
};

/* Not on the heap: threads that a drain could not wait for log beyond log_stop. */
static char ring[RING_SIZE];

static void put_field(struct buf *b, const struct log_field *f)
{
    if (f->type == LOG_FIELD_TRACE) {
        if (!f->v.trace || !trace_valid(f->v.trace))
            return;
        buf_puts(b, ",\"trace_id\":\"");
        buf_put_hex(b, f->v.trace->trace_id, sizeof(f->v.trace->trace_id));
        buf_puts(b, "\",\"span_id\":\"");
        buf_put_hex(b, f->v.trace->span_id, sizeof(f->v.trace->span_id));
        buf_putc(b, '"');
        return;
    }
    buf_puts(b, ",\"");
    buf_puts(b, f->key);
    buf_puts(b, "\":");
    switch (f->type) {
    case LOG_FIELD_STR:
        if (f->v.str)
            buf_put_json(b, f->v.str, strlen(f->v.str));
        else
            buf_puts(b, "null");
        break;
    case LOG_FIELD_INT:
        buf_put_int(b, f->v.num);
        break;
    case LOG_FIELD_ERR:
        buf_put_json(b, f->v.err->msg, strlen(f->v.err->msg));
        buf_puts(b, ",\"error.type\":\"");
        buf_puts(b, err_kind_name(f->v.err->kind));
        buf_puts(b, "\",\"error.code\":");
        buf_put_uint(b, f->v.err->code);
        break;
    case LOG_FIELD_TRACE:
        break;
    }
}

/* Returns how much of it was written: stdout may be a pipe that nobody reads (it gives up at the
 * deadline), or a file on a full disk. */
static size_t write_all(const char *p, size_t n, int64_t deadline_ms)
{
    size_t written = 0;

    while (written < n) {
        ssize_t done = write(logger.fd, p + written, n - written);

        if (done >= 0) {
            written += (size_t)done;
        } else if (errno == EAGAIN) {
            struct pollfd fd = {.fd = logger.fd, .events = POLLOUT};
            int64_t left = deadline_ms - clock_mono_ms();

            if (left <= 0)
                break;
            poll(&fd, 1, (int)left);
        } else if (errno != EINTR) {
            break;
        }
    }
    return written;
}

/* Lines whose end lies in these bytes and was not written. */
static void count_dropped(const char *p, size_t n)
{
    uint64_t lines = 0;

    for (size_t i = 0; i < n; i++)
        lines += p[i] == '\n';
    atomic_fetch_add_explicit(&logger.dropped, lines, memory_order_relaxed);
}

/* A write that failed may have torn a line: what is left of it is not written later, and the next
 * one begins on a line of its own. */
struct outlet {
    bool torn;     /* the last byte written does not end a line */
    bool skipping; /* the rest of a lost line is still to come */
};

static void write_lines(struct outlet *o, const char *p, size_t n)
{
    size_t written;

    if (o->skipping) {
        const char *end = memchr(p, '\n', n);
        size_t rest = end ? (size_t)(end - p) + 1 : n;

        count_dropped(p, rest);
        o->skipping = !end;
        p += rest;
        n -= rest;
    }
    if (!n)
        return;
    if (o->torn && write_all("\n", 1, INT64_MAX / 2))
        o->torn = false;
    written = o->torn ? 0 : write_all(p, n, INT64_MAX / 2);
    count_dropped(p + written, n - written);
    o->skipping = written < n && p[n - 1] != '\n';
    if (written)
        o->torn = written < n && p[written - 1] != '\n';
}

static void *writer_main(void *arg)
{
    struct outlet outlet = {0};

    (void)arg;
    pthread_mutex_lock(&logger.lock);
    for (;;) {
        size_t at = logger.tail % RING_SIZE;
        size_t n = logger.head - logger.tail;

        if (!n) {
            pthread_cond_broadcast(&logger.drained);
            if (logger.stopping) {
                logger.running = false; /* threads that are left write for themselves */
                break;
            }
            pthread_cond_wait(&logger.filled, &logger.lock);
            continue;
        }
        if (n > RING_SIZE - at)
            n = RING_SIZE - at;
        pthread_mutex_unlock(&logger.lock);
        write_lines(&outlet, ring + at, n);
        pthread_mutex_lock(&logger.lock);
        logger.tail += n;
    }
    pthread_mutex_unlock(&logger.lock);
    return NULL;
}

void log_to_stderr(void)
{
    logger.fd = STDERR_FILENO;
}

void log_start(const char *service, enum log_level level)
{
    logger.service = service;
    logger.level = level;
    logger.stopping = false;
    pause_cond_init(&logger.drained);
    logger.running = true;
    MUST(pthread_create(&logger.writer, NULL, writer_main, NULL) == 0);
}

void log_stop(int timeout_ms)
{
    struct timespec until = pause_until(timeout_ms);
    bool drained;

    pthread_mutex_lock(&logger.lock);
    if (!logger.running) {
        pthread_mutex_unlock(&logger.lock);
        return;
    }
    logger.stopping = true;
    pthread_cond_signal(&logger.filled);
    while (logger.head != logger.tail && pause_cond_wait(&logger.drained, &logger.lock, &until))
        ;
    drained = logger.head == logger.tail;
    pthread_mutex_unlock(&logger.lock);
    if (!drained) {
        pthread_detach(logger.writer); /* stuck in write(2): the process ends without it */
        return;
    }
    pthread_join(logger.writer, NULL);
}

/* False: nobody would write it. */
static bool ring_put(const char *p, size_t n)
{
    pthread_mutex_lock(&logger.lock);
    if (!logger.running) {
        pthread_mutex_unlock(&logger.lock);
        return false;
    }
    if (n > RING_SIZE - (logger.head - logger.tail)) {
        atomic_fetch_add_explicit(&logger.dropped, 1, memory_order_relaxed);
    } else {
        size_t at = logger.head % RING_SIZE;
        size_t first = n < RING_SIZE - at ? n : RING_SIZE - at;
        bool was_empty = logger.head == logger.tail;

        memcpy(ring + at, p, first);
        memcpy(ring, p + first, n - first);
        logger.head += n;
        if (was_empty)
            pthread_cond_signal(&logger.filled);
    }
    pthread_mutex_unlock(&logger.lock);
    return true;
}

static const char *error_type(const struct log_field *fields)
{
    for (; fields->key; fields++)
        if (fields->type == LOG_FIELD_ERR)
            return err_kind_name(fields->v.err->kind);
    return "";
}

void log_write(enum log_level level, const char *event, const struct log_field *fields)
{
    static const char *const names[] = {
        [LOG_DEBUG] = "debug", [LOG_INFO] = "info", [LOG_WARN] = "warn", [LOG_ERROR] = "error"};
    struct buf b = {0};

    if (level >= LOG_WARN)
        log_recent_add(level, event, error_type(fields), clock_wall_us());
    if (level < logger.level)
        return;
    buf_puts(&b, "{\"ts\":\"");
    clock_put_rfc3339(&b, clock_wall_us());
    buf_printf(&b, "\",\"level\":\"%s\",\"service\":\"%s\",\"version\":\"%s\",\"event\":\"%s\"",
               names[level], logger.service ? logger.service : "", PROJECT_VERSION, event);
    for (; fields->key; fields++)
        put_field(&b, fields);
    buf_puts(&b, "}\n");
    if (b.failed)
        atomic_fetch_add_explicit(&logger.dropped, 1, memory_order_relaxed);
    else if (!ring_put(b.data, b.len))
        write_all(b.data, b.len, clock_mono_ms() + 1000);
    buf_free(&b);
}

uint64_t log_dropped(void)
{
    return atomic_load_explicit(&logger.dropped, memory_order_relaxed);
}
