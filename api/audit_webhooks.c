#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "api/audit_internal.h"
#include "libcommon/domain/recipient.h"

/*
 * Kinds of events (webhook.h): 0 done, 1 failed, 2 delivered, 3 undelivered, each of a recipient,
 * 4 balance.low, 5 webhook.disabled; a newer release may have more. An event is over when its
 * next_at is NULL. The state that it tells of is one that a recipient does not leave.
 */

#define LEASE_SEC "60" /* none is longer */
#define WAIT_DAYS "8"  /* nor a wait that the settings allow */

const char audit_webhooks_standing[] =
    "SELECT CONCAT('endpoint ',w.id),CASE "
    "WHEN (w.disabled_at IS NULL)<>(w.disabled_for='') THEN 'disabled, or the reason for it, "
    "alone' "
    "WHEN (w.failures=0)<>(w.failing_since IS NULL) THEN 'failing, or since when, alone' "
    "WHEN (w.owner=0)<>(w.leased_until IS NULL) THEN 'a lease, or its owner, alone' "
    "WHEN w.leased_until>NOW(6)+INTERVAL " LEASE_SEC " SECOND THEN 'leased for too long' "
    "WHEN w.paused_until>NOW(6)+INTERVAL " WAIT_DAYS " DAY THEN 'rests for too long' "
    "WHEN w.deleted_at IS NULL THEN 'nothing to sign with' "
    "ELSE 'deleted, and its secret is not' END "
    "FROM webhooks w WHERE w.id BETWEEN %1 AND %2 AND ("
    "(w.disabled_at IS NULL)<>(w.disabled_for='') OR "
    "(w.failures=0)<>(w.failing_since IS NULL) OR (w.owner=0)<>(w.leased_until IS NULL) OR "
    "COALESCE(w.leased_until>NOW(6)+INTERVAL " LEASE_SEC " SECOND,FALSE) OR "
    "COALESCE(w.paused_until>NOW(6)+INTERVAL " WAIT_DAYS " DAY,FALSE) OR "
    "(w.deleted_at IS NULL)<>(w.secret<>'') OR "
    "(w.deleted_at IS NOT NULL AND w.old_secret IS NOT NULL))";

/* Who fails waits for its next try, and so does what waits for an earlier event of its recipient.
 */
const char audit_webhooks_stuck[] =
    "SELECT CONCAT('endpoint ',w.id),'has events that are due, and nobody calls it' "
    "FROM webhooks w WHERE w.id BETWEEN %1 AND %2 AND w.disabled_at IS NULL AND "
    "w.deleted_at IS NULL AND w.failures=0 AND NOT COALESCE(w.leased_until>=NOW(6) OR "
    "w.paused_until>NOW(6),FALSE) AND EXISTS (SELECT 1 FROM webhook_events e "
    "FORCE INDEX(idx_webhook_events_due) WHERE e.webhook_id=w.id AND "
    "e.next_at<=NOW(6)-INTERVAL %3 SECOND AND e.kind<6 AND NOT EXISTS (SELECT 1 FROM "
    "webhook_events b FORCE INDEX(PRIMARY) WHERE b.webhook_id=e.webhook_id AND "
    "b.subject=e.subject AND b.kind<e.kind AND b.next_at IS NOT NULL))";

const char audit_webhooks_calls[] =
    "SELECT CONCAT('call ',a.call_no,' of endpoint ',a.webhook_id),'there is no such endpoint' "
    "FROM webhook_attempts a LEFT JOIN webhooks w ON w.id=a.webhook_id "
    "WHERE a.webhook_id BETWEEN %1 AND %2 AND w.id IS NULL";

/* ---- events ---- */

#define WRONG                                                                                  \
    "CASE WHEN w.customer_id IN (SELECT a.customer_id FROM customer_moves a WHERE a.state=5) " \
    "THEN NULL WHEN w.id IS NULL THEN 'its endpoint is gone' "                                 \
    "WHEN COALESCE(e.said_user_id<>w.customer_id,TRUE) THEN 'the endpoint is another "         \
    "customer''s' "                                                                            \
    "WHEN e.kind<5 AND (w.kinds&(1<<e.kind))=0 THEN 'the endpoint has not asked for it' "      \
    "WHEN e.kind<4 AND NOT COALESCE(s.user_id=w.customer_id AND "                              \
    "e.subject=CONCAT(s.message_identifier,'-',s.position),FALSE) "                            \
    "THEN 'there is no such recipient' "                                                       \
    "WHEN (e.kind=0 AND s.status NOT IN ({kept})) OR "                                         \
    "(e.kind=1 AND s.status NOT IN ({refunded})) OR (e.kind IN (2,3) AND s.delivery<>e.kind) " \
    "THEN CONCAT('the recipient is ',s.status,', delivery ',s.delivery) "                      \
    "WHEN e.delivered_at IS NOT NULL AND e.next_at IS NOT NULL "                               \
    "THEN 'delivered, and to be sent' "                                                        \
    "WHEN e.next_at IS NULL AND e.attempts=0 THEN 'over, and never sent' "                     \
    "WHEN e.delivered_at IS NOT NULL AND e.last_status NOT BETWEEN 200 AND 299 "               \
    "THEN CONCAT('delivered, with the answer ',e.last_status) "                                \
    "WHEN e.next_at>NOW(6)+INTERVAL " WAIT_DAYS " DAY THEN 'waits for too long' END"

