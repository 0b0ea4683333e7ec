#include "consumerd/verdict.h"

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
