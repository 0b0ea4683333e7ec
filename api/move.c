#include "api/move.h"

#include <stdio.h>
#include <string.h>

#include "api/admin_act.h"
#include "api/key_store.h"
#include "api/migrate.h"
#include "api/move_internal.h"
#include "api/move_take_in.h"
#include "api/settings.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/pause.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/db/leader.h"
#include "libcommon/db/schema.h"
#include "libcommon/domain/ledger.h"
#include "libcommon/domain/webhook_store.h"

#define PATIENCE_MS 20000 /* of a step with a database that is away */
#define RETRY_MS 200

struct db_label move_label = {.query = "move"};

void move_register(void)
{
    db_label_register(&move_label);
    move_copy_register();
    move_take_in_register();
    customer_move_register();
    key_store_register();
    webhook_store_register();
    ledger_register();
}

/* ---- steps ---- */

/* So that of two that move the same customer one waits: it spares double work, nothing rests on
 * it. */
static int lead(struct move *m, struct err *err)
{
    char name[48];
    bool leads = false;

    snprintf(name, sizeof(name), "move.%lld", (long long)m->order.customer_id);
    if (leader_try(m->here, name, 0, &leads, err))
        return -1;
    return leads ? 0 : err_set(err, ERR_RETRY, 0, "another process moves this customer");
}

static int try_once(struct move *m, move_step_fn *step, struct err *err)
{
    if (db_acquire(m->here, err) || lead(m, err) || (m->there && db_acquire(m->there, err)))
        return -1;
    return step(m, err);
}

int move_again(struct move *m, move_step_fn *step, struct err *err)
{
    int64_t give_up_ms = clock_mono_ms() + PATIENCE_MS;
    int rc = try_once(m, step, err);

    while (rc && (err->kind == ERR_RETRY || err->kind == ERR_UNKNOWN) && !db_is_forbidden(err) &&
           clock_mono_ms() < give_up_ms) {
        db_rollback(m->here);
        if (m->there)
            db_rollback(m->there);
        pause_sleep(RETRY_MS);
        rc = try_once(m, step, err);
    }
    return rc;
}

int move_end(struct db *db, int rc, struct err *err)
{
    if (!rc)
        rc = db_commit(db, err);
    if (rc)
        db_rollback(db);
    return rc;
}

static int64_t seconds_ms(int64_t since_ms)
{
    return clock_mono_ms() - since_ms;
}

static void say(const struct move *m, const char *what)
{
    int64_t ms = seconds_ms(m->began_ms);

    printf("%4lld.%03lld s  %s\n", (long long)(ms / 1000), (long long)(ms % 1000), what);
    fflush(stdout);
}

/* ---- all of it ---- */

static int end_move(struct move *m, struct err *err)
{
    char text[120];

    if (move_again(m, move_here, err) || failpoint_err(FAILPOINT_MOVE_MOVED, err))
        return -1;
    if (m->left_ms) {
        int64_t ms = seconds_ms(m->left_ms);

        snprintf(text, sizeof(text), "moved; the customer was away for %lld.%03lld s",
                 (long long)(ms / 1000), (long long)(ms % 1000));
        say(m, text);
    } else {
        say(m, "moved");
    }
    if (move_again(m, move_take_in_there, err))
        return -1;
    snprintf(text, sizeof(text), "%llu recipients that were open are in the outbox there",
             (unsigned long long)m->taken);
    say(m, text);
    return 0;
}

static int go(struct move *m, struct err *err)
{
    char text[120];

    if (move_again(m, move_arrive, err) || failpoint_err(FAILPOINT_MOVE_ARRIVING, err) ||
        move_again(m, move_begin_copying, err))
        return -1;
    say(m, "arriving there; copying");
    if (m->at_home.state > CUSTOMER_COPYING && m->at_home.state != CUSTOMER_ARRIVED)
        m->keys_ms = clock_mono_ms(); /* they have been told of just now (move_arrive) */
    else if (move_copy_live(m, err))
        return -1;
    say(m, "the history is copied");
    if (failpoint_err(FAILPOINT_MOVE_COPIED, err))
        return -1;
    m->left_ms = clock_mono_ms();
    if (move_again(m, move_leave, err) || failpoint_err(FAILPOINT_MOVE_LEAVING, err))
        return -1;
    say(m, "leaving: sends and top-ups are refused");
    if (m->at_home.state != CUSTOMER_FROZEN && move_drain(m, err))
        return -1;
    snprintf(text, sizeof(text), "%llu recipients were handed over, nothing is in hand",
             (unsigned long long)m->leaving.handed);
    say(m, text);
    if (failpoint_err(FAILPOINT_MOVE_HANDED, err) || move_again(m, move_freeze, err) ||
        failpoint_err(FAILPOINT_MOVE_FROZEN, err) || move_await_calls(m, err))
        return -1;
    say(m, "frozen; copying the rest");
    if (move_copy_rest(m, err))
        return -1;
    say(m, "both sides are the same");
    if (failpoint_err(FAILPOINT_MOVE_PROVED, err) || move_again(m, move_switch_there, err) ||
        failpoint_err(FAILPOINT_MOVE_SWITCHED, err))
        return -1;
    return end_move(m, err);
}

