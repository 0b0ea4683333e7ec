#include "api/limiter.h"

#include <pthread.h>
#include <stdlib.h>

#include "libcommon/base/must.h"
#include "libcommon/base/random.h"

#define SETS 8192 /* times WAYS buckets: 1 MiB */
#define WAYS 8
#define LOCKS 64

struct bucket {
    int64_t key;
    int64_t full_at_ns; /* 0: never used */
};

struct limiter {
    int64_t interval_ns; /* between tokens; 0: no limit */
    int64_t depth_ns;    /* burst * interval */
    uint64_t seed;       /* customers cannot choose whom they collide with */
    pthread_mutex_t locks[LOCKS];
    struct bucket sets[SETS][WAYS];
};

struct limiter *limiter_new(int64_t rate, int64_t burst)
{
    struct limiter *l = must_alloc(1, sizeof(*l));

    l->interval_ns = rate ? 1000000000 / rate : 0;
    l->depth_ns = l->interval_ns * burst;
    l->seed = random_u64();
    for (int i = 0; i < LOCKS; i++)
        pthread_mutex_init(&l->locks[i], NULL);
    return l;
}

void limiter_free(struct limiter *l)
{
    if (!l)
        return;
    for (int i = 0; i < LOCKS; i++)
        pthread_mutex_destroy(&l->locks[i]);
    free(l);
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

static struct bucket *find(struct bucket *set, int64_t key)
{
    struct bucket *fullest = &set[0];

    for (int i = 0; i < WAYS; i++) {
        if (set[i].key == key && set[i].full_at_ns)
            return &set[i];
        if (set[i].full_at_ns < fullest->full_at_ns)
            fullest = &set[i];
    }
    fullest->key = key;
    fullest->full_at_ns = 0;
    return fullest;
}

int64_t limiter_take(struct limiter *l, int64_t key, int64_t now_us)
{
    size_t at = mix((uint64_t)key ^ l->seed) % SETS;
    int64_t now_ns = now_us * 1000;
    int64_t excess_ns = 0;
    struct bucket *b;
    int64_t full_at_ns;

    if (!l->interval_ns)
        return 0;
    pthread_mutex_lock(&l->locks[at % LOCKS]);
    b = find(l->sets[at], key);
    full_at_ns = (b->full_at_ns > now_ns ? b->full_at_ns : now_ns) + l->interval_ns;
    if (full_at_ns - now_ns > l->depth_ns)
        excess_ns = full_at_ns - now_ns - l->depth_ns;
    else
        b->full_at_ns = full_at_ns;
    pthread_mutex_unlock(&l->locks[at % LOCKS]);
    return (excess_ns + 999999999) / 1000000000;
}
