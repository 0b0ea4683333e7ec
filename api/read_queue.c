#include "api/read_queue.h"

#include <stdlib.h>

#include "api/reads.h"
#include "libcommon/base/must.h"

#define uthash_fatal(what) must_fail(what, __FILE__, __LINE__)
#include <uthash.h>

/* A customer with reads that wait or are at work. */
struct turn {
    int64_t user_id;
    struct read_job *first;
    struct read_job **last;
    int64_t waiting, at_work;
    struct turn *next; /* in the order of turns */
    UT_hash_handle hh;
};

/* INVARIANT: a customer is in the order of turns, once, exactly while one of its reads may begin.
 */
struct read_queue {
    struct read_queue_limits limits;
    struct turn *by_user;
    struct turn *first;
    struct turn **last;
    int64_t waiting;
};

struct read_queue *read_queue_new(const struct read_queue_limits *limits)
{
    struct read_queue *q = must_alloc(1, sizeof(*q));

    q->limits = *limits;
    q->last = &q->first;
    return q;
}

void read_queue_free(struct read_queue *q)
{
    MUST(!q->by_user);
    free(q);
}

static bool may_begin(const struct read_queue *q, const struct turn *t)
{
    return t->waiting && t->at_work < q->limits.at_work_each;
}

static void line_up(struct read_queue *q, struct turn *t)
{
    t->next = NULL;
    *q->last = t;
    q->last = &t->next;
}

static struct turn *turn_of(struct read_queue *q, int64_t user_id)
{
    struct turn *t;

    HASH_FIND(hh, q->by_user, &user_id, sizeof(user_id), t);
    return t;
}

static struct turn *new_turn(struct read_queue *q, int64_t user_id)
{
    struct turn *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->user_id = user_id;
    t->last = &t->first;
    HASH_ADD(hh, q->by_user, user_id, sizeof(t->user_id), t);
    return t;
}

bool read_queue_put(struct read_queue *q, struct read_job *job)
{
    struct turn *t = turn_of(q, job->user_id);
    bool began;

    if (q->waiting >= q->limits.waiting || (t && t->waiting >= q->limits.waiting_each))
        return false;
    if (!t)
        t = new_turn(q, job->user_id);
    if (!t)
        return false;
    began = may_begin(q, t);
    job->next = NULL;
    *t->last = job;
    t->last = &job->next;
    t->waiting++;
    q->waiting++;
    if (!began && may_begin(q, t))
        line_up(q, t);
    return true;
}

struct read_job *read_queue_take(struct read_queue *q)
{
    struct turn *t = q->first;
    struct read_job *job;

    if (!t)
        return NULL;
    q->first = t->next;
    if (!q->first)
        q->last = &q->first;
    job = t->first;
    t->first = job->next;
    if (!t->first)
        t->last = &t->first;
    t->waiting--;
    t->at_work++;
    q->waiting--;
    if (may_begin(q, t))
        line_up(q, t);
    return job;
}

void read_queue_done(struct read_queue *q, int64_t user_id)
{
    struct turn *t = turn_of(q, user_id);
    bool began;

    MUST(t && t->at_work);
    began = may_begin(q, t);
    t->at_work--;
    if (!began && may_begin(q, t))
        line_up(q, t);
    if (t->waiting || t->at_work)
        return;
    HASH_DEL(q->by_user, t);
    free(t);
}

bool read_queue_may_take(const struct read_queue *q)
{
    return q->first != NULL;
}

bool read_queue_is_empty(const struct read_queue *q)
{
    return q->waiting == 0;
}
