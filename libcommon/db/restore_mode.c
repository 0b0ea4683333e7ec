#include "libcommon/db/restore_mode.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define FROM_MODE " FROM platform_modes WHERE name='restore'"

static struct db_label read_label = {.query = "restore_mode"};
static struct db_label switch_label = {.query = "restore_mode_switch"};

static struct {
    struct metric *gauge;
    _Atomic bool on;
} shown;

void restore_mode_put(struct buf *sql)
{
    buf_puts(sql, "SELECT is_on,since" FROM_MODE);
}

void restore_mode_put_held(struct buf *sql)
{
    buf_puts(sql, "SELECT is_on,since" FROM_MODE " LOCK IN SHARE MODE");
}

void restore_mode_put_off(struct buf *sql)
{
    buf_puts(sql, "NOT EXISTS (SELECT 1" FROM_MODE " AND is_on=1)");
}

void restore_mode_put_since(struct buf *sql)
{
    buf_puts(sql, "(SELECT since" FROM_MODE ")");
}

int restore_mode_switch(struct db *db, bool on, struct err *err)
{
    struct buf sql = {0};
    int rc;

    db_label_register(&switch_label);
    buf_printf(&sql,
               "INSERT INTO platform_modes(name,is_on,since) VALUES ('restore',%d,NOW(6)) "
               "ON DUPLICATE KEY UPDATE since=IF(VALUES(is_on)=0 AND is_on=0,since,VALUES(since)),"
               "is_on=VALUES(is_on)",
               on);
    rc = db_run_buf(db, &switch_label, &sql, NULL, err);
    buf_free(&sql);
    return rc;
}

int restore_mode_read(struct db *db, bool *on, char since[32], struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    db_label_register(&read_label);
    restore_mode_put(&sql);
    rc = db_run_buf(db, &read_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    row = db_next(db_only(&results));
    *on = row && row[0][0] == '1';
    snprintf(since, 32, "%s", row ? row[1] : "");
    db_results_free(&results);
    return 0;
}

void restore_mode_register(void)
{
    db_label_register(&read_label);
    shown.gauge =
        metrics_gauge("msg_restore_mode", "1: nothing is delivered until a person says so.", "");
}

void restore_mode_look(struct db *db)
{
    char since[32];
    struct err ignored;
    bool on;

    if (restore_mode_read(db, &on, since, &ignored))
        return;
    metrics_set(shown.gauge, on);
    if (atomic_exchange(&shown.on, on) == on)
        return;
    if (on)
        log_warn("restore_mode.on", L_STR("since", since),
                 L_MSG("nothing is delivered until msg-api restore-mode resume"));
    else
        log_info("restore_mode.off", L_MSG("messages are delivered"));
}

bool restore_mode_shown(void)
{
    return atomic_load(&shown.on);
}
