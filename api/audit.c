#include <stdlib.h>
#include <string.h>

#include "api/audit_internal.h"
#include "libcommon/base/must.h"
#include "libcommon/base/terminal.h"
#include "libcommon/domain/customer_move.h"
#include "libcommon/domain/recipient.h"

struct db_label audit_label = {.query = "audit"};

const struct audit_range_check audit_range_checks[AUDIT_RANGE_CHECKS] = {
    {"ledger_row_has_cause", "user_transactions",
     "SELECT t.transaction_id,CONCAT(t.transaction_type,' of ',t.amount,' does not fit what it is "
     "for') "
     "FROM user_transactions t "
     "LEFT JOIN user_balances b ON b.user_id=t.user_id "
     "LEFT JOIN messages m ON t.transaction_type='withdrawal' AND "
     "m.message_identifier=SUBSTRING(t.transaction_id,3) "
     "LEFT JOIN message_status s ON t.transaction_type='refund' AND "
     "s.message_identifier=SUBSTRING(t.transaction_id,3,CHAR_LENGTH(t.transaction_id)-3-"
     "CHAR_LENGTH(SUBSTRING_INDEX(t.transaction_id,'-',-1))) "
     "AND s.position=SUBSTRING_INDEX(t.transaction_id,'-',-1) "
     "WHERE t.id BETWEEN %1 AND %2 AND t.user_id" CUSTOMER_NOT_ARRIVING
     " AND NOT COALESCE(b.user_id IS NOT NULL AND ("
     "(t.transaction_type='deposit' AND t.amount>0) OR "
     "(t.transaction_type='withdrawal' AND t.amount=-(SELECT SUM(c.price) FROM message_status c "
     "WHERE c.message_identifier=m.message_identifier) AND "
     "m.customer_id=t.user_id) OR "
     "(t.transaction_type='refund' AND (s.status IN ({refunded}) OR s.delivery_refunded=1) AND "
     "s.price=t.amount AND "
     "s.user_id=t.user_id)),FALSE)",
     false, false, NULL},
    {"recipient_is_settled_right", "message_status",
     "SELECT CONCAT(s.message_identifier,'-',s.position),CASE WHEN m.message_identifier IS NULL "
     "THEN 'no message' "
     "WHEN s.status NOT IN ({any}) THEN 'unknown status' "
     "WHEN s.status IN ({refunded}) AND r.id IS NULL THEN 'failed without refund' "
     "WHEN s.delivery_refunded<>0 AND r.id IS NULL THEN 'undelivered, and said to be refunded, "
     "without a refund' "
     "WHEN s.status NOT IN ({refunded}) AND s.delivery_refunded=0 AND r.id IS NOT NULL THEN "
     "'refunded but not failed' "
     "WHEN s.status IN ({kept}) AND s.provider='' THEN 'done by nobody' "
     "WHEN s.user_id<>m.customer_id THEN 'customer differs from the message' "
     "ELSE 'refund of another amount or customer' END "
     "FROM message_status s LEFT JOIN messages m ON m.message_identifier=s.message_identifier "
     "LEFT JOIN user_transactions r ON "
     "r.transaction_id=CONCAT('r-',s.message_identifier,'-',s.position) "
     "WHERE s.id BETWEEN %1 AND %2 AND s.user_id" CUSTOMER_NOT_ARRIVING
     " AND NOT COALESCE(s.status IN "
     "({any}) AND (s.status IN ({refunded}) OR s.delivery_refunded<>0)=(r.id IS NOT NULL) "
     "AND (s.status NOT IN ({kept}) OR s.provider<>'') AND s.user_id=m.customer_id "
     "AND (r.id IS NULL OR (r.amount=s.price AND r.user_id=s.user_id)),FALSE)",
     false, false, NULL},
    {"delivery_is_as_told", "message_status", audit_receipts_delivery, false, false, NULL},
    {"receipts_have_recipients", "deliveries", audit_receipts_orphans, false, false, "status_id"},
    {"endpoint_stands_right", "webhooks", audit_webhooks_standing, false, false, NULL},
    {"calls_have_endpoints", "webhook_attempts", audit_webhooks_calls, false, false, "webhook_id"},
    {"endpoint_is_not_stuck", "webhooks", audit_webhooks_stuck, false, true, NULL},
    {"recipient_is_not_stuck", "message_status",
     "SELECT CONCAT(s.message_identifier,'-',s.position),CONCAT(s.status,' since ',s.created_at) "
     "FROM message_status s WHERE s.id BETWEEN %1 AND %2 AND s.status IN ({open}) "
     "AND s.created_at<=NOW(6)-INTERVAL %3 SECOND "
     "AND NOT (s.unknown_operators<>'' AND EXISTS (SELECT 1 FROM outbox_events o WHERE "
     "o.aggregate_id=s.message_identifier AND o.kind=2))", /* held: OUTBOX_ASK */
     false, true, NULL},
    {"outbox_is_empty", "outbox_events",
     "SELECT CONCAT('outbox row ',o.id),CONCAT(o.event_type,' of ',o.aggregate_id) FROM "
     "outbox_events o WHERE o.id BETWEEN %1 AND %2 AND NOT (o.kind=2 AND EXISTS (SELECT 1 FROM "
     "message_status s WHERE s.message_identifier=o.aggregate_id AND s.status IN ({open}) AND "
     "s.unknown_operators<>''))",
     true, false, NULL},
};

