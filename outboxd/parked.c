#include "outboxd/parked.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/terminal.h"
#include "libcommon/domain/doorbell.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/domain/recipient.h"
#include "libcommon/telemetry/log.h"
#include "outboxd/settings.h"

#define LIST_PAGE 500
#define LOG_FLUSH_MS 5000

static struct db_label list_label = {.query = "parked_list"};
static struct db_label show_label = {.query = "parked_show"};
static struct db_label lock_label = {.query = "parked_lock"};
static struct db_label requeue_label = {.query = "parked_requeue"};
static struct db_label drop_label = {.query = "parked_drop"};

struct order {
    struct db *db;
    bool dry_run, all;
    const char *event; /* in the log, for each row */
    const char *const *ids;
    size_t n;
};

struct parked_row {
    int64_t id;
    char message_id[MESSAGE_ID_MAX + 1];
    bool known;      /* there is a message of that identifier */
    size_t refunded; /* recipients, by drop */
};

/* ---- list and show ---- */

static void print_list_row(char **c)
{
    for (int i = 0; i < 3; i++) {
        terminal_puts(stdout, c[i]);
        putchar('\t');
    }
    printf("priority=%s attempts=%s parked_at=%s\t", c[3], c[4], c[5]);
    terminal_puts(stdout, c[6]);
    putchar('\n');
}

/* Page by page: no list is too long, no snapshot open for long. */
static int list(struct order *o, struct err *err)
{
    int64_t from = 0;
    size_t found;

    do {
        struct db_results results;
        struct buf sql = {0};
        char **c;
        int rc;

        buf_printf(&sql,
                   "SELECT id,aggregate_id,event_type,priority,attempts,parked_at,last_error FROM "
                   "outbox_parked WHERE id>%lld ORDER BY id LIMIT %d",
                   (long long)from, LIST_PAGE);
        rc = db_run_buf(o->db, &list_label, &sql, &results, err);
        buf_free(&sql);
        if (rc)
            return -1;
        found = 0;
        while ((c = db_next(db_only(&results)))) {
            print_list_row(c);
            from = strtoll(c[0], NULL, 10);
            found++;
        }
        db_results_free(&results);
    } while (found == LIST_PAGE);
    return 0;
}

static void print_states(struct db_set *states)
{
    char **c;

    while ((c = db_next(states)))
        printf("recipients %s: %s\n", c[0], c[1]);
}

static int show(struct order *o, struct err *err)
{
    static const char *const names[] = {"id",        "message",    "event_type",
                                        "priority",  "attempts",   "created_at",
                                        "parked_at", "last_error", "payload"};
    struct db_packet packet = {0};
    struct db_results results;
    char **c;
    int rc;

    buf_printf(db_statement(&packet, "row"),
               "SELECT id,aggregate_id,event_type,priority,attempts,created_at,parked_at,"
               "last_error,payload FROM outbox_parked WHERE id=%s",
               o->ids[0]);
    buf_printf(db_statement(&packet, "recipients"),
               "SELECT s.status,COUNT(*) FROM outbox_parked p JOIN message_status s ON "
               "s.message_identifier=p.aggregate_id WHERE p.id=%s GROUP BY s.status",
               o->ids[0]);
    rc = db_run_packet(o->db, &show_label, &packet, &results, err);
    db_packet_free(&packet);
    if (rc)
        return -1;
    c = db_next(db_result(&results, "row"));
    if (!c)
        rc = err_set(err, ERR_PERMANENT, 0, "no parked row %s", o->ids[0]);
    for (size_t i = 0; c && i < sizeof(names) / sizeof(names[0]); i++) {
        printf("%s: ", names[i]);
        terminal_puts(stdout, c[i]);
        putchar('\n');
    }
    if (c)
        print_states(db_result(&results, "recipients"));
    db_results_free(&results);
    return rc;
}

/* ---- one row's transaction ---- */

