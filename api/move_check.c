#include <stdio.h>
#include <string.h>

#include "api/move_internal.h"
#include "api/settings.h"
#include "libcommon/db/restore_mode.h"
#include "libcommon/db/schema.h"

static int need_no_restore(struct db *db, const char *where, struct err *err)
{
    char since[32];
    bool on;

    if (restore_mode_read(db, &on, since, err))
        return -1;
    return on ? err_set(err, ERR_PERMANENT, 0, "restore mode is on %s", where) : 0;
}

int move_read_states(struct move *m, struct err *err)
{
    if (customer_move_read(m->here, m->order.customer_id, false, &m->at_home, err))
        return -1;
    return m->there ? customer_move_read(m->there, m->order.customer_id, false, &m->away, err) : 0;
}

bool move_is_on_the_way(enum customer_move_state state)
{
    return state == CUSTOMER_COPYING || state == CUSTOMER_LEAVING || state == CUSTOMER_FROZEN ||
           state == CUSTOMER_MOVED;
}

bool move_is_after_switch(const struct move *m)
{
    return (m->at_home.state == CUSTOMER_FROZEN || m->at_home.state == CUSTOMER_MOVED) &&
           m->away.state == CUSTOMER_ARRIVED && !strcmp(m->away.cell, api_settings.key_cell);
}

/* Whether what both sides say fits a move, one that was begun among them. */
static int check_states(const struct move *m, struct err *err)
{
    const char *own = api_settings.key_cell;

    if (m->at_home.state == CUSTOMER_ARRIVING)
        return err_set(err, ERR_PERMANENT, 0, "the customer is still on the way here from cell %s",
                       m->at_home.cell);
    if (move_is_on_the_way(m->at_home.state) && strcmp(m->at_home.cell, m->order.cell) != 0)
        return err_set(err, ERR_PERMANENT, 0, "the customer is %s to cell %s",
                       customer_move_name(m->at_home.state), m->at_home.cell);
    if (m->away.state == CUSTOMER_ARRIVING && strcmp(m->away.cell, own) != 0)
        return err_set(err, ERR_PERMANENT, 0, "the customer is on the way there from cell %s",
                       m->away.cell);
    if (m->at_home.state == CUSTOMER_MOVED && !move_is_after_switch(m) &&
        m->away.state != CUSTOMER_MOVED)
        return err_set(err, ERR_PERMANENT, 0,
                       "the customer has moved to cell %s, which does not say so: is it that "
                       "cell's database, and not a backup's?",
                       m->order.cell);
    if (m->at_home.state == CUSTOMER_MOVED && !move_is_after_switch(m))
        return err_set(err, ERR_PERMANENT, 0,
                       "the customer has moved to cell %s, and on from there", m->order.cell);
    if (move_is_on_the_way(m->away.state) && m->away.state != CUSTOMER_MOVED)
        return err_set(err, ERR_PERMANENT, 0, "the customer lives there, and is %s to cell %s",
                       customer_move_name(m->away.state), m->away.cell);
    if (m->away.state == CUSTOMER_ARRIVED && !move_is_after_switch(m))
        return err_set(err, ERR_PERMANENT, 0, "the customer lives there already");
    return 0;
}

/* Two cells of one database would be one cell. */
static int check_apart(struct move *m, struct err *err)
{
    static const char sql[] = "SELECT CONCAT(@@hostname,':',@@port,'/',DATABASE())";
    struct db *both[MOVE_SIDES] = {m->here, m->there};
    char names[MOVE_SIDES][400];

    for (int i = 0; i < MOVE_SIDES; i++) {
        struct db_results results;
        char **row;

        if (db_run(both[i], &move_label, sql, sizeof(sql) - 1, &results, err))
            return -1;
        row = db_next(db_only(&results));
        snprintf(names[i], sizeof(names[i]), "%s", row && row[0] ? row[0] : "");
        db_results_free(&results);
    }
    return strcmp(names[MOVE_HERE], names[MOVE_THERE])
               ? 0
               : err_set(err, ERR_PERMANENT, 0, "the other cell's database is this one's");
}

int move_look(struct move *m, struct err *err)
{
    if (schema_need(m->here, err) || schema_need(m->there, err) || check_apart(m, err) ||
        need_no_restore(m->here, "here", err) || need_no_restore(m->there, "there", err) ||
        move_table_check(m->here, err) || move_table_check(m->there, err) ||
        move_read_states(m, err))
        return -1;
    return check_states(m, err);
}