struct audit_check *audit_add_check(struct audit_report *report, const char *name)
{
    struct audit_check *check = &report->checks[report->check_count++];

    MUST(report->check_count <= AUDIT_CHECKS);
    check->name = name;
    return check;
}

static void note(struct audit_check *check, const char *where, const char *what)
{
    struct buf text = {0};

    if (check->violations++ >= AUDIT_EXAMPLES)
        return;
    buf_printf(&text, "%s: %s", where ? where : "?", what ? what : "?");
    check->examples[check->violations - 1] = buf_take(&text, NULL);
}

void audit_violate(struct audit_report *report, struct audit_check *check, const char *where,
                   const char *what)
{
    report->violations++;
    note(check, where, what);
}

void audit_doubt(struct audit_report *report, enum audit_doubt doubt, const char *where,
                 const char *what)
{
    note(&report->doubts[doubt], where, what);
}

static void put_template(struct buf *sql, const char *template, const int64_t values[3])
{
    struct buf words = {0};

    recipient_put_template(&words, template);
    sql->failed |= words.failed;
    for (const char *at = words.failed ? "" : words.data; *at; at++) {
        if (at[0] == '%' && at[1] >= '1' && at[1] <= '3')
            buf_put_int(sql, values[*++at - '1']);
        else
            buf_putc(sql, *at);
    }
    buf_free(&words);
}