/* Locked until the transaction ends. */
static int lock_row(struct order *o, const char *id, struct parked_row *row, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **c;
    int rc;

    db_begin(o->db);
    buf_printf(&sql,
               "SELECT p.id,p.aggregate_id,"
               "EXISTS(SELECT 1 FROM messages m WHERE m.message_identifier=p.aggregate_id) "
               "FROM outbox_parked p WHERE p.id=%s FOR UPDATE",
               id);
    rc = db_run_buf(o->db, &lock_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    c = db_next(db_only(&results));
    if (c) {
        row->id = strtoll(c[0], NULL, 10);
        snprintf(row->message_id, sizeof(row->message_id), "%s", c[1]);
        row->known = c[2][0] == '1';
    } else {
        rc = err_set(err, ERR_PERMANENT, 0, "no parked row %s", id);
    }
    db_results_free(&results);
    return rc;
}

/* An enqueue of its own kind: the old event_type may be taken again by now. What asks always has a
 * time: it is looked for among what is due. */
static int requeue_row(struct order *o, struct parked_row *row, struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_puts(&sql, "INSERT INTO outbox_events(kind,aggregate_type,aggregate_id,event_type,payload,"
                   "priority,next_run_at) SELECT kind,aggregate_type,aggregate_id,");
    if (row->known)
        buf_puts(&sql, "(SELECT CONCAT('message.retry.',m.enqueues) FROM messages m WHERE "
                       "m.message_identifier=aggregate_id)");
    else
        buf_puts(&sql, "CONCAT('message.requeue.',id)");
    buf_printf(&sql,
               ",payload,priority,IF(kind=%d,NOW(6),NULL) FROM outbox_parked WHERE id=%lld;"
               "DELETE FROM outbox_parked WHERE id=%lld",
               (int)OUTBOX_ASK, (long long)row->id, (long long)row->id);
    if (row->known) {
        struct buf count = {0};

        buf_puts(&count, "UPDATE messages SET enqueues=enqueues+1 WHERE message_identifier=");
        db_put_quoted(o->db, &count, row->message_id, strlen(row->message_id));
        buf_putc(&count, ';');
        buf_put(&count, sql.data, sql.len);
        count.failed |= sql.failed;
        rc = db_run_buf(o->db, &requeue_label, &count, NULL, err);
        buf_free(&count);
    } else {
        rc = db_run_buf(o->db, &requeue_label, &sql, NULL, err);
    }
    buf_free(&sql);
    return rc;
}

/* Only who has not been tried: a recipient that is being sent may be reached yet. */
static int refund_pending(struct order *o, struct parked_row *row, struct err *err)
{
    const char *id = row->message_id;
    struct recipient_change *changes;
    struct recipient_rows rows;
    int rc;

    if (recipient_lock(o->db, &id, 1, &rows, err))
        return -1;
    changes = calloc(rows.n + 1, sizeof(*changes));
    for (size_t i = 0; changes && i < rows.n; i++)
        if (rows.all[i].state == RECIPIENT_PENDING)
            changes[row->refunded++] =
                recipient_drop(&rows.all[i], "given up: its outbox row was parked and dropped");
    rc = changes ? recipient_fail(o->db, changes, row->refunded, err)
                 : err_set(err, ERR_RETRY, 0, "out of memory");
    recipient_rows_free(&rows);
    free(changes);
    return rc;
}

static int drop_row(struct order *o, struct parked_row *row, struct err *err)
{
    struct buf sql = {0};
    int rc = refund_pending(o, row, err);

    if (!rc) {
        buf_printf(&sql, "DELETE FROM outbox_parked WHERE id=%lld", (long long)row->id);
        rc = db_run_buf(o->db, &drop_label, &sql, NULL, err);
        buf_free(&sql);
    }
    return rc;
}

typedef int act_fn(struct order *o, struct parked_row *row, struct err *err);

/* A dry run does all of it and rolls back: it fails where the real one would. */
static int act(struct order *o, const char *id, act_fn *fn, struct err *err)
{
    struct parked_row row = {0};
    int rc = lock_row(o, id, &row, err);

    if (!rc)
        rc = fn(o, &row, err);
    if (!rc && !o->dry_run)
        rc = db_commit(o->db, err);
    else
        db_rollback(o->db);
    if (!rc)
        log_info(o->event, L_INT("outbox_id", row.id), L_STR("message_id", row.message_id),
                 L_INT("refunded", row.refunded), L_STR("dry_run", o->dry_run ? "true" : "false"));
    return rc;
}

static int next_id(struct order *o, int64_t *id, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **c;
    int rc;

    buf_printf(&sql, "SELECT COALESCE(MIN(id),0) FROM outbox_parked WHERE id>%lld", (long long)*id);
    rc = db_run_buf(o->db, &list_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    c = db_next(db_only(&results));
    *id = c ? strtoll(c[0], NULL, 10) : 0;
    db_results_free(&results);
    return 0;
}

static int act_on_all(struct order *o, act_fn *fn, struct err *err)
{
    int64_t id = 0;
    char text[24];

    for (;;) {
        if (next_id(o, &id, err))
            return -1;
        if (!id)
            return 0;
        snprintf(text, sizeof(text), "%lld", (long long)id);
        if (act(o, text, fn, err))
            return -1;
    }
}

static int act_on_each(struct order *o, act_fn *fn, struct err *err)
{
    if (o->all)
        return act_on_all(o, fn, err);
    for (size_t i = 0; i < o->n; i++)
        if (act(o, o->ids[i], fn, err))
            return -1;
    return 0;
}

static int requeue(struct order *o, struct err *err)
{
    int rc;

    o->event = "parked.requeue";
    rc = act_on_each(o, requeue_row, err);
    if (!o->dry_run) /* whose lane it was is of no matter */
        doorbell_ring_once(&outboxd_settings.broker,
                           DOORBELL_FRESH(MESSAGE_EXPRESS) | DOORBELL_FRESH(MESSAGE_NORMAL) |
                               DOORBELL_LATER(MESSAGE_EXPRESS) | DOORBELL_LATER(MESSAGE_NORMAL));
    return rc;
}

static int drop(struct order *o, struct err *err)
{
    o->event = "parked.drop";
    return act_on_each(o, drop_row, err);
}

/* ---- command line ---- */

struct verb {
    const char *name;
    int (*run)(struct order *o, struct err *err);
    size_t min_ids, max_ids;
    bool changes, takes_all;
};

static const struct verb verbs[] = {
    {"list", list, 0, 0, false, false},
    {"show", show, 1, 1, false, false},
    {"requeue", requeue, 1, SIZE_MAX, true, true},
    {"drop", drop, 1, SIZE_MAX, true, false},
};

static const struct verb *find_verb(const char *name)
{
    for (size_t i = 0; name && i < sizeof(verbs) / sizeof(verbs[0]); i++)
        if (!strcmp(verbs[i].name, name))
            return &verbs[i];
    return NULL;
}

static bool is_id(const char *s)
{
    size_t n = strspn(s, "0123456789");

    return n > 0 && n <= 18 && !s[n];
}

/* ids has room for argc entries. */
static bool parse(int argc, char **argv, const struct verb *verb, const char **ids, struct order *o)
{
    for (int i = 1; i < argc; i++) {
        if (verb->changes && !strcmp(argv[i], "--dry-run"))
            o->dry_run = true;
        else if (verb->takes_all && !strcmp(argv[i], "--all"))
            o->all = true;
        else if (is_id(argv[i]))
            ids[o->n++] = argv[i];
        else
            return false;
    }
    o->ids = ids;
    return o->all ? o->n == 0 : o->n >= verb->min_ids && o->n <= verb->max_ids;
}

static int run(const struct verb *verb, struct order *o)
{
    struct err err;
    int rc;

    db_label_register(&list_label);
    db_label_register(&show_label);
    db_label_register(&lock_label);
    db_label_register(&requeue_label);
    db_label_register(&drop_label);
    recipient_register();
    log_start(outboxd_program.name, LOG_INFO);
    o->db = db_new_reader(&outboxd_settings.db);
    rc = db_acquire(o->db, &err);
    if (!rc)
        rc = verb->run(o, &err);
    if (rc)
        fprintf(stderr, "msg-outboxd parked %s: %s%s\n", verb->name, err.msg,
                err.kind == ERR_UNKNOWN ? " (may have been done: look before trying again)" : "");
    db_release(o->db);
    db_free(o->db);
    log_stop(LOG_FLUSH_MS);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}

int parked_main(int argc, char **argv)
{
    const struct verb *verb = argc ? find_verb(argv[0]) : NULL;
    const char **ids = calloc((size_t)argc + 1, sizeof(*ids));
    struct order o = {0};
    int rc = DAEMON_USAGE;

    if (ids && verb && parse(argc, argv, verb, ids, &o))
        rc = run(verb, &o);
    free(ids);
    return rc;
}
