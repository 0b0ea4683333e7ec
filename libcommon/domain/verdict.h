#ifndef LIBCOMMON_DOMAIN_VERDICT_H
#define LIBCOMMON_DOMAIN_VERDICT_H

/*
 * What an operator's answer means, in one vocabulary from the wire to metrics and spans. Transports
 * translate their protocol into it; nobody after them knows the protocol.
 */

#include <stdbool.h>

/* Of a submission. */
enum verdict {
    VERDICT_ACCEPTED,
    VERDICT_REJECTED,  /* this operator's final no to this recipient */
    VERDICT_THROTTLED, /* too many calls: no use in trying again soon */
    VERDICT_UNFIT,     /* the operator cannot serve us now: bad credentials, no credit, blocked */
    VERDICT_TRANSIENT, /* it does not have the message; a repeat may succeed */
    VERDICT_OPTED_OUT, /* the recipient wants no messages: final, whoever would carry it */
    VERDICT_UNKNOWN,   /* it may have the message */
    VERDICTS,
};

/* Of VERDICT_UNFIT: why, for the person who has to mend it. */
enum unfit {
    UNFIT_CREDENTIALS, /* it does not know us */
    UNFIT_CREDIT,      /* it wants to be paid */
    UNFIT_PROXY,       /* something on the way does not know us */
    UNFIT_FORBIDDEN,   /* it knows us and refuses */
    UNFIT_ADDRESS,     /* what we ask for is not there: unknown, gone, moved */
    UNFIT_PROTOCOL,    /* it does not take requests as we make them */
    UNFIT_REASONS,
};

/* Of a lookup: whether the operator has a message. */
enum lookup_answer { LOOKUP_FOUND, LOOKUP_NOT_FOUND, LOOKUP_UNREACHABLE, LOOKUP_ANSWERS };

/* What a status of HTTP means by itself, whatever the body says; 2xx: VERDICT_UNKNOWN. unfit: why,
 * or UNFIT_REASONS. */
enum verdict verdict_of_status(int status, enum unfit *unfit);

const char *verdict_name(enum verdict verdict);
/* Its spelling in operator_calls_total{result}: two are older than the vocabulary. */
const char *verdict_metric_name(enum verdict verdict);
const char *unfit_name(enum unfit reason);
/* It speaks of us and not of the message. The others may speak of one message: they say something
 * about the operator once several messages have got such an answer. */
bool unfit_is_certain(enum unfit reason);
const char *lookup_answer_name(enum lookup_answer answer);

#endif
