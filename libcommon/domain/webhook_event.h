#ifndef LIBCOMMON_DOMAIN_WEBHOOK_EVENT_H
#define LIBCOMMON_DOMAIN_WEBHOOK_EVENT_H

/*
 * Events are written here, in the transaction of what they tell: a row for each endpoint of the
 * customer that wants its kind, found by the database in the same statement. So an event and its
 * cause stand or fall together, and who has no endpoint has no events. An event that is there
 * already (a transaction that is repeated because its commit was not heard of) is left as it is.
 *
 * Functions named put append SQL and touch nothing. Lock order: events last.
 */

#include "libcommon/base/buf.h"
#include "libcommon/domain/ledger.h"
#include "libcommon/domain/webhook.h"

/* "INSERT … SELECT …, FROM ": subject and data are SQL expressions over what follows, the tables
 * that the event is of. */
void webhook_put_event(struct buf *sql, enum webhook_kind kind, const char *subject,
                       const char *data);
/* Behind them: the endpoints of the customer in that column. */
void webhook_put_endpoints(struct buf *sql, enum webhook_kind kind, const char *customer);

/* n sorted accounts, whose changes have been applied in this transaction and are locked: an event
 * for each that was at the threshold or above before, and is below it now, and may have an
 * endpoint. threshold 0: never. balances: whether accounts say what the balances were; else the
 * database looks. False, and nothing appended: there is none (so begin the statement afterwards:
 * webhook_wants_low). */
bool webhook_wants_low(const struct ledger_account *accounts, size_t n, int64_t threshold,
                       bool balances);
void webhook_put_low(struct buf *sql, const struct ledger_account *accounts, size_t n,
                     int64_t threshold, bool balances);

#endif
