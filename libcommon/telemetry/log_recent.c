#include "libcommon/telemetry/log_recent.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"

struct recent {
    char event[64];
    char error_type[16];
    enum log_level level;
    int64_t first_us, last_us;
    uint64_t count;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct recent list[LOG_RECENT_MAX]; /* the latest first */
static size_t used;

static size_t find(const struct recent *wanted)
{
    for (size_t i = 0; i < used; i++)
        if (list[i].level == wanted->level && !strcmp(list[i].event, wanted->event) &&
            !strcmp(list[i].error_type, wanted->error_type))
            return i;
    return used;
}

void log_recent_add(enum log_level level, const char *event, const char *error_type,
                    int64_t wall_us)
{
    struct recent r = {.level = level, .first_us = wall_us};
    size_t at;

    snprintf(r.event, sizeof(r.event), "%s", event);
    snprintf(r.error_type, sizeof(r.error_type), "%s", error_type);
    pthread_mutex_lock(&lock);
    at = find(&r);
    if (at < used)
        r = list[at];
    else if (used < LOG_RECENT_MAX)
        used++;
    else
        at = LOG_RECENT_MAX - 1;
    r.last_us = wall_us;
    r.count++;
    memmove(list + 1, list, at * sizeof(list[0]));
    list[0] = r;
    pthread_mutex_unlock(&lock);
}

static void put(struct buf *out, const struct recent *r)
{
    buf_puts(out, "{\"event\":");
    buf_put_json(out, r->event, strlen(r->event));
    buf_printf(out, ",\"level\":\"%s\",\"error_type\":", r->level == LOG_ERROR ? "error" : "warn");
    buf_put_json(out, r->error_type, strlen(r->error_type));
    buf_puts(out, ",\"count\":");
    buf_put_uint(out, r->count);
    buf_puts(out, ",\"first\":\"");
    clock_put_rfc3339(out, r->first_us);
    buf_puts(out, "\",\"last\":\"");
    clock_put_rfc3339(out, r->last_us);
    buf_puts(out, "\"}");
}

void log_recent_render(struct buf *out)
{
    struct recent copy[LOG_RECENT_MAX];
    size_t n;

    pthread_mutex_lock(&lock);
    n = used;
    memcpy(copy, list, sizeof(copy));
    pthread_mutex_unlock(&lock);
    buf_putc(out, '[');
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(out, ',');
        put(out, &copy[i]);
    }
    buf_putc(out, ']');
}
