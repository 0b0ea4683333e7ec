#include "test/loadtest/pace.h"

#include <math.h>
#include <stdlib.h>

#define FACTOR_MAX 1e6

/* Into rates, as they are written. */
static bool read_curve(struct pace *p, const char *curve)
{
    const char *at = *curve ? curve : "1";

    for (p->parts = 0; p->parts < PACE_PARTS_MAX; at++) {
        char *end;
        double factor = strtod(at, &end);

        if (end == at || !(factor >= 0 && factor <= FACTOR_MAX))
            return false;
        p->rates[p->parts++] = factor;
        at = end;
        if (*at != ',')
            return !*at;
    }
    return false;
}

bool pace_init(struct pace *p, double rate, int64_t duration_us, const char *curve)
{
    double sum = 0;

    if (!read_curve(p, curve))
        return false;
    for (size_t i = 0; i < p->parts; i++)
        sum += p->rates[i];
    if (!(sum > 0))
        return false;
    p->part_us = (double)duration_us / (double)p->parts;
    p->before[0] = 0;
    for (size_t i = 0; i < p->parts; i++) {
        p->rates[i] *= rate * (double)p->parts / sum;
        p->before[i + 1] = p->before[i] + p->rates[i] * p->part_us / 1e6;
    }
    return true;
}

int64_t pace_due_us(const struct pace *p, uint64_t n)
{
    size_t i = 0;

    while (i + 1 < p->parts && p->before[i + 1] <= (double)n)
        i++;
    while (i && !(p->rates[i] > 0)) /* rounding left a request to a part that has none */
        i--;
    return (int64_t)((double)i * p->part_us + ((double)n - p->before[i]) * 1e6 / p->rates[i]);
}

uint64_t pace_total(const struct pace *p)
{
    return (uint64_t)ceil(p->before[p->parts] - 1e-6);
}
