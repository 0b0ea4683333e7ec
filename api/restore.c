#include "api/restore.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/pause.h"
#include "libcommon/db/restore_mode.h"
#include "libcommon/db/schema.h"
#include "libcommon/domain/recipient.h"

#define RANGE 5000           /* ids of one statement */
#define SWITCH_WAIT_MS 30000 /* for batches that are being published */
#define CONFIRM_WAIT_MS \
    15000 /* for heartbeats; longer than a consumer lives without one by default */
#define ASK_EVERY_MS 200
#define LIVES_SEC \
    60 /* a consumer that was heard in this time may be alive, whatever its settings */
#define FAIL_RECIPIENTS 1000 /* of one transaction, about */
#define FAIL_MESSAGES 100
#define CONFLICT_TRIES 10
#define AGE_MAX_SEC (3650 * INT64_C(86400))
#define REASON "given up after a restore"

static struct db_label restore_label = {.query = "restore"};

void restore_register(void)
{
    db_label_register(&restore_label);
    recipient_register();
}

bool restore_parse_age(const char *text, int64_t *sec)
{
    static const struct {
        char letter;
        int64_t sec;
    } units[] = {{'\0', 1}, {'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    size_t digits = strspn(text, "0123456789");

    if (!digits || digits > 9 || (text[digits] && text[digits + 1]))
        return false;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (units[i].letter != text[digits])
            continue;
        *sec = strtoll(text, NULL, 10) * units[i].sec;
        return *sec <= AGE_MAX_SEC;
    }
    return false;
}

/* ---- what is there ---- */

static int need_mode(struct db *db, struct err *err)
{
    char since[32];
    bool on;

    if (schema_need(db, err) || restore_mode_read(db, &on, since, err))
        return -1;
    return on ? 0 : err_set(err, ERR_PERMANENT, 0, "restore mode is not on");
}

/* The first and the last id of recipients; both 0 when there is none. */
static int read_span(struct db *db, uint64_t *first, uint64_t *last, struct err *err)
{
    static const char sql[] = "SELECT COALESCE(MIN(id),0),COALESCE(MAX(id),0) FROM message_status";
    struct db_results results;
    char **row;

    if (db_run(db, &restore_label, sql, sizeof(sql) - 1, &results, err))
        return -1;
    row = db_next(db_only(&results));
    *first = row ? strtoull(row[0], NULL, 10) : 0;
    *last = row ? strtoull(row[1], NULL, 10) : 0;
    db_results_free(&results);
    return 0;
}

static int count_open(struct db *db, uint64_t first, uint64_t last, uint64_t *count,
                      struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    buf_printf(&sql,
               "SELECT COUNT(*) FROM message_status FORCE INDEX(PRIMARY) WHERE id BETWEEN %llu AND "
               "%llu AND status IN (",
               (unsigned long long)first, (unsigned long long)last);
    recipient_put_states(&sql, RECIPIENT_OPEN);
    buf_putc(&sql, ')');
    rc = db_run_buf(db, &restore_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *count = (uint64_t)db_number(db_only(&results));
    db_results_free(&results);
    return 0;
}

typedef int range_fn(struct db *db, uint64_t first, uint64_t last, uint64_t *count,
                     struct err *err);

/* All recipients there are, range by range: short statements, however many. *total adds up. */
static int for_each_range(struct db *db, range_fn *fn, uint64_t *total, struct err *err)
{
    uint64_t first;
    uint64_t last;

    *total = 0;
    if (read_span(db, &first, &last, err))
        return -1;
    for (; first && first <= last; first += RANGE) {
        uint64_t count = 0;
        int rc = -1;

        for (int i = 0; rc && i < CONFLICT_TRIES; i++) {
            rc = fn(db, first, first + RANGE - 1, &count, err);
            if (rc && !db_is_conflict(err))
                return -1;
        }
        if (rc)
            return -1;
        *total += count;
    }
    return 0;
}

int restore_status(struct db *db, struct err *err)
{
    char since[32];
    uint64_t open;
    bool on;

    if (schema_need(db, err) || restore_mode_read(db, &on, since, err) ||
        for_each_range(db, count_open, &open, err))
        return -1;
    printf("restore mode: %s since %s UTC\nopen recipients: %llu\n", on ? "on" : "off", since,
           (unsigned long long)open);
    return 0;
}

/* ---- on and off ---- */

/* Each try waits for as long as the session waits for locks. */
static int switch_mode(struct db *db, bool on, struct err *err)
{
    int64_t give_up_ms = clock_mono_ms() + SWITCH_WAIT_MS;
    int rc;

    do
        rc = restore_mode_switch(db, on, err);
    while (rc && db_is_conflict(err) && clock_mono_ms() < give_up_ms);
    if (rc && db_is_conflict(err))
        return err_set(err, ERR_RETRY, 0,
                       "a msg-outboxd holds a batch and does not come to its end: nothing was "
                       "switched");
    return rc;
}

/* Consumers that may be alive and whose last heartbeat is older than the mark; printed when told
 * to. */
static int silent_consumers(struct db *db, bool print, size_t *n, struct err *err)
{
    struct db_results results;
    char sql[256];
    char **row;

    snprintf(sql, sizeof(sql),
             "SELECT id,name,TIMESTAMPDIFF(SECOND,heartbeat_at,NOW(6)) FROM workers WHERE "
             "heartbeat_at<=@restore_mark AND heartbeat_at>NOW(6)-INTERVAL %d SECOND",
             LIVES_SEC);
    if (db_run(db, &restore_label, sql, strlen(sql), &results, err))
        return -1;
    *n = (size_t)db_only(&results)->affected;
    while (print && (row = db_next(db_only(&results))))
        printf("not confirmed: consumer %s (%s), last heard %s s ago; unless it has ended, it may "
               "still deliver\n",
               row[0], row[1], row[2]);
    db_results_free(&results);
    return 0;
}

/* A heartbeat that is younger than the switch says that its consumer obeys it. */
static int confirm(struct db *db, size_t *silent, struct err *err)
{
    static const char mark[] = "SET @restore_mark=NOW(6)";
    int64_t give_up_ms = clock_mono_ms() + CONFIRM_WAIT_MS;

    if (db_run(db, &restore_label, mark, sizeof(mark) - 1, NULL, err) ||
        silent_consumers(db, false, silent, err))
        return -1;
    while (*silent && clock_mono_ms() < give_up_ms) {
        pause_sleep(ASK_EVERY_MS);
        if (silent_consumers(db, false, silent, err))
            return -1;
    }
    return *silent ? silent_consumers(db, true, silent, err) : 0;
}

int restore_on(struct db *db, struct err *err)
{
    size_t silent;

    if (schema_need(db, err) || switch_mode(db, true, err) || confirm(db, &silent, err))
        return -1;
    printf("restore mode is on: msg-outboxd publishes nothing, consumers claim nothing and call no "
           "endpoint; sends are accepted and wait\n");
    return silent ? 1 : 0;
}

int restore_off(struct db *db, struct err *err)
{
    if (schema_need(db, err) || switch_mode(db, false, err))
        return -1;
    printf("restore mode is off. Nothing was marked: what operators have taken since the backup is "
           "posted to them again (resume would have asked)\n");
    return 0;
}

int restore_resume(struct db *db, struct err *err)
{
    uint64_t marked;

    if (need_mode(db, err) || for_each_range(db, recipient_mark_restored, &marked, err) ||
        switch_mode(db, false, err))
        return -1;
    printf("restore mode is off; operators are asked about %llu open recipients before anything is "
           "posted\n",
           (unsigned long long)marked);
    return 0;
}

/* ---- fail ---- */

struct failing {
    struct db *db;
    bool dry_run;
    char before[32]; /* messages accepted before that */
    uint64_t failed, in_hand, messages;
    int64_t amount;
};

static int read_before(struct failing *f, int64_t older_than_sec, struct err *err)
{
    struct db_results results;
    char sql[80];
    char **row;

    snprintf(sql, sizeof(sql), "SELECT NOW(6)-INTERVAL %lld SECOND", (long long)older_than_sec);
    if (db_run(f->db, &restore_label, sql, strlen(sql), &results, err))
        return -1;
    row = db_next(db_only(&results));
    snprintf(f->before, sizeof(f->before), "%s", row && row[0] ? row[0] : "");
    db_results_free(&results);
    return 0;
}

/* Their messages, with how many of their recipients in that range are open. */
static int find_messages(struct failing *f, uint64_t first, struct db_results *results,
                         struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_printf(&sql,
               "SELECT s.message_identifier,COUNT(*) FROM message_status s FORCE INDEX(PRIMARY) "
               "STRAIGHT_JOIN messages m ON m.message_identifier=s.message_identifier "
               "WHERE s.id BETWEEN %llu AND %llu AND m.accepted_at<'%s' AND s.status IN (",
               (unsigned long long)first, (unsigned long long)(first + RANGE - 1), f->before);
    recipient_put_states(&sql, RECIPIENT_OPEN);
    buf_puts(&sql, ") GROUP BY s.message_identifier ORDER BY MIN(s.id)");
    rc = db_run_buf(f->db, &restore_label, &sql, results, err);
    buf_free(&sql);
    return rc;
}

static int read_living(struct failing *f, struct db_results *living, struct err *err)
{
    char sql[128];

    snprintf(sql, sizeof(sql),
             "SELECT id FROM workers WHERE heartbeat_at>NOW(6)-INTERVAL %d SECOND ORDER BY id",
             LIVES_SEC);
    return db_run(f->db, &restore_label, sql, strlen(sql), living, err);
}

/* What a living consumer has in hand may be reached yet: it is left to it. Of the others any
 * operator may have been given any since the backup, and the row says so: they are refunded in
 * doubt. */
static void collect(const struct recipient_rows *rows, const uint64_t *living, size_t living_count,
                    struct recipient_change *changes, size_t *n, size_t *in_hand)
{
    for (size_t i = 0; i < rows->n; i++) {
        const struct recipient *r = &rows->all[i];
        bool lives = false;

        if (recipient_is_final(r->state))
            continue;
        for (size_t k = 0; k < living_count && r->owner; k++)
            lives = lives || living[k] == r->owner;
        if (lives) {
            (*in_hand)++;
            continue;
        }
        changes[*n] = recipient_drop(r, REASON);
        changes[(*n)++].any = true;
    }
}

static int drop_open(struct failing *f, const struct recipient_rows *rows, size_t *n,
                     size_t *in_hand, struct err *err)
{
    struct recipient_change *changes = calloc(rows->n + 1, sizeof(*changes));
    struct db_results living;
    uint64_t *ids = NULL;
    size_t count = 0;
    char **row;
    int rc;

    if (!changes)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    rc = read_living(f, &living, err);
    if (!rc) {
        ids = calloc(db_only(&living)->affected + 1, sizeof(*ids));
        while (ids && (row = db_next(db_only(&living))))
            ids[count++] = strtoull(row[0], NULL, 10);
        db_results_free(&living);
    }
    if (!rc && !ids)
        rc = err_set(err, ERR_RETRY, 0, "out of memory");
    if (!rc) {
        collect(rows, ids, count, changes, n, in_hand);
        rc = recipient_fail(f->db, changes, *n, err);
    }
    for (size_t i = 0; i < *n && !rc; i++)
        f->amount += changes[i].price;
    free(ids);
    free(changes);
    return rc;
}

/* A dry run does all of it and rolls back: it fails where the real one would. */
static int fail_once(struct failing *f, const char *const *ids, size_t n, struct err *err)
{
    struct recipient_rows rows = {0};
    int64_t amount = f->amount;
    size_t failed = 0;
    size_t in_hand = 0;
    int rc;

    db_begin(f->db);
    rc = recipient_lock(f->db, ids, n, &rows, err);
    if (!rc)
        rc = drop_open(f, &rows, &failed, &in_hand, err);
    if (!rc && !f->dry_run)
        rc = db_commit(f->db, err);
    else
        db_rollback(f->db);
    recipient_rows_free(&rows);
    if (rc) {
        f->amount = amount;
        return -1;
    }
    f->failed += failed;
    f->in_hand += in_hand;
    f->messages += n;
    return 0;
}

static int fail_some(struct failing *f, const char *const *ids, size_t n, struct err *err)
{
    int rc = -1;

    for (int i = 0; rc && i < CONFLICT_TRIES; i++) {
        rc = fail_once(f, ids, n, err);
        if (rc && !db_is_conflict(err))
            return -1;
    }
    return rc;
}

static int fail_range(struct failing *f, uint64_t first, struct err *err)
{
    const char *ids[FAIL_MESSAGES];
    struct db_results found;
    uint64_t recipients = 0;
    size_t n = 0;
    char **row;
    int rc = 0;

    if (find_messages(f, first, &found, err))
        return -1;
    while (!rc && (row = db_next(db_only(&found)))) {
        ids[n++] = row[0];
        recipients += strtoull(row[1], NULL, 10);
        if (n == FAIL_MESSAGES || recipients >= FAIL_RECIPIENTS) {
            rc = fail_some(f, ids, n, err);
            n = 0;
            recipients = 0;
        }
    }
    if (!rc && n)
        rc = fail_some(f, ids, n, err);
    db_results_free(&found);
    return rc;
}

int restore_fail(struct db *db, int64_t older_than_sec, bool dry_run, struct err *err)
{
    struct failing f = {.db = db, .dry_run = dry_run};
    uint64_t first;
    uint64_t last;

    if (need_mode(db, err) || read_before(&f, older_than_sec, err) ||
        read_span(db, &first, &last, err))
        return -1;
    for (; first && first <= last; first += RANGE)
        if (fail_range(&f, first, err))
            return -1;
    printf("%s%llu recipients of %llu messages accepted before %s UTC failed, %lld refunded\n",
           dry_run ? "dry run: " : "", (unsigned long long)f.failed, (unsigned long long)f.messages,
           f.before, (long long)f.amount);
    if (f.in_hand)
        printf("%llu more are in the hands of consumers that were heard in the last %d s: once "
               "these have ended, again\n",
               (unsigned long long)f.in_hand, LIVES_SEC);
    return f.in_hand ? 1 : 0;
}
