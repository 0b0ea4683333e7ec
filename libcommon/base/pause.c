#include "libcommon/base/pause.h"

#include <time.h>

void pause_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

struct timespec pause_until(int64_t ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    return until;
}

void pause_init(struct pause *p)
{
    pthread_mutex_init(&p->lock, NULL);
    pause_cond_init(&p->wake);
    p->stopping = false;
}

void pause_destroy(struct pause *p)
{
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
}

bool pause_for(struct pause *p, int64_t ms)
{
    struct timespec until = pause_until(ms);
    bool stop;

    pthread_mutex_lock(&p->lock);
    while (!p->stopping && pthread_cond_timedwait(&p->wake, &p->lock, &until) == 0)
        ;
    stop = p->stopping;
    pthread_mutex_unlock(&p->lock);
    return stop;
}

void pause_stop(struct pause *p)
{
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
}