static int compare(struct move *m, struct err *err)
{
    if (move_pass(m, err))
        return -1;
    move_print_figures(m);
    printf("dry run: nothing was written\n");
    return 0;
}

static void close_move(struct move *m)
{
    db_release(m->here);
    db_free(m->here);
    if (m->there) {
        db_release(m->there);
        db_free(m->there);
    }
    cell_peer_free(m->peer);
}

static int open_move(struct move *m, const char *cell, struct err *err)
{
    m->began_ms = clock_mono_ms();
    if (cell) {
        m->peer = cell_peer_load(cell, err);
        if (!m->peer)
            return -1;
        m->settings[MOVE_THERE] = migrate_settings(&m->peer->db);
        m->there = db_new(&m->settings[MOVE_THERE]);
    }
    m->settings[MOVE_HERE] = migrate_settings(&api_settings.db);
    m->here = db_new(&m->settings[MOVE_HERE]);
    return 0;
}

static void note(const struct move *m, const char *act)
{
    char what[96];

    snprintf(what, sizeof(what), "from=%s to=%s", api_settings.key_cell, m->order.cell);
    admin_act_log_customer(act, m->order.customer_id, what);
}

int move_run(const struct move_order *order, struct err *err)
{
    struct move m = {.order = *order};
    int rc;

    if (!strcmp(order->cell, api_settings.key_cell))
        return err_set(err, ERR_PERMANENT, 0, "this is cell %s", order->cell);
    if (open_move(&m, order->cell, err))
        return -1;
    rc = move_again(&m, move_look, err);
    if (!rc && order->dry_run) {
        rc = compare(&m, err);
    } else if (!rc) {
        note(&m, "move.begin");
        rc = move_is_after_switch(&m) ? end_move(&m, err) : go(&m, err);
        note(&m, rc ? "move.failed" : "move.done");
    }
    close_move(&m);
    return rc;
}

/* ---- taking it back ---- */

static int look_at_abort(struct move *m, struct err *err)
{
    if (schema_need(m->here, err) || move_read_states(m, err))
        return -1;
    if (!move_is_on_the_way(m->at_home.state))
        return err_set(err, ERR_PERMANENT, 0, "the customer is not on the way anywhere");
    if (m->at_home.state == CUSTOMER_MOVED || m->away.state == CUSTOMER_ARRIVED)
        return err_set(err, ERR_PERMANENT, 0,
                       "the customer lives in cell %s: move them back from there", m->at_home.cell);
    return 0;
}

static int stay(struct move *m, struct err *err)
{
    int64_t id = m->order.customer_id;
    int rc;

    db_begin(m->here);
    rc = customer_move_set(m->here, id, CUSTOMER_LIVES, "", err);
    if (!rc)
        rc = webhook_store_come(m->here, id, err);
    if (!rc)
        rc = ledger_set_fence(m->here, id, LEDGER_OPEN, err);
    return move_end(m->here, rc, err);
}

/* Where to is in the database. */
static int find_cell(int64_t customer_id, struct customer_move *move, struct err *err)
{
    struct move m = {.order = {.customer_id = customer_id}};
    int rc = open_move(&m, NULL, err);

    if (!rc)
        rc = db_acquire(m.here, err) || schema_need(m.here, err) || move_read_states(&m, err) ? -1
                                                                                              : 0;
    *move = m.at_home;
    close_move(&m);
    return rc;
}

int move_abort(int64_t customer_id, struct err *err)
{
    struct move m = {.order = {.customer_id = customer_id}};
    struct customer_move found = {0};
    int rc;

    if (find_cell(customer_id, &found, err))
        return -1;
    m.order.cell = found.cell;
    if (open_move(&m, move_is_on_the_way(found.state) ? found.cell : NULL, err))
        return -1;
    rc = move_again(&m, look_at_abort, err);
    if (!rc) {
        note(&m, "move.abort");
        rc = move_again(&m, stay, err) || move_again(&m, move_take_in_here, err) ? -1 : 0;
    }
    if (!rc)
        printf("the customer stays; %llu recipients that had been handed over are in the outbox\n",
               (unsigned long long)m.taken);
    close_move(&m);
    return rc;
}
