#include "libcommon/base/backoff.h"

int64_t backoff_ms(unsigned attempt, int64_t base_ms, int64_t max_ms, uint64_t random)
{
    int64_t wait = base_ms;

    while (attempt > 1 && wait < max_ms) {
        wait *= 2;
        attempt--;
    }
    if (wait > max_ms)
        wait = max_ms;
    return wait - (int64_t)(random % (uint64_t)(wait / 2 + 1));
}
