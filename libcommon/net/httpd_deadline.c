#include <stdlib.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/net/httpd_internal.h"

/*
 * Two threads may answer a request with a deadline: its own, when the time is up, and whoever works
 * on it. req->stage decides, one change at a time, and each side looks at nothing else before it
 * has changed it. Once the request's own thread has won, the other side still holds the pointer:
 * the memory goes with the second of the two that lets go.
 */
enum {
    STAGE_TAKEN,   /* whoever has it answers; without a deadline, from the start */
    STAGE_EXPIRED, /* the request's thread answers */
    STAGE_LEFT,    /* ... and one of the two has let go */
    STAGE_MARK,    /* this and above: a mark of the program's */
};

static void set_timer(struct http_thread *t, int64_t deadline_ms)
{
    int64_t left_ms = deadline_ms - clock_mono_ms();
    struct timeval after;

    if (left_ms < 1)
        left_ms = 1;
    after = (struct timeval){left_ms / 1000, left_ms % 1000 * 1000};
    evtimer_add(t->deadline, &after);
    t->timer_ms = deadline_ms;
}

/* Deadlines come in order as long as all are equally far away, so the place is at the end. */
static void insert(struct http_thread *t, struct httpd_request *req)
{
    struct httpd_request *before = t->last_waiting;

    while (before && before->deadline_ms > req->deadline_ms)
        before = before->earlier;
    req->earlier = before;
    req->later = before ? before->later : t->first_waiting;
    *(req->later ? &req->later->earlier : &t->last_waiting) = req;
    *(before ? &before->later : &t->first_waiting) = req;
}

void http_deadline_forget(struct httpd_request *req)
{
    struct http_thread *t = req->thread;

    if (!req->late)
        return;
    req->late = NULL;
    *(req->later ? &req->later->earlier : &t->last_waiting) = req->earlier;
    *(req->earlier ? &req->earlier->later : &t->first_waiting) = req->later;
}

void httpd_set_deadline(struct httpd_request *req, int64_t deadline_ms, httpd_late_fn *late)
{
    struct http_thread *t = req->thread;

    MUST(http_current_thread() == t && !req->late);
    atomic_store_explicit(&req->stage, STAGE_MARK, memory_order_relaxed);
    req->deadline_ms = deadline_ms;
    req->late = late;
    insert(t, req);
    if (!t->timer_ms || deadline_ms < t->timer_ms)
        set_timer(t, deadline_ms);
}

/* One answered in time leaves the list and not the timer, which then finds nothing and is set for
 * the next: no timer is touched for a request. */
void http_deadline_pass(evutil_socket_t fd, short what, void *thread)
{
    struct http_thread *t = thread;
    int64_t now_ms = clock_mono_ms();

    (void)fd;
    (void)what;
    t->timer_ms = 0;
    while (t->first_waiting && t->first_waiting->deadline_ms <= now_ms) {
        struct httpd_request *req = t->first_waiting;
        unsigned stage = atomic_load_explicit(&req->stage, memory_order_relaxed);
        httpd_late_fn *late = req->late;

        http_deadline_forget(req);
        while (stage != STAGE_TAKEN &&
               !atomic_compare_exchange_weak_explicit(&req->stage, &stage, STAGE_EXPIRED,
                                                      memory_order_acq_rel, memory_order_relaxed))
            ;
        if (stage != STAGE_TAKEN)
            late(req, stage - STAGE_MARK);
    }
    if (t->first_waiting)
        set_timer(t, t->first_waiting->deadline_ms);
}

void http_deadline_let_go(struct httpd_request *req)
{
    if (atomic_load_explicit(&req->stage, memory_order_relaxed) == STAGE_TAKEN ||
        atomic_exchange_explicit(&req->stage, STAGE_LEFT, memory_order_acq_rel) == STAGE_LEFT)
        free(req);
}

static bool change(struct httpd_request *req, unsigned to)
{
    unsigned stage = atomic_load_explicit(&req->stage, memory_order_relaxed);

    MUST(stage != STAGE_TAKEN);
    while (stage >= STAGE_MARK)
        if (atomic_compare_exchange_weak_explicit(&req->stage, &stage, to, memory_order_acq_rel,
                                                  memory_order_relaxed))
            return true;
    http_deadline_let_go(req);
    return false;
}

bool httpd_mark(struct httpd_request *req, unsigned mark)
{
    return change(req, STAGE_MARK + mark);
}

bool httpd_take(struct httpd_request *req)
{
    return change(req, STAGE_TAKEN);
}
