#include <stdio.h>
#include <string.h>

#include "api/auth.h"
#include "api/key_store.h"
#include "api/move_internal.h"
#include "api/move_take_in.h"
#include "api/settings.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/pause.h"
#include "libcommon/domain/ledger.h"
#include "libcommon/domain/webhook_store.h"
#include "libcommon/domain/webhook_watch.h"

#define LIVE_PASSES 6     /* over the history while the customer lives here, at most */
#define SHORT_PASS_MS 500 /* a pass that is as quick copies what a moment has changed */
#define FINAL_PASSES 20
#define DRAIN_LOOK_MS 50
#define CALLS_WAIT_MS 15000 /* longer than a lease on an endpoint lasts */
#define DEAD_SEC 60 /* a consumer that was not heard for so long is dead, whatever its settings */
#define KEYS_NEWS_MS                                                                             \
    (AUTH_MONEY_STALE_MS + 500) /* until every msg-api knows of keys that came, or serves nobody \
                                 */
#define NEWS_MS \
    (WEBHOOK_WATCH_BELIEVED_MS + 1000) /* until every process knows of endpoints that came */

/* ---- 1: arriving ---- */

/* Nobody moves onto a customer whom that cell has of its own; what an earlier stay has left is the
 * beginning of what comes. */
static int check_stranger(struct move *m, struct err *err)
{
    const long long id = (long long)m->order.customer_id;
    struct db_results results;
    struct buf sql = {0};
    int64_t rows;
    int rc;

    if (m->away.state == CUSTOMER_MOVED || m->away.state == CUSTOMER_ARRIVING)
        return 0;
    buf_printf(
        &sql,
        "SELECT (SELECT COUNT(*) FROM user_transactions WHERE user_id=%lld)+(SELECT COUNT(*) "
        "FROM message_status WHERE user_id=%lld)+(SELECT COUNT(*) FROM webhooks WHERE "
        "customer_id=%lld)+(SELECT COUNT(*) FROM api_keys WHERE customer_id=%lld)",
        id, id, id, id);
    rc = db_run_buf(m->there, &move_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    rows = db_number(db_only(&results));
    db_results_free(&results);
    return rows ? err_set(err, ERR_PERMANENT, 0, "cell %s has a customer %lld of its own",
                          m->order.cell, id)
                : 0;
}

/* So that whoever keeps the keys there in memory reads them again. */
static int tell_of_keys(struct move *m, struct err *err)
{
    db_begin(m->there);
    return move_end(m->there, key_store_touch(m->there, err), err);
}

int move_arrive(struct move *m, struct err *err)
{
    int64_t id = m->order.customer_id;
    int rc;

    if (move_read_states(m, err) || ledger_open(m->here, &id, 1, err) ||
        ledger_open(m->there, &id, 1, err))
        return -1;
    if (m->away.state == CUSTOMER_ARRIVING)
        return tell_of_keys(m, err); /* who was cut off has told nobody, perhaps */
    db_begin(m->there);
    rc = customer_move_set(m->there, id, CUSTOMER_ARRIVING, api_settings.key_cell, err);
    if (!rc)
        rc = ledger_set_fence(m->there, id, LEDGER_CLOSED, err);
    if (!rc)
        rc = check_stranger(m, err);
    if (!rc)
        rc = webhook_store_forget(m->there, id, err);
    return move_end(m->there, rc, err);
}

/* ---- 2: copying ---- */

static int move_set_here(struct move *m, enum customer_move_state state, struct err *err)
{
    db_begin(m->here);
    return move_end(
        m->here, customer_move_set(m->here, m->order.customer_id, state, m->order.cell, err), err);
}

int move_begin_copying(struct move *m, struct err *err)
{
    if (move_read_states(m, err))
        return -1;
    if (move_is_on_the_way(m->at_home.state))
        return 0;
    return move_set_here(m, CUSTOMER_COPYING, err);
}

/* Each table is a step of its own: the connections are looked at between them. */
static int copy_one(struct move *m, struct err *err)
{
    const struct move_copy copy = {.db = {m->here, m->there},
                                   .customer_id = m->order.customer_id,
                                   .dry_run = m->order.dry_run,
                                   .lives = m->lives};

    return move_copy_table(&copy, &move_tables[m->table], &m->figures[m->table], err);
}

/* After a pass. A key that nobody there knows yet when the customer has come would be refused. */
static int note_keys(struct move *m, const struct move_figures *f, struct err *err)
{
    if (!f->different || m->order.dry_run)
        return 0;
    m->keys_ms = clock_mono_ms();
    return move_again(m, tell_of_keys, err);
}

static int tell_of_endpoints(struct move *m, struct err *err)
{
    return webhook_store_touch(m->there, err);
}

static int note_endpoints(struct move *m, const struct move_figures *f, struct err *err)
{
    m->has_endpoints = f->rows[MOVE_HERE] > 0;
    return f->different && !m->order.dry_run ? move_again(m, tell_of_endpoints, err) : 0;
}

static void await_keys(const struct move *m)
{
    int64_t now_ms = clock_mono_ms();

    if (m->keys_ms && now_ms < m->keys_ms + KEYS_NEWS_MS)
        pause_sleep(m->keys_ms + KEYS_NEWS_MS - now_ms);
}

int move_pass(struct move *m, struct err *err)
{
    m->different = 0;
    for (m->table = 0; m->table < MOVE_TABLES; m->table++) {
        if (move_again(m, copy_one, err))
            return -1;
        m->different += m->figures[m->table].different;
        if (!strcmp(move_tables[m->table].name, "webhooks") &&
            note_endpoints(m, &m->figures[m->table], err))
            return -1;
        if (!strcmp(move_tables[m->table].name, "api_keys") &&
            note_keys(m, &m->figures[m->table], err))
            return -1;
    }
    return 0;
}

/* Until a pass is short. Whoever writes events there has to know of endpoints that came before
 * anything can happen that they are to be told of: that takes its time, in which the customer lives
 * here. */
int move_copy_live(struct move *m, struct err *err)
{
    int64_t pass_ms = INT64_MAX;

    m->lives = true;
    if (move_pass(m, err))
        return -1;
    if (m->has_endpoints)
        pause_sleep(NEWS_MS);
    await_keys(m);
    for (int i = 0; i < LIVE_PASSES && pass_ms > SHORT_PASS_MS; i++) {
        int64_t start_ms = clock_mono_ms();

        if (move_pass(m, err))
            return -1;
        pass_ms = clock_mono_ms() - start_ms;
    }
    m->lives = false;
    return 0;
}

/* ---- 3: leaving ---- */

int move_leave(struct move *m, struct err *err)
{
    int rc;

    if (move_read_states(m, err))
        return -1;
    if (m->at_home.state != CUSTOMER_COPYING)
        return 0;
    db_begin(m->here);
    rc = customer_move_set(m->here, m->order.customer_id, CUSTOMER_LEAVING, m->order.cell, err);
    if (!rc)
        rc = ledger_set_fence(m->here, m->order.customer_id, LEDGER_LEAVING, err);
    return move_end(m->here, rc, err);
}

static int hand_over(struct move *m, struct err *err)
{
    return recipient_hand_over(m->here, &m->leaving, err);
}

/* What was put off meanwhile is pending again, and handed over with the next look. */
int move_drain(struct move *m, struct err *err)
{
    int64_t give_up_ms = clock_mono_ms() + m->order.drain_sec * 1000;
    uint64_t before;

    m->leaving = (struct recipient_leaving){.user_id = m->order.customer_id, .dead_sec = DEAD_SEC};
    do {
        before = m->leaving.handed;
        if (move_again(m, hand_over, err))
            return -1;
        if (m->leaving.in_hand && clock_mono_ms() >= give_up_ms)
            return err_set(err, ERR_PERMANENT, 0,
                           "%llu recipients are still in the hands of consumers, and the customer "
                           "waits: the same again goes on, customer abort takes it back",
                           (unsigned long long)m->leaving.in_hand);
        if (m->leaving.in_hand)
            pause_sleep(DRAIN_LOOK_MS);
    } while (m->leaving.in_hand || m->leaving.handed != before);
    return 0;
}

/* ---- 4: frozen ---- */

static int forget_parked(struct move *m, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_printf(&sql,
               "DELETE p FROM outbox_parked p JOIN messages m ON m.message_identifier="
               "p.aggregate_id WHERE m.customer_id=%lld",
               (long long)m->order.customer_id);
    rc = db_run_buf(m->here, &move_label, &sql, NULL, err);
    buf_free(&sql);
    return rc;
}

static int check_nothing_open(struct move *m, struct err *err)
{
    uint64_t open;

    if (recipient_count_left(m->here, m->order.customer_id, RECIPIENT_OPEN, &open, err))
        return -1;
    return open ? err_set(err, ERR_BUG, 0, "%llu recipients are open after all",
                          (unsigned long long)open)
                : 0;
}

int move_freeze(struct move *m, struct err *err)
{
    int64_t id = m->order.customer_id;
    int rc;

    if (move_read_states(m, err))
        return -1;
    if (m->at_home.state != CUSTOMER_LEAVING)
        return 0;
    db_begin(m->here);
    rc = customer_move_set(m->here, id, CUSTOMER_FROZEN, m->order.cell, err);
    if (!rc)
        rc = key_store_touch(m->here, err);
    if (!rc)
        rc = webhook_store_leave(m->here, id, err);
    if (!rc)
        rc = ledger_set_fence(m->here, id, LEDGER_CLOSED, err);
    if (!rc)
        rc = check_nothing_open(m, err);
    if (!rc)
        rc = forget_parked(m, err);
    return move_end(m->here, rc, err);
}

static int look_at_calls(struct move *m, struct err *err)
{
    return webhook_store_is_calling(m->here, m->order.customer_id, &m->is_calling, err);
}

/* A call that is under way when its endpoint is taken away is settled, or nobody ever will. */
int move_await_calls(struct move *m, struct err *err)
{
    int64_t give_up_ms = clock_mono_ms() + CALLS_WAIT_MS;

    do {
        if (move_again(m, look_at_calls, err))
            return -1;
        if (m->is_calling)
            pause_sleep(DRAIN_LOOK_MS);
    } while (m->is_calling && clock_mono_ms() < give_up_ms);
    return 0;
}

/* ---- 5: the same on both sides ---- */

void move_print_figures(const struct move *m)
{
    printf("  %-20s %12s %12s %16s %16s\n", "table", "rows here", "rows there", "sum here",
           "sum there");
    for (size_t i = 0; i < MOVE_TABLES; i++) {
        const struct move_figures *f = &m->figures[i];

        printf("  %-20s %12llu %12llu %16lld %16lld%s\n", move_tables[i].name,
               (unsigned long long)f->rows[MOVE_HERE], (unsigned long long)f->rows[MOVE_THERE],
               (long long)f->sum[MOVE_HERE], (long long)f->sum[MOVE_THERE],
               f->different ? "  differs" : "");
    }
}

static int compare_books(struct move *m, struct err *err)
{
    struct ledger_book here;
    struct ledger_book there;

    if (ledger_read_book(m->here, m->order.customer_id, &here, err) ||
        ledger_read_book(m->there, m->order.customer_id, &there, err))
        return -1;
    if (here.balance != here.sum || there.balance != there.sum || here.balance != there.balance ||
        here.entries != there.entries)
        return err_set(err, ERR_BUG, 0,
                       "balance %lld and entries that come to %lld here, %lld and %lld there: "
                       "nothing is switched",
                       (long long)here.balance, (long long)here.sum, (long long)there.balance,
                       (long long)there.sum);
    printf("  balance %lld = the sum of %llu entries, on both sides\n", (long long)here.balance,
           (unsigned long long)here.entries);
    return 0;
}

int move_copy_rest(struct move *m, struct err *err)
{
    for (int i = 0; i < FINAL_PASSES; i++) {
        if (move_pass(m, err))
            return -1;
        if (m->different)
            continue;
        move_print_figures(m);
        await_keys(m);
        return move_again(m, compare_books, err);
    }
    move_print_figures(m);
    return err_set(err, ERR_BUG, 0, "both sides do not come to the same: nothing is switched");
}

/* ---- 6: the move ---- */

int move_switch_there(struct move *m, struct err *err)
{
    int64_t id = m->order.customer_id;
    int rc;

    if (move_read_states(m, err))
        return -1;
    if (m->away.state == CUSTOMER_ARRIVED)
        return 0;
    db_begin(m->there);
    rc = customer_move_set(m->there, id, CUSTOMER_ARRIVED, api_settings.key_cell, err);
    if (!rc)
        rc = key_store_touch(m->there, err);
    if (!rc)
        rc = webhook_store_come(m->there, id, err);
    if (!rc)
        rc = ledger_set_fence(m->there, id, LEDGER_OPEN, err);
    return move_end(m->there, rc, err);
}

int move_here(struct move *m, struct err *err)
{
    if (move_read_states(m, err))
        return -1;
    return m->at_home.state == CUSTOMER_MOVED ? 0 : move_set_here(m, CUSTOMER_MOVED, err);
}

/* ---- 7: awake ---- */

int move_take_in_there(struct move *m, struct err *err)
{
    return move_take_in(m->there, &m->peer->broker, m->order.customer_id, &m->taken, err);
}

int move_take_in_here(struct move *m, struct err *err)
{
    return move_take_in(m->here, &api_settings.broker, m->order.customer_id, &m->taken, err);
}
