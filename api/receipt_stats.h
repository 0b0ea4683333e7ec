#ifndef API_RECEIPT_STATS_H
#define API_RECEIPT_STATS_H

/* What is counted of receipts, by operator: those whose names were told at start. Any thread. */

#include "libcommon/domain/recipient_receipt.h"

/* Why a request with receipts was not taken, or a receipt in it not stored. */
enum receipt_refusal {
    RECEIPT_REFUSED_FORGED,     /* not who the operator's file says, or a reference of nobody's */
    RECEIPT_REFUSED_UNREADABLE, /* not what it says, or about nothing */
    RECEIPT_REFUSED_OVERLOADED, /* too many wait */
    RECEIPT_REFUSED_UNAVAILABLE,
    RECEIPT_REFUSALS,
};

void receipt_stats_add(const char *operator_name); /* at start */

/* A receipt is stored: with its result and, where it says how long that took, its delay. */
void receipt_stats_stored(const struct recipient_receipt *r);
/* One that was early has matched. */
void receipt_stats_matched(const struct recipient_receipt *r);
/* It says nothing final: on its way, or in words that the file has no rule for. */
void receipt_stats_interim(const char *operator_name, bool known);
void receipt_stats_refused(const char *operator_name, enum receipt_refusal refusal);

#endif
