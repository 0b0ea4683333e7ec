#include "consumerd/held.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/worker.h"
#include "libcommon/base/must.h"
#include "libcommon/base/terminal.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/domain/recipient.h"
#include "libcommon/telemetry/log.h"

#define LIST_PAGE 100   /* messages */
#define POSITION_MAX 10 /* digits */
#define LOG_FLUSH_MS 5000

static struct db_label list_label = {.query = "held_list"};

/* ---- list ---- */

struct order {
    const struct settings *settings;
    struct db *db;
    const char *message_id, *provider;
    unsigned *positions;
    size_t position_count;
    bool dry_run, all;
};

static void print_held(char **row)
{
    printf("%s\t%s\tsince %s\t", row[1], row[2], row[3] ? row[3] : "?");
    terminal_puts(stdout, row[4]);
    putchar('\t');
    terminal_puts(stdout, row[5]);
    putchar('\n');
}

static int list_page(struct db *db, enum message_type lane, int64_t *after, size_t *found,
                     struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    buf_puts(&sql, "SELECT o.id,s.message_identifier,s.position,s.first_claimed_at,"
                   "s.unknown_operators,s.last_error FROM (SELECT id,aggregate_id FROM "
                   "outbox_events FORCE INDEX(PRIMARY) WHERE ");
    outbox_put_part(&sql, lane, OUTBOX_ASK);
    buf_printf(&sql,
               " AND id>%lld ORDER BY id LIMIT %d) o LEFT JOIN message_status s "
               "ON s.message_identifier=o.aggregate_id AND s.unknown_operators<>'' "
               "AND s.status IN (",
               (long long)*after, LIST_PAGE);
    recipient_put_states(&sql, RECIPIENT_OPEN);
    buf_puts(&sql, ") ORDER BY o.id,s.position");
    rc = db_run_buf(db, &list_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *found = 0;
    while ((row = db_next(db_only(&results)))) {
        *after = strtoll(row[0], NULL, 10);
        (*found)++;
        if (row[1])
            print_held(row);
    }
    db_results_free(&results);
    return 0;
}

static int list(struct order *o, struct err *err)
{
    for (int lane = 0; lane < MESSAGE_LANES; lane++) {
        int64_t after = 0;
        size_t found;

        do
            if (list_page(o->db, (enum message_type)lane, &after, &found, err))
                return -1;
        while (found);
    }
    return 0;
}

/* ---- a person's word ---- */

static bool is_chosen(const struct order *o, const struct recipient *r)
{
    if (recipient_is_final(r->state) || !*r->unknown)
        return false;
    for (size_t i = 0; i < o->position_count; i++)
        if (o->positions[i] == r->position)
            return true;
    return !o->position_count;
}

/* Names without the provider's; it must be one of them. */
static int take_out(const struct order *o, const struct recipient *r, struct buf *rest,
                    struct err *err)
{
    struct operator_address provider;
    struct operators_noted noted;
    bool open_list = strstr(r->unknown, RECIPIENT_UNKNOWN_MORE) != NULL;

    snprintf(provider.name, sizeof(provider.name), "%s", o->provider);
    settings_read_noted(&provider, 1, r->unknown, &noted);
    if (!noted.mask && !noted.any && !open_list)
        return err_set(err, ERR_PERMANENT, 0, "%s is none of those that may have %s-%u: %s",
                       o->provider, r->message_id, r->position, r->unknown);
    settings_put_noted(rest, NULL, 0, noted.gone);
    if (noted.any)
        buf_puts(rest, rest->len ? "," RECIPIENT_UNKNOWN_ANY : RECIPIENT_UNKNOWN_ANY);
    return rest->failed ? err_set(err, ERR_RETRY, 0, "out of memory") : 0;
}

/* What is to become of the chosen ones; rest[i] keeps the names for changes[i]. A recipient that a
 * living consumer has in hand may be found out about yet. */
static int plan(const struct order *o, const struct recipient_rows *rows,
                struct recipient_change *changes, struct buf *rest, size_t *n, struct err *err)
{
    for (size_t i = 0; i < rows->n; i++) {
        const struct recipient *r = &rows->all[i];
        bool lives;

        if (!is_chosen(o, r))
            continue;
        if (worker_lives(o->db, &o->settings->consumer, r->owner, &lives, err))
            return -1;
        if (lives)
            return err_set(err, ERR_RETRY, 0, "a consumer has it in hand right now");
        if (!o->provider) {
            changes[(*n)++] = recipient_drop(r, "given up by hand: an operator may have it");
            continue;
        }
        if (take_out(o, r, &rest[*n], err))
            return -1;
        changes[*n] = recipient_confirm(r, o->provider, rest[*n].len ? rest[*n].data : "");
        (*n)++;
    }
    if (!*n || *n < o->position_count)
        return err_set(err, ERR_PERMANENT, 0,
                       "%s has no such open recipient that an operator may have", o->message_id);
    return 0;
}

/* With the question, when nothing is left to ask. */
static int write_down(const struct order *o, const struct recipient_rows *rows,
                      struct recipient_change *changes, size_t n, struct err *err)
{
    size_t open = 0;

    for (size_t i = 0; i < rows->n; i++)
        open += !recipient_is_final(rows->all[i].state);
    if (o->provider ? recipient_confirm_all(o->db, changes, n, err)
                    : recipient_fail(o->db, changes, n, err))
        return -1;
    return open == n ? outbox_forget_ask(o->db, o->message_id, err) : 0;
}

static void tell(const struct order *o, const struct recipient_change *changes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        log_info(o->provider ? "held.done" : "held.failed", L_STR("message_id", o->message_id),
                 L_INT("position", changes[i].position),
                 L_STR("operator", o->provider ? o->provider : "none"),
                 L_STR("dry_run", o->dry_run ? "true" : "false"));
}

static int decide_rows(struct order *o, const struct recipient_rows *rows, struct err *err)
{
    struct recipient_change *changes = calloc(rows->n + 1, sizeof(*changes));
    struct buf *rest = calloc(rows->n + 1, sizeof(*rest));
    size_t n = 0;
    int rc;

    if (!changes || !rest)
        rc = err_set(err, ERR_RETRY, 0, "out of memory");
    else
        rc = plan(o, rows, changes, rest, &n, err);
    if (!rc)
        rc = write_down(o, rows, changes, n, err);
    if (!rc && !o->dry_run)
        rc = db_commit(o->db, err);
    else
        db_rollback(o->db);
    if (!rc)
        tell(o, changes, n);
    for (size_t i = 0; rest && i < rows->n; i++)
        buf_free(&rest[i]);
    free(rest);
    free(changes);
    return rc;
}

/* A dry run does all of it and rolls back: it fails where the real one would. */
static int decide(struct order *o, struct err *err)
{
    struct recipient_rows rows = {0};
    int rc;

    db_begin(o->db);
    rc = recipient_lock(o->db, &o->message_id, 1, &rows, err);
    if (rc)
        db_rollback(o->db);
    else
        rc = decide_rows(o, &rows, err);
    recipient_rows_free(&rows);
    return rc;
}

/* The next message that is held, in the order of its row in the outbox. */
static int next_held(struct db *db, enum message_type lane, int64_t *after, char *id, size_t size,
                     struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    buf_puts(&sql, "SELECT id,aggregate_id FROM outbox_events FORCE INDEX(PRIMARY) WHERE ");
    outbox_put_part(&sql, lane, OUTBOX_ASK);
    buf_printf(&sql, " AND id>%lld ORDER BY id LIMIT 1", (long long)*after);
    rc = db_run_buf(db, &list_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    *id = '\0';
    row = db_next(db_only(&results));
    if (row) {
        *after = strtoll(row[0], NULL, 10);
        snprintf(id, size, "%s", row[1]);
    }
    db_results_free(&results);
    return 0;
}

/* One that cannot be decided does not keep the others; it is said, and the exit status tells. */
static int decide_all(struct order *o, struct err *err)
{
    char id[MESSAGE_ID_MAX + 1];
    size_t left = 0;

    for (int lane = 0; lane < MESSAGE_LANES; lane++) {
        int64_t after = 0;

        for (;;) {
            if (next_held(o->db, (enum message_type)lane, &after, id, sizeof(id), err))
                return -1;
            if (!*id)
                break;
            o->message_id = id;
            if (!decide(o, err))
                continue;
            fprintf(stderr, "msg-consumerd held fail: %s: %s\n", id, err->msg);
            left += err->kind != ERR_PERMANENT; /* else found out about in between */
        }
    }
    return left ? err_set(err, ERR_RETRY, 0, "%zu messages are left", left) : 0;
}

/* ---- command line ---- */

static bool parse_position(const char *word, unsigned *position)
{
    size_t n = strspn(word, "0123456789");

    if (!n || n >= POSITION_MAX || word[n])
        return false;
    *position = (unsigned)strtoul(word, NULL, 10);
    return true;
}

/* positions has room for all words. */
static bool take_word(struct order *o, char *word, bool takes_all)
{
    if (!strcmp(word, "--dry-run")) {
        o->dry_run = true;
        return true;
    }
    if (takes_all && !strcmp(word, "--all")) {
        o->all = true;
        return true;
    }
    if (*word == '-')
        return false;
    if (o->message_id)
        return parse_position(word, &o->positions[o->position_count++]);
    o->message_id = word;
    return true;
}

static bool parse(struct order *o, int argc, char **argv)
{
    bool done = argc && !strcmp(argv[0], "done");

    if (argc == 1 && !strcmp(argv[0], "list"))
        return true;
    if (!done && !(argc && !strcmp(argv[0], "fail")))
        return false;
    for (int i = 1; i < argc; i++) {
        bool names_operator = done && !strcmp(argv[i], "--operator") && i + 1 < argc;

        if (names_operator)
            o->provider = argv[++i];
        else if (!take_word(o, argv[i], !done))
            return false;
    }
    return o->all != (o->message_id != NULL) && done == (o->provider != NULL) &&
           (!o->provider || operator_name_ok(o->provider, strlen(o->provider)));
}

static int run(struct order *o, const char *verb)
{
    struct err err = {0};
    int rc;

    db_label_register(&list_label);
    recipient_register();
    outbox_register();
    worker_register();
    log_start("msg-consumerd", LOG_INFO);
    o->db = db_new_reader(&o->settings->db);
    rc = db_acquire(o->db, &err);
    if (!rc)
        rc = !strcmp(verb, "list") ? list(o, &err) : o->all ? decide_all(o, &err) : decide(o, &err);
    if (rc)
        fprintf(stderr, "msg-consumerd held %s: %s%s\n", verb, err.msg,
                err.kind == ERR_UNKNOWN ? " (may have been done: look before trying again)" : "");
    db_release(o->db);
    db_free(o->db);
    log_stop(LOG_FLUSH_MS);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}

int held_main(const struct settings *settings, int argc, char **argv)
{
    struct order o = {.settings = settings,
                      .positions = must_alloc((size_t)argc + 1, sizeof(unsigned))};
    int rc = parse(&o, argc, argv) ? run(&o, argv[0]) : DAEMON_USAGE;

    free(o.positions);
    return rc;
}
