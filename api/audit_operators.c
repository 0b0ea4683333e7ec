#include <stdlib.h>
#include <string.h>

#include "api/audit_internal.h"
#include "api/ledger_client.h"
#include "libcommon/domain/recipient.h"

#define OPERATORS_MAX 32

struct operators {
    struct ledger_client *clients[OPERATORS_MAX];
    size_t n;
};

/* A final recipient, as the database has it, and what the operators' ledgers say of it. */
struct final {
    char **row; /* reference, status, the provider's id, whether an operator's answer is unknown */
    unsigned accepted;
    bool known_id; /* one of them accepted it under the provider's id */
};

struct verdicts {
    struct audit_check *done, *failed, *once;
};

/* ---- every final recipient against the ledgers ---- */

static int read_finals(struct db *db, int64_t after, int64_t last, struct db_results *results,
                       struct err *err)
{
    struct buf sql = {0};
    int rc;

    buf_printf(&sql,
               "SELECT CONCAT(message_identifier,'-',position),status,provider_message_id,"
               "unknown_operators<>'' FROM message_status FORCE INDEX(PRIMARY) "
               "WHERE id BETWEEN %lld AND %lld AND status IN (",
               (long long)after + 1, (long long)last);
    recipient_put_states(&sql, RECIPIENT_FINAL);
    buf_putc(&sql, ')');
    rc = db_run_buf(db, &audit_label, &sql, results, err);
    buf_free(&sql);
    return rc;
}

/* The request of all references, and where each is in finals. */
static size_t list_finals(struct db_set *set, struct final *finals, struct buf *body, json_t *index)
{
    size_t n = 0;
    char **row;

    buf_puts(body, "{\"references\":[");
    for (; n < AUDIT_RANGE && (row = db_next(set)); n++) {
        finals[n] = (struct final){.row = row};
        if (n)
            buf_putc(body, ',');
        buf_put_json(body, row[0], strlen(row[0]));
        json_object_set_new_nocheck(index, row[0], json_integer((json_int_t)n));
    }
    buf_puts(body, "]}");
    return n;
}

static int ask(struct ledger_client *c, const struct buf *body, const json_t *index,
               struct final *finals, size_t n, struct err *err)
{
    const json_t *entry;
    json_t *entries;
    size_t i;

    if (ledger_client_find(c, body, &entries, err))
        return -1;
    json_array_foreach(entries, i, entry)
    {
        const char *reference = json_string_value(json_object_get(entry, "reference"));
        const char *id = json_string_value(json_object_get(entry, "id"));
        const json_t *at = reference ? json_object_get(index, reference) : NULL;
        size_t k = (size_t)json_integer_value(at);

        if (!at || k >= n)
            continue;
        finals[k].accepted++;
        finals[k].known_id |= id && !strcmp(id, finals[k].row[2]);
    }
    json_decref(entries);
    return 0;
}

static void judge(const struct final *f, const struct verdicts *v, struct audit_report *report)
{
    enum recipient_state state;
    bool done = recipient_state_parse(f->row[1], &state) && !recipient_is_refunded(state);
    bool unknown = !strcmp(f->row[3], "1");

    (done ? v->done : v->failed)->checked++;
    v->once->checked++;
    /* Confirmed by hand: nobody has said under which id. */
    if (done && !f->known_id && !(f->accepted && !*f->row[2]))
        audit_violate(report, v->done, f->row[0],
                      f->accepted ? "accepted under another id" : "done, and no operator has it");
    if (!done && f->accepted)
        audit_violate(report, v->failed, f->row[0],
                      unknown ? "refunded, and an operator that it was in doubt with accepted it"
                              : "refunded, and an operator accepted it");
    if (f->accepted > 1 && !unknown)
        audit_violate(report, v->once, f->row[0], "accepted by more than one operator");
}

/* The database is read first: what an operator accepts meanwhile is then too much knowledge, never
 * too little. */
static int check_range(struct db *db, const struct operators *o, int64_t after, int64_t last,
                       const struct verdicts *v, struct audit_report *report, struct err *err)
{
    struct final *finals = calloc(AUDIT_RANGE, sizeof(*finals));
    json_t *index = json_object();
    struct db_results results = {0};
    struct buf body = {0};
    size_t n = 0;
    int rc = -1;

    if (!finals || !index)
        err_set(err, ERR_RETRY, 0, "out of memory");
    else
        rc = read_finals(db, after, last, &results, err);
    if (!rc)
        n = list_finals(db_only(&results), finals, &body, index);
    if (!rc && body.failed)
        rc = err_set(err, ERR_RETRY, 0, "out of memory");
    for (size_t i = 0; i < o->n && n && !rc; i++)
        rc = ask(o->clients[i], &body, index, finals, n, err);
    for (size_t i = 0; i < n && !rc; i++)
        judge(&finals[i], v, report);
    db_results_free(&results);
    buf_free(&body);
    json_decref(index);
    free(finals);
    return rc;
}

