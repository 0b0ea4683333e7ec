#ifndef LIBCOMMON_BASE_PAUSE_H
#define LIBCOMMON_BASE_PAUSE_H

/*
 * Every wait with a deadline. Deadlines are points of the monotonic clock, so that a clock that is
 * set neither shortens nor lengthens a wait; spurious wake-ups do not end one early. No other file
 * waits on a condition for a time.
 *
 * struct pause: the waits of threads that can be told to stop, and the wait for their end. Any
 * thread stops, pokes and waits for the end. Those who have a condition with a lock of their own
 * (queues) use the functions at the bottom with it.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct pause {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    _Atomic bool stopping;
    size_t running; /* threads between pause_enter and pause_leave; under lock */
};

void pause_init(struct pause *p);
void pause_destroy(struct pause *p);

/* Waits that long, or until pause_stop. True: the thread is to stop. */
bool pause_for(struct pause *p, int64_t ms);
bool pause_for_us(struct pause *p, int64_t us);
/* Ends early too once enough(arg) is true, which is asked under the pause's lock at the beginning
 * and after every pause_poke. Who makes it true does so before it pokes. */
typedef bool pause_enough_fn(void *arg);
bool pause_for_or(struct pause *p, int64_t ms, pause_enough_fn *enough, void *arg);
void pause_poke(struct pause *p);

void pause_stop(struct pause *p);
bool pause_stopping(const struct pause *p); /* takes no lock */

/* Before a thread is created, and the last thing it does. pause_ended waits until none is left (a
 * join with a time limit is not portable), at most ms; false: one is still busy. */
void pause_enter(struct pause *p);
void pause_leave(struct pause *p);
bool pause_ended(struct pause *p, int64_t ms);

/* Whatever happens: for what nothing brings back early. */
void pause_sleep(int64_t ms);
void pause_sleep_us(int64_t us);

/* A condition on the monotonic clock, the point that lies so far ahead (what is past is now, a year
 * is as far as it goes), and a wait until then: false when the time is up, true when woken, perhaps
 * for nothing. */
void pause_cond_init(pthread_cond_t *cond);
struct timespec pause_until(int64_t ms);
struct timespec pause_until_us(int64_t us);
bool pause_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until);

#endif
