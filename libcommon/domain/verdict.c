#include "libcommon/domain/verdict.h"

#include <stddef.h>

static const struct {
    const char *name;
    const char *metric; /* NULL: the same */
} verdicts[VERDICTS] = {
    [VERDICT_ACCEPTED] = {"accepted", "success"},
    [VERDICT_REJECTED] = {"rejected", NULL},
    [VERDICT_THROTTLED] = {"throttled", "rate_limited"},
    [VERDICT_UNFIT] = {"unfit", NULL},
    [VERDICT_TRANSIENT] = {"transient", NULL},
    [VERDICT_OPTED_OUT] = {"opted_out", NULL},
    [VERDICT_UNKNOWN] = {"unknown", NULL},
};

const char *verdict_name(enum verdict verdict)
{
    return verdicts[verdict].name;
}

const char *verdict_metric_name(enum verdict verdict)
{
    return verdicts[verdict].metric ? verdicts[verdict].metric : verdicts[verdict].name;
}

static const struct {
    const char *name;
    bool certain;
} unfits[UNFIT_REASONS] = {
    [UNFIT_CREDENTIALS] = {"credentials", .certain = true},
    [UNFIT_CREDIT] = {"credit", .certain = true},
    [UNFIT_PROXY] = {"proxy", .certain = true},
    [UNFIT_FORBIDDEN] = {"forbidden", .certain = false},
    [UNFIT_ADDRESS] = {"address", .certain = false},
    [UNFIT_PROTOCOL] = {"protocol", .certain = false},
};

const char *unfit_name(enum unfit reason)
{
    return unfits[reason].name;
}

bool unfit_is_certain(enum unfit reason)
{
    return unfits[reason].certain;
}

const char *lookup_answer_name(enum lookup_answer answer)
{
    static const char *const names[LOOKUP_ANSWERS] = {
        [LOOKUP_FOUND] = "found",
        [LOOKUP_NOT_FOUND] = "not_found",
        [LOOKUP_UNREACHABLE] = "unreachable",
    };

    return names[answer];
}

/* Why an operator that gives this status cannot serve us; UNFIT_REASONS: that is not what it says.
 */
static enum unfit unfit_of(int status)
{
    switch (status) {
    case 401:
        return UNFIT_CREDENTIALS;
    case 402:
        return UNFIT_CREDIT;
    case 403:
        return UNFIT_FORBIDDEN;
    case 404:
    case 405:
    case 410:
        return UNFIT_ADDRESS;
    case 407:
        return UNFIT_PROXY;
    case 406: /* of what every request of ours has alike */
    case 411:
    case 412:
    case 414:
    case 415:
    case 417:
    case 426:
    case 428:
    case 431:
        return UNFIT_PROTOCOL;
    default: /* redirected: it is not where we look for it */
        return status >= 300 && status < 400 ? UNFIT_ADDRESS : UNFIT_REASONS;
    }
}

/* INVARIANT: a status that nobody has thought of is no final no, which would refund a message that
 * the operator may deliver: it is asked. So is 409, which services that know Idempotency-Key give
 * while an earlier request with that key is at work. */
static enum verdict plain_verdict(int status)
{
    switch (status) {
    case 400: /* of the message: its number, its text */
    case 413:
    case 422:
    case 451:
        return VERDICT_REJECTED;
    case 408: /* not processed, as the server itself says */
    case 421:
    case 425:
        return VERDICT_TRANSIENT;
    case 429:
        return VERDICT_THROTTLED;
    default:
        return status >= 500 && status < 600 ? VERDICT_TRANSIENT : VERDICT_UNKNOWN;
    }
}

enum verdict verdict_of_status(int status, enum unfit *unfit)
{
    *unfit = unfit_of(status);
    return *unfit != UNFIT_REASONS ? VERDICT_UNFIT : plain_verdict(status);
}
