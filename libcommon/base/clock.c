#include "libcommon/base/clock.h"

#include <string.h>
#include <time.h>

#include "libcommon/base/buf.h"

#define YEAR_10000_US INT64_C(253402300800000000)

static int64_t read_us(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t clock_mono_us(void)
{
    return read_us(CLOCK_MONOTONIC);
}

int64_t clock_mono_ms(void)
{
    return read_us(CLOCK_MONOTONIC) / 1000;
}

int64_t clock_wall_us(void)
{
    return read_us(CLOCK_REALTIME);
}

void clock_put_rfc3339(struct buf *b, int64_t wall_us)
{
    time_t seconds = (time_t)(wall_us / 1000000);
    struct tm tm;

    gmtime_r(&seconds, &tm);
    buf_printf(b, "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", tm.tm_year + 1900, tm.tm_mon + 1,
               tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(wall_us % 1000000));
}

/* n digits that stand for a number from low to high; moves *s behind them. */
static bool read_digits(const char **s, int n, int low, int high, int *out)
{
    *out = 0;
    for (int i = 0; i < n; i++, (*s)++) {
        if (**s < '0' || **s > '9')
            return false;
        *out = *out * 10 + (**s - '0');
    }
    return *out >= low && *out <= high;
}

static bool read_char(const char **s, const char *any)
{
    return **s && strchr(any, *(*s)++);
}

/* The microseconds of ".25"; none is none. */
static bool read_fraction(const char **s, int *us)
{
    int unit = 100000;

    *us = 0;
    if (**s != '.')
        return true;
    if ((*s)[1] < '0' || (*s)[1] > '9')
        return false;
    for ((*s)++; **s >= '0' && **s <= '9'; (*s)++, unit /= 10)
        *us += unit * (**s - '0');
    return true;
}

static bool read_offset(const char **s, int *minutes)
{
    int sign = **s == '-' ? -1 : 1;
    int h, m;

    *minutes = 0;
    if (**s == 'Z' || **s == 'z')
        return (*s)++, true;
    if (!read_char(s, "+-") || !read_digits(s, 2, 0, 23, &h) || !read_char(s, ":") ||
        !read_digits(s, 2, 0, 59, &m))
        return false;
    *minutes = sign * (h * 60 + m);
    return true;
}

bool clock_read_rfc3339(const char *s, int64_t *wall_us)
{
    struct tm tm = {0};
    struct tm day;
    int us, minutes;
    time_t seconds;

    if (!read_digits(&s, 4, 1970, 9999, &tm.tm_year) || !read_char(&s, "-") ||
        !read_digits(&s, 2, 1, 12, &tm.tm_mon) || !read_char(&s, "-") ||
        !read_digits(&s, 2, 1, 31, &tm.tm_mday) || !read_char(&s, "Tt ") ||
        !read_digits(&s, 2, 0, 23, &tm.tm_hour) || !read_char(&s, ":") ||
        !read_digits(&s, 2, 0, 59, &tm.tm_min) || !read_char(&s, ":") ||
        !read_digits(&s, 2, 0, 60, &tm.tm_sec) || !read_fraction(&s, &us) ||
        !read_offset(&s, &minutes) || *s)
        return false;
    tm.tm_year -= 1900;
    tm.tm_mon--;
    day = tm;
    seconds = timegm(&day);
    if (day.tm_mon != tm.tm_mon && tm.tm_sec < 60) /* a day that the month does not have */
        return false;
    *wall_us = ((int64_t)seconds - minutes * 60) * 1000000 + us;
    return *wall_us >= 0 && *wall_us < YEAR_10000_US;
}
