#ifndef CONSUMERD_VERDICT_H
#define CONSUMERD_VERDICT_H

/*
 * What an operator's answer means, in one vocabulary from the wire to metrics and spans. Transports
 * translate their protocol into it; nobody after them knows the protocol.
 */

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

/* Of a lookup: whether the operator has a message. */
enum lookup_answer { LOOKUP_FOUND, LOOKUP_NOT_FOUND, LOOKUP_UNREACHABLE, LOOKUP_ANSWERS };

const char *verdict_name(enum verdict verdict);
/* Its spelling in operator_calls_total{result}: two are older than the vocabulary. */
const char *verdict_metric_name(enum verdict verdict);
const char *lookup_answer_name(enum lookup_answer answer);

#endif