int audit_run_range(struct db *db, const struct audit_range_check *c, const int64_t values[3],
                    struct audit_report *report, struct audit_check *check, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    put_template(&sql, c->sql, values);
    rc = db_run_buf(db, &audit_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while ((row = db_next(db_only(&results))))
        audit_violate(report, check, row[0], row[1]);
    db_results_free(&results);
    return 0;
}

int audit_next_range(struct db *db, const char *table, const char *key, int64_t after,
                     int64_t limit, int64_t *last, int64_t *rows, struct err *err)
{
    const char *id = key ? key : "id";

    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    buf_printf(&sql,
               "SELECT COALESCE(MAX(t.%s),0),COUNT(*) FROM (SELECT %s FROM %s FORCE INDEX(PRIMARY) "
               "WHERE %s>%lld ORDER BY %s LIMIT %lld) t",
               id, id, table, id, (long long)after, id, (long long)limit);
    rc = db_run_buf(db, &audit_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    row = db_next(db_only(&results));
    *last = row ? strtoll(row[0], NULL, 10) : 0;
    *rows = row ? strtoll(row[1], NULL, 10) : 0;
    db_results_free(&results);
    return 0;
}

static int check_ranges(struct db *db, const struct audit_range_check *c,
                        const struct audit_options *options, struct audit_report *report,
                        struct err *err)
{
    struct audit_check *check = audit_add_check(report, c->name);
    int64_t after = 0;
    int64_t last;
    int64_t rows;

    for (;;) {
        int64_t values[3];

        if (audit_next_range(db, c->table, c->key, after, AUDIT_RANGE, &last, &rows, err))
            return -1;
        if (!rows)
            return 0;
        values[0] = after + 1;
        values[1] = last;
        values[2] = options->quiesced ? 0 : options->stuck_after_sec;
        if (audit_run_range(db, c, values, report, check, err))
            return -1;
        check->checked += (uint64_t)rows;
        after = last;
    }
}

static int check_balances(struct db *db, struct audit_report *report, struct err *err)
{
    struct audit_check *check = audit_add_check(report, AUDIT_BALANCES);
    struct audit_balances *balances = audit_balances_new();
    bool end = false;
    int rc = 0;

    while (!rc && !end)
        rc = audit_balances_step(balances, db, AUDIT_RANGE, report, check, &end, err);
    audit_balances_free(balances);
    return rc;
}

static int check_events(struct db *db, struct audit_report *report, struct err *err)
{
    struct audit_check *check = audit_add_check(report, AUDIT_EVENTS);
    struct audit_events at = {0};
    bool end = false;
    int rc = 0;

    while (!rc && !end)
        rc = audit_events_step(&at, db, AUDIT_RANGE, report, check, &end, err);
    return rc;
}

/* Messages have no number: their ranges are of identifiers, which are in order of time. */
static int check_messages(struct db *db, struct audit_report *report, struct err *err)
{
    static const char wrong[] =
        "SELECT m.message_identifier,CASE WHEN MAX(t.id) IS NULL THEN 'no charge' ELSE 'recipients "
        "are missing' END "
        "FROM (SELECT message_identifier,customer_id,recipients FROM messages WHERE "
        "message_identifier>%s "
        "ORDER BY "
        "message_identifier LIMIT %d) m LEFT JOIN message_status s ON "
        "s.message_identifier=m.message_identifier "
        "LEFT JOIN user_transactions t ON t.transaction_id=CONCAT('c-',m.message_identifier) "
        "WHERE m.customer_id" CUSTOMER_NOT_ARRIVING
        " GROUP BY m.message_identifier,m.recipients HAVING COUNT(s.id)<>m.recipients OR MAX(t.id) "
        "IS NULL";
    static const char range[] =
        "SELECT MAX(message_identifier),COUNT(*) FROM (SELECT message_identifier FROM messages "
        "WHERE "
        "message_identifier>%s ORDER BY message_identifier LIMIT %d) m";
    struct audit_check *check = audit_add_check(report, "message_is_charged_and_complete");
    struct db_packet packet = {0};
    struct buf after = {0};
    bool more = true;
    int rc = 0;

    buf_puts(&after, "''");
    while (more && !rc) {
        struct db_results results;
        char **row;

        db_packet_reset(&packet);
        buf_printf(db_statement(&packet, "wrong"), wrong, after.data, AUDIT_RANGE);
        buf_printf(db_statement(&packet, "range"), range, after.data, AUDIT_RANGE);
        rc = db_run_packet(db, &audit_label, &packet, &results, err);
        if (rc)
            break;
        while ((row = db_next(db_result(&results, "wrong"))))
            audit_violate(report, check, row[0], row[1]);
        row = db_next(db_result(&results, "range"));
        more = row && row[0];
        if (more) {
            buf_reset(&after);
            db_put_quoted(db, &after, row[0], db_result(&results, "range")->lengths[0]);
            check->checked += strtoull(row[1], NULL, 10);
        }
        db_results_free(&results);
    }
    buf_free(&after);
    db_packet_free(&packet);
    return rc;
}

struct sum {
    const char *table;
    const char *columns; /* of one range: summed up over all ranges */
    int to[8];           /* of enum audit_total, then -1 */
};

/* A whole number as the server writes it; NULL, the sum of no rows, is 0. */
static audit_sum read_sum(const char *text)
{
    audit_sum sum = 0;
    bool negative = text && *text == '-';

    for (const char *at = text ? text + negative : ""; *at >= '0' && *at <= '9'; at++)
        sum = sum * 10 + (*at - '0');
    return negative ? -sum : sum;
}

const char *audit_write_sum(audit_sum sum, char text[AUDIT_SUM_SIZE])
{
    char *at = text + AUDIT_SUM_SIZE - 1;
    bool negative = sum < 0;

    *at = '\0';
    do
        *--at = (char)('0' + (int)(negative ? -(sum % 10) : sum % 10));
    while (sum /= 10);
    if (negative)
        *--at = '-';
    return at;
}

static int add_up(struct db *db, const struct sum *s, struct audit_report *report, struct err *err)
{
    int64_t after = 0;
    int64_t last;
    int64_t rows;

    for (;;) {
        struct db_results results;
        struct buf sql = {0};
        char **row;
        int rc;

        if (audit_next_range(db, s->table, NULL, after, AUDIT_RANGE, &last, &rows, err))
            return -1;
        if (!rows)
            return 0;
        buf_puts(&sql, "SELECT ");
        recipient_put_template(&sql, s->columns);
        buf_printf(&sql, " FROM %s WHERE id BETWEEN %lld AND %lld", s->table, (long long)after + 1,
                   (long long)last);
        rc = db_run_buf(db, &audit_label, &sql, &results, err);
        buf_free(&sql);
        if (rc)
            return -1;
        row = db_next(db_only(&results));
        for (size_t i = 0; row && s->to[i] >= 0; i++)
            report->totals[s->to[i]] += read_sum(row[i]);
        db_results_free(&results);
        after = last;
    }
}

static int totals(struct db *db, struct audit_report *r, const struct audit_options *options,
                  struct err *err)
{
    const struct sum sums[] = {
        {"user_balances", "SUM(balance)", {AUDIT_SUM_BALANCES, -1}},
        {"user_transactions",
         "SUM(IF(transaction_type='deposit',amount,0)),SUM(IF(transaction_type='refund',amount,0))",
         {AUDIT_SUM_DEPOSITS, AUDIT_SUM_REFUNDS, -1}},
        {"message_status",
         "SUM(IF(status IN ({kept}) AND delivery_refunded=0,price,0)),SUM(IF(status IN "
         "({open}),price,0)),SUM(IF(status IN ({away}),price,0)),"
         "SUM(status IN ({kept})),SUM(status IN ({refunded})),SUM(status IN ({open}))",
         {AUDIT_SUM_DONE, AUDIT_SUM_OPEN, AUDIT_SUM_AWAY, AUDIT_SUM_RECIPIENTS_DONE,
          AUDIT_SUM_RECIPIENTS_FAILED, AUDIT_SUM_RECIPIENTS_OPEN, -1}},
        {"outbox_parked", "COUNT(*)", {AUDIT_SUM_PARKED, -1}},
    };
    struct audit_check *check;
    audit_sum off;
    struct buf what = {0};
    char text[AUDIT_SUM_SIZE];

    for (size_t i = 0; i < sizeof(sums) / sizeof(sums[0]); i++)
        if (add_up(db, &sums[i], r, err))
            return -1;
    if (!options->quiesced)
        return 0; /* the sums are of different moments */
    check = audit_add_check(r, "deposits_are_accounted_for");
    check->checked = 1;
    off = r->totals[AUDIT_SUM_BALANCES] + r->totals[AUDIT_SUM_DONE] + r->totals[AUDIT_SUM_OPEN] +
          r->totals[AUDIT_SUM_AWAY] - r->totals[AUDIT_SUM_DEPOSITS];
    if (off) {
        buf_printf(&what, "balances, done, open and moved together differ from deposits by %s",
                   audit_write_sum(off, text));
        audit_violate(r, check, "total", what.failed ? NULL : what.data);
        buf_free(&what);
    }
    return 0;
}

int audit_run(struct db *db, const struct audit_options *options, struct audit_report *report,
              struct err *err)
{
    *report = (struct audit_report){0};
    db_label_register(&audit_label);
    if (check_balances(db, report, err))
        return -1;
    for (size_t i = 0; i < AUDIT_RANGE_CHECKS; i++) {
        if (audit_range_checks[i].quiesced_only && !options->quiesced)
            continue;
        if (check_ranges(db, &audit_range_checks[i], options, report, err))
            return -1;
    }
    if (check_events(db, report, err) || check_messages(db, report, err) ||
        totals(db, report, options, err) || audit_doubts(db, options, report, err))
        return -1;
    return options->operators ? audit_operators(db, options, report, err) : 0;
}

/* count: what the number of examples found is called. */
static void put_checks(struct buf *b, const struct audit_check *checks, size_t n, const char *count)
{
    for (size_t i = 0; i < n; i++) {
        const struct audit_check *c = &checks[i];

        buf_printf(b, "%s{\"name\":\"%s\",\"checked\":%llu,\"%s\":%llu,\"examples\":[",
                   i ? "," : "", c->name, (unsigned long long)c->checked, count,
                   (unsigned long long)c->violations);
        for (size_t k = 0; k < AUDIT_EXAMPLES && c->examples[k]; k++) {
            if (k)
                buf_putc(b, ',');
            buf_put_json(b, c->examples[k], strlen(c->examples[k]));
        }
        buf_puts(b, "]}");
    }
}

static const char *const total_names[AUDIT_SUMS] = {
    [AUDIT_SUM_DEPOSITS] = "deposits",
    [AUDIT_SUM_BALANCES] = "balances",
    [AUDIT_SUM_DONE] = "done",
    [AUDIT_SUM_OPEN] = "open",
    [AUDIT_SUM_AWAY] = "moved",
    [AUDIT_SUM_REFUNDS] = "refunds",
    [AUDIT_SUM_RECIPIENTS_DONE] = "recipients_done",
    [AUDIT_SUM_RECIPIENTS_FAILED] = "recipients_failed",
    [AUDIT_SUM_RECIPIENTS_OPEN] = "recipients_open",
    [AUDIT_SUM_PARKED] = "parked",
};

static void print_json(const struct audit_report *r, FILE *to)
{
    struct buf b = {0};
    char text[AUDIT_SUM_SIZE];

    buf_puts(&b, "{\"checks\":[");
    put_checks(&b, r->checks, r->check_count, "violations");
    buf_puts(&b, "],\"doubts\":[");
    put_checks(&b, r->doubts, AUDIT_DOUBTS, "recipients");
    buf_puts(&b, "],\"totals\":{");
    for (size_t i = 0; i < AUDIT_SUMS; i++)
        buf_printf(&b, "%s\"%s\":%s", i ? "," : "", total_names[i],
                   audit_write_sum(r->totals[i], text));
    buf_printf(&b, "},\"violations\":%llu}\n", (unsigned long long)r->violations);
    if (!b.failed)
        fputs(b.data, to);
    buf_free(&b);
}

static void print_checks(const struct audit_check *checks, size_t n, FILE *to)
{
    for (size_t i = 0; i < n; i++) {
        const struct audit_check *c = &checks[i];

        fprintf(to, "%-34s %12llu %12llu\n", c->name, (unsigned long long)c->checked,
                (unsigned long long)c->violations);
        for (size_t k = 0; k < AUDIT_EXAMPLES && c->examples[k]; k++) {
            fputs("  ", to);
            terminal_puts(to, c->examples[k]);
            putc('\n', to);
        }
        if (c->violations > AUDIT_EXAMPLES)
            fprintf(to, "  ... and %llu more\n",
                    (unsigned long long)(c->violations - AUDIT_EXAMPLES));
    }
}

void audit_print(const struct audit_report *r, const struct audit_options *options, FILE *to)
{
    char text[AUDIT_SUM_SIZE];

    if (options->json) {
        print_json(r, to);
        return;
    }
    fprintf(to, "%-34s %12s %12s\n", "check", "checked", "violations");
    print_checks(r->checks, r->check_count, to);
    fprintf(to, "\n%-34s %12s %12s\n", "no violation, and in doubt", "checked", "recipients");
    print_checks(r->doubts, AUDIT_DOUBTS, to);
    fputc('\n', to);
    for (size_t i = 0; i < AUDIT_SUMS; i++)
        fprintf(to, "%-34s %12s\n", total_names[i], audit_write_sum(r->totals[i], text));
    fprintf(to, "%llu violations\n", (unsigned long long)r->violations);
}

static void free_examples(struct audit_check *checks, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < AUDIT_EXAMPLES; k++)
            free(checks[i].examples[k]);
}

void audit_report_free(struct audit_report *report)
{
    free_examples(report->checks, report->check_count);
    free_examples(report->doubts, AUDIT_DOUBTS);
    *report = (struct audit_report){0};
}
