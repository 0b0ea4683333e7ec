#include "consumerd/job_queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "libcommon/base/must.h"

struct job_queue {
    pthread_mutex_t lock;
    struct job_list jobs;
    size_t count;
    size_t wake_at;
    int fd;
};

struct job_queue *job_queue_new(void)
{
    struct job_queue *q = must_alloc(1, sizeof(*q));

    pthread_mutex_init(&q->lock, NULL);
    TAILQ_INIT(&q->jobs);
    q->wake_at = 1;
    q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    MUST(q->fd >= 0);
    return q;
}

void job_queue_free(struct job_queue *q)
{
    if (!q)
        return;
    close(q->fd);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

int job_queue_fd(const struct job_queue *q)
{
    return q->fd;
}

void job_queue_poke(struct job_queue *q)
{
    uint64_t one = 1;

    while (write(q->fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

void job_queue_wake_at(struct job_queue *q, size_t jobs)
{
    bool enough;

    pthread_mutex_lock(&q->lock);
    q->wake_at = jobs;
    enough = q->count >= jobs;
    pthread_mutex_unlock(&q->lock);
    if (enough)
        job_queue_poke(q);
}

/* Under the lock. True when this made it enough to wake for. */
static bool add(struct job_queue *q, size_t jobs)
{
    bool was_enough = q->count >= q->wake_at;

    q->count += jobs;
    return !was_enough && q->count >= q->wake_at;
}

void job_queue_put(struct job_queue *q, struct job *job)
{
    bool wake;

    pthread_mutex_lock(&q->lock);
    TAILQ_INSERT_TAIL(&q->jobs, job, link);
    wake = add(q, 1);
    pthread_mutex_unlock(&q->lock);
    if (wake)
        job_queue_poke(q);
}

void job_queue_put_all(struct job_queue *q, struct job_list *jobs, size_t count)
{
    bool wake;

    pthread_mutex_lock(&q->lock);
    TAILQ_CONCAT(&q->jobs, jobs, link);
    wake = add(q, count);
    pthread_mutex_unlock(&q->lock);
    if (wake)
        job_queue_poke(q);
}

void job_queue_take(struct job_queue *q, struct job_list *into)
{
    uint64_t n;

    /* Quiet first: what is put after that pokes again. */
    while (read(q->fd, &n, sizeof(n)) < 0 && errno == EINTR)
        ;
    pthread_mutex_lock(&q->lock);
    TAILQ_CONCAT(into, &q->jobs, link);
    q->count = 0;
    pthread_mutex_unlock(&q->lock);
}
