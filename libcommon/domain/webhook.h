#ifndef LIBCOMMON_DOMAIN_WEBHOOK_H
#define LIBCOMMON_DOMAIN_WEBHOOK_H

/*
 * What a customer's endpoints are told: kinds of events and the words for them, and limits that
 * msg-api and msg-consumerd share. Pure.
 *
 * Numbers of kinds are in the tables (sql/0017) and stay as they are. Of one subject, a kind with a
 * lower number happens first and is delivered first.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;

enum webhook_kind {
    WEBHOOK_DONE,        /* an operator has accepted the message for this recipient */
    WEBHOOK_FAILED,      /* none has, and it is refunded */
    WEBHOOK_DELIVERED,   /* it has arrived */
    WEBHOOK_UNDELIVERED, /* it will not */
    WEBHOOK_BALANCE_LOW, /* has fallen below the threshold */
    WEBHOOK_DISABLED,    /* another endpoint of this customer is called no more */
    WEBHOOK_KINDS,
};

#define WEBHOOK_BIT(kind) (1u << (kind))
/* Those that an endpoint may ask for; WEBHOOK_DISABLED goes to every one. */
#define WEBHOOK_CHOICES (WEBHOOK_BIT(WEBHOOK_DISABLED) - 1)

/* Seconds after each failed try: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h. */
#define WEBHOOK_SCHEDULE "5,300,1800,7200,18000,36000,50400,72000,86400"

#define WEBHOOK_URL_MAX 1000
#define WEBHOOK_BATCH_MAX 100
#define WEBHOOK_SUBJECT_MAX 64
#define WEBHOOK_ID_MAX (WEBHOOK_SUBJECT_MAX + 16) /* of an event: <subject>-<word> */
#define WEBHOOK_ATTEMPTS_KEPT 500                 /* of one endpoint */

const char *webhook_kind_name(enum webhook_kind kind); /* "message.done" */
/* Of those that an endpoint may ask for. */
bool webhook_kind_parse(const char *name, enum webhook_kind *kind);
/* "message.done", … as the inside of a JSON array. */
void webhook_put_kinds(struct buf *json, unsigned kinds);
/* The id that an event keeps through all repeats, to be read by whoever wants each once. */
void webhook_put_id(struct buf *out, const char *subject, enum webhook_kind kind);

/* Why nothing can be sent to that URL, as a sentence; NULL: it can. Addresses are looked at when
 * they are connected to, not here. */
const char *webhook_url_fault(const char *url);

#endif
