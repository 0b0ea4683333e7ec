#include "test/loadtest/pace.h"

#include <math.h>

int64_t pace_due_us(double rate, uint64_t n)
{
    return (int64_t)((double)n * 1e6 / rate);
}

uint64_t pace_total(double rate, int64_t duration_us)
{
    return (uint64_t)ceil(rate * (double)duration_us / 1e6 - 1e-9);
}
