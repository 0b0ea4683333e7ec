#include <stdlib.h>
#include <string.h>

#include "api/audit_internal.h"
#include "libcommon/domain/outbox.h"
#include "libcommon/domain/recipient.h"

static const char *const names[AUDIT_DOUBTS] = {
    [AUDIT_REFUNDED_IN_DOUBT] = "refunded_in_doubt",
    [AUDIT_DELIVERED_AND_REFUNDED] = "delivered_and_refunded",
    [AUDIT_HELD] = "held",
    [AUDIT_OPERATOR_GONE] = "operator_is_gone",
};

/* A recipient that is not kept, with operators that may have it. */
enum column { COLUMN_WHERE, COLUMN_REFUNDED, COLUMN_HELD, COLUMN_SINCE, COLUMN_UNKNOWN };

static void put_range(struct buf *sql, int64_t after, int64_t last)
{
    buf_puts(sql, "SELECT CONCAT(s.message_identifier,'-',s.position),s.status IN (");
    recipient_put_states(sql, RECIPIENT_REFUNDED);
    buf_puts(sql, "),");
    outbox_put_asked(sql, "s.message_identifier");
    buf_printf(sql,
               ",COALESCE(s.first_claimed_at,s.created_at),s.unknown_operators "
               "FROM message_status s FORCE INDEX(PRIMARY) WHERE s.id BETWEEN %lld AND %lld "
               "AND s.unknown_operators<>'' AND s.status NOT IN (",
               (long long)after + 1, (long long)last);
    recipient_put_states(sql, RECIPIENT_KEPT);
    buf_putc(sql, ')');
}

static bool is_listed(const char *list, const char *name, size_t len)
{
    for (; *list; list += strcspn(list, ",") + (list[strcspn(list, ",")] == ','))
        if (strcspn(list, ",") == len && !memcmp(list, name, len))
            return true;
    return false;
}

/* A name among them that is no operator's. */
static bool has_gone(const char *operators, const char *unknown)
{
    for (const char *at = unknown; *at;) {
        size_t len = strcspn(at, ",");
        bool any = len == strlen(RECIPIENT_UNKNOWN_ANY) && !memcmp(at, RECIPIENT_UNKNOWN_ANY, len);

        if (len && !any && !is_listed(operators, at, len))
            return true;
        at += len + (at[len] == ',');
    }
    return false;
}

static void judge(char **row, const struct audit_options *options, struct audit_report *report)
{
    bool refunded = row[COLUMN_REFUNDED][0] == '1';
    const char *unknown = row[COLUMN_UNKNOWN];
    struct buf text = {0};

    if (refunded) {
        buf_printf(&text, "refunded, and may be with %s", unknown);
        audit_doubt(report, AUDIT_REFUNDED_IN_DOUBT, row[COLUMN_WHERE], text.data);
    } else if (row[COLUMN_HELD][0] == '1') {
        buf_printf(&text, "held, tried since %s, may be with %s", row[COLUMN_SINCE], unknown);
        audit_doubt(report, AUDIT_HELD, row[COLUMN_WHERE], text.data);
    }
    if (!refunded && options->operator_names && has_gone(options->operator_names, unknown)) {
        buf_reset(&text);
        buf_printf(&text, "open, may be with %s, not all of them among %s", unknown,
                   options->operator_names);
        audit_doubt(report, AUDIT_OPERATOR_GONE, row[COLUMN_WHERE], text.data);
    }
    buf_free(&text);
}

int audit_doubts(struct db *db, const struct audit_options *options, struct audit_report *report,
                 struct err *err)
{
    int64_t after = 0;
    int64_t last;
    int64_t rows;

    for (int i = 0; i < AUDIT_DOUBTS; i++)
        report->doubts[i].name = names[i];
    for (;;) {
        struct db_results results;
        struct buf sql = {0};
        char **row;
        int rc;

        if (audit_next_range(db, "message_status", NULL, after, AUDIT_RANGE, &last, &rows, err))
            return -1;
        if (!rows)
            return 0;
        put_range(&sql, after, last);
        rc = db_run_buf(db, &audit_label, &sql, &results, err);
        buf_free(&sql);
        if (rc)
            return -1;
        while ((row = db_next(db_only(&results))))
            judge(row, options, report);
        db_results_free(&results);
        if (audit_receipts_doubt(db, after + 1, last, report, err))
            return -1;
        for (int i = 0; i < AUDIT_DOUBTS; i++)
            report->doubts[i].checked += (uint64_t)rows;
        after = last;
    }
}