/* Of an event's data, which has a recipient as the history shows it: so it is found by its key.
 * NULL: it says no such thing. */
static void put_said(struct buf *sql, const char *field, const char *type)
{
    buf_printf(sql, "CAST(IF(JSON_VALID(data),JSON_VALUE(data,'$.%s'),NULL) AS %s) said_%s,", field,
               type, field);
}

/* The next ones behind that place, in the order of their key. */
static void put_page(struct db *db, const struct audit_events *at, int64_t limit, struct buf *sql)
{
    struct buf subject = {0};

    db_put_quoted(db, &subject, at->subject, strlen(at->subject));
    sql->failed |= subject.failed;
    buf_puts(sql, "SELECT ");
    put_said(sql, "user_id", "SIGNED");
    put_said(sql, "message_identifier", "CHAR(50) CHARACTER SET ascii");
    put_said(sql, "recipient", "CHAR(20) CHARACTER SET ascii");
    buf_puts(sql, "webhook_id,subject,kind,next_at,delivered_at,attempts,last_status "
                  "FROM webhook_events FORCE INDEX(PRIMARY) WHERE ");
    if (!subject.failed)
        buf_printf(sql,
                   "webhook_id>%" PRIu64 " OR (webhook_id=%" PRIu64 " AND (subject>%s OR "
                   "(subject=%s AND kind>%u)))",
                   at->webhook_id, at->webhook_id, subject.data, subject.data, at->kind);
    buf_printf(sql, " ORDER BY webhook_id,subject,kind LIMIT %" PRId64, limit);
    buf_free(&subject);
}

static void put_events(struct db *db, const struct audit_events *at, int64_t limit, struct buf *sql)
{
    buf_puts(sql, "SELECT e.webhook_id,e.subject,e.kind,");
    recipient_put_template(sql, WRONG);
    buf_puts(sql, " FROM (");
    put_page(db, at, limit, sql);
    buf_puts(sql, ") e LEFT JOIN webhooks w ON w.id=e.webhook_id "
                  "LEFT JOIN message_status s FORCE INDEX(uq_message_status_identifier_recipient) "
                  "ON e.kind<4 AND s.message_identifier=e.said_message_identifier "
                  "AND s.recipient=e.said_recipient ORDER BY e.webhook_id,e.subject,e.kind");
}

static void note(char **row, struct audit_report *report, struct audit_check *check)
{
    unsigned kind = (unsigned)strtoul(row[2], NULL, 10);
    struct buf where = {0};

    if (kind < WEBHOOK_KINDS)
        webhook_put_id(&where, row[1], (enum webhook_kind)kind);
    else
        buf_printf(&where, "%s-%u", row[1], kind);
    buf_printf(&where, " for endpoint %s", row[0]);
    audit_violate(report, check, where.failed ? row[1] : where.data, row[3]);
    buf_free(&where);
}

static void move(struct audit_events *at, char **row)
{
    at->webhook_id = strtoull(row[0], NULL, 10);
    memset(at->subject, 0, sizeof(at->subject));
    memcpy(at->subject, row[1], strnlen(row[1], WEBHOOK_SUBJECT_MAX));
    at->kind = (unsigned)strtoul(row[2], NULL, 10);
}

int audit_events_step(struct audit_events *at, struct db *db, int64_t limit,
                      struct audit_report *report, struct audit_check *check, bool *end,
                      struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    uint64_t rows = 0;
    char **row;
    int rc;

    put_events(db, at, limit, &sql);
    rc = db_run_buf(db, &audit_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while ((row = db_next(db_only(&results)))) {
        rows++;
        if (row[3])
            note(row, report, check);
        move(at, row);
    }
    db_results_free(&results);
    check->checked += rows;
    *end = rows < (uint64_t)limit;
    return 0;
}
