#ifndef LIBCOMMON_DOMAIN_RECEIPT_ADDRESS_H
#define LIBCOMMON_DOMAIN_RECEIPT_ADDRESS_H

/*
 * Where operators bring receipts, and what the daemons agree on about them: msg-consumerd tells the
 * operators, msg-api listens. Pure.
 *
 *   <RECEIPTS_PUBLIC_URL>/operators/<name>/receipts[/<the file's secret>]?ref=<signed reference>
 */

#include "libcommon/base/buf.h"
#include "libcommon/base/settings.h"
#include "libcommon/domain/receipt_reference.h"

#define RECEIPT_ROUTE "/operators/"
#define RECEIPT_ROUTE_END "/receipts"
#define RECEIPT_PARAMETER "ref"

struct receipt_settings {
    char *public_url;    /* without a slash at its end; "": operators cannot be told */
    char *reference_key; /* "": no references */
    int64_t wait_hours;
};

extern const struct setting receipt_settings_rows[];

/* Appends the address for one recipient; without a key, the one that all share. */
void receipt_address_put(struct buf *out, const struct receipt_settings *settings,
                         const char *operator_name, const char *secret, const char *message_id,
                         unsigned position);

#endif
