#include "consumerd/alone.h"

#include <pthread.h>
#include <stdlib.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"

#define NOBODY MESSAGE_LANES
#define ALONE_MS 200 /* after that no further suspect is begun */

struct alone {
    struct job_queue *queues[MESSAGE_LANES];
    pthread_mutex_t lock;
    bool in_hand[MESSAGE_LANES], suspects[MESSAGE_LANES];
    int holder, last;  /* the lane that is, or was, alone; or NOBODY */
    int64_t since_ms;  /* of the holder */
    int64_t wanted_ms; /* since when suspects wait */
    int64_t open_until_ms;
    int64_t closed_ms_max;
};

struct alone *alone_new(struct job_queue *const queues[MESSAGE_LANES], int64_t closed_ms_max)
{
    struct alone *a = must_alloc(1, sizeof(*a));

    for (int lane = 0; lane < MESSAGE_LANES; lane++)
        a->queues[lane] = queues[lane];
    pthread_mutex_init(&a->lock, NULL);
    a->holder = a->last = NOBODY;
    a->closed_ms_max = closed_ms_max;
    return a;
}

void alone_free(struct alone *a)
{
    if (!a)
        return;
    pthread_mutex_destroy(&a->lock);
    free(a);
}

static enum message_type other(enum message_type lane)
{
    return lane == MESSAGE_NORMAL ? MESSAGE_EXPRESS : MESSAGE_NORMAL;
}

static bool wanted(const struct alone *a)
{
    return a->suspects[MESSAGE_NORMAL] || a->suspects[MESSAGE_EXPRESS];
}

/* In vain: it is closed for a while and open for a while. */
static bool waits_for_long(const struct alone *a, int64_t now_ms)
{
    int64_t since_ms = a->wanted_ms > a->open_until_ms ? a->wanted_ms : a->open_until_ms;

    return (now_ms - since_ms) / a->closed_ms_max % 2 != 0;
}

static bool is_open(const struct alone *a)
{
    int64_t now_ms;

    if (!wanted(a))
        return true;
    now_ms = clock_mono_ms();
    return now_ms < a->open_until_ms || waits_for_long(a, now_ms);
}

static bool joins(const struct alone *a, enum message_type lane)
{
    if (a->holder != NOBODY)
        return false;
    if (is_open(a))
        return true;
    return lane == MESSAGE_EXPRESS && a->in_hand[MESSAGE_NORMAL];
}

/* Two that want it take turns. */
static bool begins(const struct alone *a, enum message_type lane)
{
    if (a->holder != NOBODY)
        return a->holder == (int)lane;
    return !a->in_hand[other(lane)] && clock_mono_ms() >= a->open_until_ms &&
           !(a->last == (int)lane && a->suspects[other(lane)]);
}

/* Of the holder: whether it begins another suspect. */
static bool goes_on(const struct alone *a, int64_t now_ms)
{
    return now_ms - a->since_ms < ALONE_MS && !a->suspects[other((enum message_type)a->holder)];
}

bool alone_may_join(struct alone *a, enum message_type lane)
{
    bool yes;

    pthread_mutex_lock(&a->lock);
    yes = joins(a, lane);
    pthread_mutex_unlock(&a->lock);
    return yes;
}

bool alone_join(struct alone *a, enum message_type lane)
{
    bool yes;

    pthread_mutex_lock(&a->lock);
    yes = joins(a, lane);
    a->in_hand[lane] |= yes;
    pthread_mutex_unlock(&a->lock);
    return yes;
}

bool alone_may_begin(struct alone *a, enum message_type lane)
{
    bool yes;

    pthread_mutex_lock(&a->lock);
    yes = begins(a, lane);
    pthread_mutex_unlock(&a->lock);
    return yes;
}

bool alone_begin(struct alone *a, enum message_type lane)
{
    int64_t now_ms = clock_mono_ms();
    bool yes;

    pthread_mutex_lock(&a->lock);
    yes = begins(a, lane);
    if (yes && a->holder == NOBODY) {
        a->holder = a->last = (int)lane;
        a->since_ms = now_ms;
    } else if (yes) {
        yes = goes_on(a, now_ms);
    }
    pthread_mutex_unlock(&a->lock);
    return yes;
}

int64_t alone_due_ms(struct alone *a)
{
    int64_t due_ms;

    pthread_mutex_lock(&a->lock);
    due_ms = a->open_until_ms;
    pthread_mutex_unlock(&a->lock);
    return due_ms;
}

static void open_again(struct alone *a, int64_t now_ms)
{
    a->holder = NOBODY;
    a->open_until_ms = now_ms + (now_ms - a->since_ms);
}

void alone_tell(struct alone *a, enum message_type lane, bool in_hand, bool suspects)
{
    int64_t now_ms = clock_mono_ms();
    bool news;

    pthread_mutex_lock(&a->lock);
    news = (a->in_hand[lane] && !in_hand && wanted(a)) || (a->suspects[lane] && !suspects);
    if (!wanted(a) && suspects)
        a->wanted_ms = now_ms;
    a->in_hand[lane] = in_hand;
    a->suspects[lane] = suspects;
    if (a->holder == (int)lane && !in_hand && !(suspects && goes_on(a, now_ms))) {
        open_again(a, now_ms);
        news = true;
    }
    pthread_mutex_unlock(&a->lock);
    for (int i = 0; news && i < MESSAGE_LANES; i++)
        job_queue_poke(a->queues[i]);
}
