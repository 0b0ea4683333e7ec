#include "libcommon/domain/webhook_set.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"

static struct {
    _Atomic int64_t believed_until_ms; /* monotonic */
    _Atomic size_t count;
    pthread_rwlock_t lock;
    int64_t *customers; /* sorted */
} set = {.believed_until_ms = INT64_MIN, .lock = PTHREAD_RWLOCK_INITIALIZER};

static bool is_known(void)
{
    return clock_mono_ms() < atomic_load_explicit(&set.believed_until_ms, memory_order_relaxed);
}

static int by_number(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

bool webhook_set_any(void)
{
    return !is_known() || atomic_load(&set.count);
}

bool webhook_set_may_have(int64_t customer_id)
{
    bool found;

    if (!is_known())
        return true;
    if (!atomic_load(&set.count))
        return false;
    pthread_rwlock_rdlock(&set.lock);
    found = bsearch(&customer_id, set.customers, atomic_load(&set.count), sizeof(customer_id),
                    by_number);
    pthread_rwlock_unlock(&set.lock);
    return found;
}

void webhook_set_know(const int64_t *customers, size_t n, int64_t until_ms)
{
    int64_t *copy = must_alloc(n + 1, sizeof(*copy));
    int64_t *old;

    if (n)
        memcpy(copy, customers, n * sizeof(*copy));
    pthread_rwlock_wrlock(&set.lock);
    old = set.customers;
    set.customers = copy;
    atomic_store(&set.count, n);
    atomic_store(&set.believed_until_ms, until_ms);
    pthread_rwlock_unlock(&set.lock);
    free(old);
}

void webhook_set_believe(int64_t until_ms)
{
    atomic_store(&set.believed_until_ms, until_ms);
}

void webhook_set_forget(void)
{
    webhook_set_know(NULL, 0, INT64_MIN);
}
