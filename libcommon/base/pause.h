#ifndef LIBCOMMON_BASE_PAUSE_H
#define LIBCOMMON_BASE_PAUSE_H

/* A wait that ends early when its thread is to stop. One thread waits, any thread stops it. */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct pause {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping;
};

void pause_init(struct pause *p);
void pause_destroy(struct pause *p);
/* Waits ms, or until pause_stop. True: the thread is to stop. */
bool pause_for(struct pause *p, int64_t ms);
void pause_stop(struct pause *p);

/* For pthread_cond_timedwait on conditions made by pause_cond_init: ms from now, monotonic. */
struct timespec pause_until(int64_t ms);
void pause_cond_init(pthread_cond_t *cond);

#endif