static int check_finals(struct db *db, const struct operators *o, struct audit_report *report,
                        struct err *err)
{
    struct verdicts v = {audit_add_check(report, "done_was_accepted"),
                         audit_add_check(report, "failed_was_not_accepted"),
                         audit_add_check(report, "accepted_by_one_operator")};
    int64_t after = 0;
    int64_t last;
    int64_t rows;

    for (;;) {
        if (audit_next_range(db, "message_status", NULL, after, AUDIT_RANGE, &last, &rows, err))
            return -1;
        if (!rows)
            return 0;
        if (check_range(db, o, after, last, &v, report, err))
            return -1;
        after = last;
    }
}

/* ---- every entry of a ledger against the database ---- */

/* [reference, message, position, recipient], the reference being <message>-<position>. */
static void put_entry(struct buf *json, const json_t *entry)
{
    const char *reference = json_string_value(json_object_get(entry, "reference"));
    const char *to = json_string_value(json_object_get(entry, "to"));
    const char *dash = reference ? strrchr(reference, '-') : NULL;

    if (!dash || !to)
        return;
    buf_putc(json, json->len ? ',' : '[');
    buf_putc(json, '[');
    buf_put_json(json, reference, strlen(reference));
    buf_putc(json, ',');
    buf_put_json(json, reference, (size_t)(dash - reference));
    buf_putc(json, ',');
    buf_put_json(json, dash + 1, strlen(dash + 1));
    buf_putc(json, ',');
    buf_put_json(json, to, strlen(to));
    buf_putc(json, ']');
}

static int check_page(struct db *db, const json_t *entries, struct audit_report *report,
                      struct audit_check *check, struct err *err)
{
    struct db_results results;
    struct buf json = {0};
    struct buf sql = {0};
    const json_t *entry;
    char **row;
    size_t i;
    int rc;

    json_array_foreach(entries, i, entry)
    {
        put_entry(&json, entry);
    }
    if (!json.len)
        return 0;
    buf_putc(&json, ']');
    buf_puts(&sql, "SELECT j.reference,'accepted, and nobody sent it' FROM JSON_TABLE(");
    db_put_quoted(db, &sql, json.failed ? "" : json.data, json.failed ? 0 : json.len);
    buf_puts(&sql, ",'$[*]' COLUMNS(reference VARCHAR(80) PATH '$[0]',"
                   "m VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin PATH '$[1]',"
                   "p VARCHAR(20) PATH '$[2]',"
                   "t VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin PATH '$[3]')) j "
                   "LEFT JOIN message_status s FORCE INDEX(uq_message_status_identifier_recipient) "
                   "ON s.message_identifier=j.m AND s.recipient=j.t AND s.position=j.p "
                   "WHERE s.id IS NULL");
    rc = json.failed ? err_set(err, ERR_RETRY, 0, "out of memory")
                     : db_run_buf(db, &audit_label, &sql, &results, err);
    buf_free(&json);
    buf_free(&sql);
    if (rc)
        return -1;
    while ((row = db_next(db_only(&results))))
        audit_violate(report, check, row[0], row[1]);
    db_results_free(&results);
    check->checked += json_array_size(entries);
    return 0;
}

static int check_ledger(struct db *db, struct ledger_client *c, struct audit_report *report,
                        struct audit_check *check, struct err *err)
{
    int64_t cursor = 0;
    json_t *entries;
    int rc = 0;

    while (cursor >= 0 && !rc) {
        if (ledger_client_page(c, &cursor, &entries, err))
            return -1;
        rc = check_page(db, entries, report, check, err);
        json_decref(entries);
    }
    return rc;
}

/* ---- both ---- */

static int open_clients(struct operators *o, const char *urls, struct err *err)
{
    while (*urls) {
        size_t len = strcspn(urls, ",");

        if (o->n == OPERATORS_MAX || !len)
            return err_set(err, ERR_PERMANENT, 0, "audit: --operators takes up to %d URLs",
                           OPERATORS_MAX);
        o->clients[o->n++] = ledger_client_new(urls, len);
        urls += len + (urls[len] == ',');
    }
    return 0;
}

int audit_operators(struct db *db, const struct audit_options *options, struct audit_report *report,
                    struct err *err)
{
    struct operators o = {.n = 0};
    int rc = open_clients(&o, options->operators, err);

    if (!rc)
        rc = check_finals(db, &o, report, err);
    if (!rc) {
        struct audit_check *check = audit_add_check(report, "accepted_was_sent");

        for (size_t i = 0; i < o.n && !rc; i++)
            rc = check_ledger(db, o.clients[i], report, check, err);
    }
    for (size_t i = 0; i < o.n; i++)
        ledger_client_free(o.clients[i]);
    return rc;
}
