#include "api/audit_internal.h"
#include "libcommon/domain/customer_move.h"
#include "libcommon/domain/recipient.h"

/*
 * deliveries.state and message_status.delivery (recipient.h): 0 none, 1 waiting, 2 delivered,
 * 3 undelivered, 4 unreported. Rows of deliveries are kept for a day at least; what is older may
 * have lost them.
 */

#define ROWS "EXISTS (SELECT 1 FROM deliveries d WHERE d.status_id=s.id"
/* Of a recipient whose rows must be there, or are. */
#define TOLD "(s.created_at>NOW(6)-INTERVAL 1 DAY OR " ROWS "))"

#define SAID_BY_NOBODY "(s.delivery=2 AND NOT " ROWS " AND d.state=2) AND " TOLD ")"
/* An operator that says delivered after all has said undelivered before. */
#define PROVIDER_SILENT \
    "(s.delivery=3 AND NOT " ROWS " AND d.operator=s.provider AND d.state IN (2,3)) AND " TOLD ")"
#define OTHER_SILENT                                                                  \
    "(s.delivery=3 AND " ROWS " AND FIND_IN_SET(d.operator,s.unknown_operators) AND " \
    "d.state IN (1,4)))"
#define NOT_TAKEN "(s.delivery IN (0,1,4) AND s.status IN ({kept}) AND " ROWS " AND d.state=2))"
#define WAITS_FOR_NOBODY "(s.delivery=1 AND NOT " ROWS " AND d.looked=0))"
#define NOT_DONE "(s.delivery<>0 AND s.status NOT IN ({kept}))"
#define REFUND_WITHOUT_CAUSE "(s.delivery_refunded<>0 AND s.delivery<>3)"

const char audit_receipts_delivery[] =
    "SELECT CONCAT(s.message_identifier,'-',s.position),CASE "
    "WHEN s.delivery>4 THEN 'unknown delivery' "
    "WHEN " NOT_DONE " THEN 'has a delivery, and is not done' "
    "WHEN " REFUND_WITHOUT_CAUSE " THEN 'refunded as undelivered, and is not' "
    "WHEN " SAID_BY_NOBODY " THEN 'delivered, and no operator says so' "
    "WHEN " PROVIDER_SILENT " THEN 'undelivered, and its operator has not said so' "
    "WHEN " OTHER_SILENT " THEN 'undelivered, and an operator that may have it has not said so' "
    "WHEN " NOT_TAKEN " THEN 'an operator says delivered' "
    "ELSE 'waits for a receipt, and nobody is asked' END "
    "FROM message_status s WHERE s.id BETWEEN %1 AND %2 AND s.user_id" CUSTOMER_NOT_ARRIVING
    " AND (s.delivery>4 OR " NOT_DONE " OR " REFUND_WITHOUT_CAUSE " OR " SAID_BY_NOBODY
    " OR " PROVIDER_SILENT " OR " OTHER_SILENT " OR " NOT_TAKEN " OR " WAITS_FOR_NOBODY ")";

const char audit_receipts_orphans[] =
    "SELECT CONCAT('row of recipient ',d.status_id,' and ',d.operator),"
    "IF(s.id IS NULL,'there is no such recipient','unknown state') FROM deliveries d "
    "LEFT JOIN message_status s ON s.id=d.status_id WHERE d.status_id BETWEEN %1 AND %2 AND "
    "(s.id IS NULL OR d.state NOT IN (1,2,3,4))";

int audit_receipts_doubt(struct db *db, int64_t first, int64_t last, struct audit_report *report,
                         struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    buf_puts(&sql, "SELECT CONCAT(s.message_identifier,'-',s.position),CONCAT('refunded, and ',"
                   "d.operator,' has delivered it at ',d.reported_at) FROM message_status s "
                   "FORCE INDEX(PRIMARY) JOIN deliveries d ON d.status_id=s.id AND d.state=2 WHERE "
                   "s.id BETWEEN ");
    buf_printf(&sql, "%lld AND %lld AND (s.delivery_refunded<>0 OR s.status IN (", (long long)first,
               (long long)last);
    recipient_put_states(&sql, RECIPIENT_REFUNDED);
    buf_puts(&sql, "))");
    rc = db_run_buf(db, &audit_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    while ((row = db_next(db_only(&results))))
        audit_doubt(report, AUDIT_DELIVERED_AND_REFUNDED, row[0], row[1]);
    db_results_free(&results);
    return 0;
}
