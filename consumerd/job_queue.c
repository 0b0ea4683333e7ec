#include "consumerd/job_queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "libcommon/must.h"

struct job_queue {
    pthread_mutex_t lock;
    struct job_list jobs;
    int fd;
};

struct job_queue *job_queue_new(void)
{
    struct job_queue *q = must_alloc(1, sizeof(*q));

    pthread_mutex_init(&q->lock, NULL);
    TAILQ_INIT(&q->jobs);
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

void job_queue_put(struct job_queue *q, struct job *job)
{
    bool was_empty;

    pthread_mutex_lock(&q->lock);
    was_empty = TAILQ_EMPTY(&q->jobs);
    TAILQ_INSERT_TAIL(&q->jobs, job, link);
    pthread_mutex_unlock(&q->lock);
    if (was_empty)
        job_queue_poke(q);
}

void job_queue_put_all(struct job_queue *q, struct job_list *jobs)
{
    bool was_empty;

    pthread_mutex_lock(&q->lock);
    was_empty = TAILQ_EMPTY(&q->jobs);
    TAILQ_CONCAT(&q->jobs, jobs, link);
    pthread_mutex_unlock(&q->lock);
    if (was_empty)
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
    pthread_mutex_unlock(&q->lock);
}
