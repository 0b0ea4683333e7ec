#include "libcommon/base/pause.h"

#include <errno.h>

#define LONGEST_MS \
    (INT64_C(365) * 86400 * 1000) /* "for ever" is long enough, and overflows nothing */

static int64_t us_of(int64_t ms)
{
    return (ms < LONGEST_MS ? ms : LONGEST_MS) * 1000;
}

struct timespec pause_until_us(int64_t us)
{
    struct timespec until;

    if (us < 0)
        us = 0;
    if (us > us_of(LONGEST_MS))
        us = us_of(LONGEST_MS);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += us / 1000000;
    until.tv_nsec += (long)(us % 1000000) * 1000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    return until;
}

struct timespec pause_until(int64_t ms)
{
    return pause_until_us(ms > 0 ? us_of(ms) : 0);
}

void pause_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

bool pause_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until)
{
    return pthread_cond_timedwait(cond, lock, until) == 0;
}

void pause_sleep(int64_t ms)
{
    pause_sleep_us(ms * 1000);
}

void pause_sleep_us(int64_t us)
{
    struct timespec until = pause_until_us(us);

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
}

void pause_init(struct pause *p)
{
    pthread_mutex_init(&p->lock, NULL);
    pause_cond_init(&p->wake);
    atomic_init(&p->stopping, false);
    p->running = 0;
}

void pause_destroy(struct pause *p)
{
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
}

static bool wait_until(struct pause *p, const struct timespec *until, pause_enough_fn *enough,
                       void *arg)
{
    bool stopping;

    pthread_mutex_lock(&p->lock);
    while (!atomic_load(&p->stopping) && !(enough && enough(arg)) &&
           pause_cond_wait(&p->wake, &p->lock, until))
        ;
    stopping = atomic_load(&p->stopping);
    pthread_mutex_unlock(&p->lock);
    return stopping;
}

bool pause_for_us(struct pause *p, int64_t us)
{
    struct timespec until = pause_until_us(us);

    return wait_until(p, &until, NULL, NULL);
}

bool pause_for(struct pause *p, int64_t ms)
{
    return pause_for_us(p, ms > 0 ? us_of(ms) : 0);
}

bool pause_for_or(struct pause *p, int64_t ms, pause_enough_fn *enough, void *arg)
{
    struct timespec until = pause_until(ms);

    return wait_until(p, &until, enough, arg);
}

void pause_poke(struct pause *p)
{
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

void pause_stop(struct pause *p)
{
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stopping, true);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

bool pause_stopping(const struct pause *p)
{
    return atomic_load(&p->stopping);
}

void pause_enter(struct pause *p)
{
    pthread_mutex_lock(&p->lock);
    p->running++;
    pthread_mutex_unlock(&p->lock);
}

void pause_leave(struct pause *p)
{
    pthread_mutex_lock(&p->lock);
    p->running--;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

bool pause_ended(struct pause *p, int64_t ms)
{
    struct timespec until = pause_until(ms);
    bool ended;

    pthread_mutex_lock(&p->lock);
    while (p->running && pause_cond_wait(&p->wake, &p->lock, &until))
        ;
    ended = !p->running;
    pthread_mutex_unlock(&p->lock);
    return ended;
}
