#include "api/moves.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/daemon/daemon.h"
#include "libcommon/db/schema.h"
#include "libcommon/net/httpd.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define REFRESH_MS 500
#define RETRY_AFTER_SEC 1
#define FIRST_ROOM 16

struct list {
    struct customer_move *all; /* by customer */
    size_t n, room;
};

struct moves {
    pthread_t thread;
    struct pause pause;
    struct db *db;
    struct daemon_beat *beat;
    bool failing, schema_seen, loaded;
    struct customer_move_counter counter; /* that the list is of */
    struct metric *gauges[CUSTOMER_MOVE_STATES];
    struct metric *refused_moved, *refused_moving;
    _Atomic size_t count; /* of the list: most have none, and nobody locks */
    pthread_rwlock_t lock;
    struct list list;
};

/* ---- following ---- */

static bool add(const struct customer_move *move, void *arg)
{
    struct list *list = arg;

    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : FIRST_ROOM;
        struct customer_move *all = realloc(list->all, room * sizeof(*all));

        if (!all)
            return false;
        list->all = all;
        list->room = room;
    }
    list->all[list->n++] = *move;
    return true;
}

static void show(const struct moves *m, const struct list *list)
{
    int64_t counts[CUSTOMER_MOVE_STATES] = {0};

    for (size_t i = 0; i < list->n; i++)
        counts[list->all[i].state]++;
    for (int i = 1; i < CUSTOMER_MOVE_STATES; i++)
        metrics_set(m->gauges[i], counts[i]);
}

/* The counter is read before the moves: a change in between is seen the next time. */
static int refresh(struct moves *m, struct err *err)
{
    struct customer_move_counter now;
    struct list list = {0};
    struct list old;

    if (customer_move_look(m->db, &now, err))
        return -1;
    if (m->loaded && now.changes == m->counter.changes && now.changed_us == m->counter.changed_us)
        return 0;
    if (customer_move_each(m->db, add, &list, err)) {
        free(list.all);
        return -1;
    }
    show(m, &list);
    pthread_rwlock_wrlock(&m->lock);
    old = m->list;
    m->list = list;
    atomic_store(&m->count, list.n);
    pthread_rwlock_unlock(&m->lock);
    free(old.all);
    m->counter = now;
    m->loaded = true;
    return 0;
}

static void turn(struct moves *m)
{
    struct err err;
    int rc = db_acquire(m->db, &err);

    if (!rc && schema_look(m->db, &m->schema_seen, &err) == SCHEMA_READY)
        rc = refresh(m, &err);
    db_release(m->db);
    if (rc && !m->failing)
        log_warn("moves.refresh_failed", L_ERR(&err));
    m->failing = rc != 0;
}

static void *moves_main(void *arg)
{
    struct moves *m = arg;

    do {
        daemon_beat(m->beat);
        turn(m);
        daemon_beat_rest(m->beat, REFRESH_MS);
    } while (!pause_for(&m->pause, REFRESH_MS));
    return NULL;
}

static void open_metrics(struct moves *m)
{
    static const char refused[] =
        "Requests about customers who have moved to another cell, or are on the way.";

    for (int i = 1; i < CUSTOMER_MOVE_STATES; i++) {
        char labels[48];

        snprintf(labels, sizeof(labels), "state=\"%s\"",
                 customer_move_name((enum customer_move_state)i));
        m->gauges[i] =
            metrics_gauge("msg_customer_moves",
                          "Customers who leave this cell, have left it, or come to it.", labels);
    }
    m->refused_moved =
        metrics_counter("msg_moves_refused_total", refused, "reason=\"customer_moved\"");
    m->refused_moving =
        metrics_counter("msg_moves_refused_total", refused, "reason=\"customer_moving\"");
}

struct moves *moves_start(const struct db_settings *settings)
{
    struct moves *m = must_alloc(1, sizeof(*m));

    customer_move_register();
    open_metrics(m);
    pthread_rwlock_init(&m->lock, NULL);
    m->db = db_new_reader(settings);
    m->beat = daemon_beat_new("moves");
    pause_init(&m->pause);
    MUST(pthread_create(&m->thread, NULL, moves_main, m) == 0);
    pthread_setname_np(m->thread, "moves");
    return m;
}

void moves_begin_stop(struct moves *m)
{
    if (m)
        pause_stop(&m->pause);
}

void moves_free(struct moves *m)
{
    if (!m)
        return;
    pause_stop(&m->pause);
    pthread_join(m->thread, NULL);
    db_free(m->db);
    free(m->list.all);
    pthread_rwlock_destroy(&m->lock);
    pause_destroy(&m->pause);
    free(m);
}

/* ---- asking ---- */

static int by_customer(const void *a, const void *b)
{
    int64_t x = ((const struct customer_move *)a)->customer_id;
    int64_t y = ((const struct customer_move *)b)->customer_id;

    return x < y ? -1 : x > y;
}

static struct customer_move find(struct moves *m, int64_t customer_id)
{
    struct customer_move key = {.customer_id = customer_id};
    const struct customer_move *found;

    if (!m || !atomic_load_explicit(&m->count, memory_order_relaxed))
        return key;
    pthread_rwlock_rdlock(&m->lock);
    found = bsearch(&key, m->list.all, m->list.n, sizeof(key), by_customer);
    if (found)
        key = *found;
    pthread_rwlock_unlock(&m->lock);
    return key;
}

static void reply_moved(struct moves *m, struct httpd_request *req,
                        const struct customer_move *move)
{
    char text[96];

    metrics_add(m->refused_moved, 1);
    snprintf(text, sizeof(text), "This customer has moved to cell %s.", move->cell);
    httpd_set_header(req, "X-Cell", move->cell);
    httpd_reply_error(req, 421, "customer_moved", text, NULL);
}

static void reply_moving(struct moves *m, struct httpd_request *req)
{
    if (m)
        metrics_add(m->refused_moving, 1);
    httpd_reply_retry(req, 503, "customer_moving",
                      "This customer is on the way to another cell, and nothing was done. Please "
                      "retry.",
                      RETRY_AFTER_SEC);
}

void moves_reply(struct moves *m, struct httpd_request *req, int64_t customer_id)
{
    const struct customer_move move = find(m, customer_id);

    if (move.state == CUSTOMER_MOVED)
        reply_moved(m, req, &move);
    else
        reply_moving(m, req);
}

bool moves_refuse(struct moves *m, struct httpd_request *req, int64_t customer_id, bool writes)
{
    const struct customer_move move = find(m, customer_id);

    switch (move.state) {
    case CUSTOMER_MOVED:
        reply_moved(m, req, &move);
        return true;
    case CUSTOMER_LEAVING:
    case CUSTOMER_FROZEN:
        if (!writes)
            return false;
        reply_moving(m, req);
        return true;
    case CUSTOMER_ARRIVING:
        reply_moving(m, req);
        return true;
    default:
        return false;
    }
}
