#ifndef LIBCOMMON_DOMAIN_OPERATOR_EXCHANGE_H
#define LIBCOMMON_DOMAIN_OPERATOR_EXCHANGE_H

/*
 * What is said to an operator of kind http, and what its answer means, as its file words it. Pure.
 *
 * Rules are judged in the order of the file; the first that holds counts, but that nothing is
 * accepted whose answer has not come to its end. Where none holds, the status speaks, and a 2xx
 * means accepted when it has the carrier's identifier where the file says that it stands; else
 * unknown. A status that has come counts, whatever becomes of the rest of the answer.
 */

#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/buf.h"
#include "libcommon/domain/operator_file.h"
#include "libcommon/domain/recipient.h"

#define OPERATOR_NO_NUMBER INT64_MIN

struct operator_judgement {
    enum verdict verdict;
    enum unfit unfit;                   /* VERDICT_UNFIT: why */
    unsigned line;                      /* of the rule in the file; 0: none, the status spoke */
    char id[PROVIDER_ID_MAX + 1];       /* "": none */
    int64_t parts;                      /* these: OPERATOR_NO_NUMBER: not said */
    int64_t cost_millionths, remaining; /* in the carrier's currency; remaining in whole units */
};

/* Appends the whole request; body: scratch. shown: for people, secrets as ***. */
void operator_request_put(const struct operator_config *op, const struct operator_request *request,
                          const struct operator_values *values, bool shown, struct buf *out,
                          struct buf *body);

void operator_judge(const struct operator_config *op, struct operator_answer *answer,
                    struct operator_judgement *out);
enum lookup_answer operator_judge_lookup(const struct operator_config *op,
                                         struct operator_answer *answer,
                                         char id[PROVIDER_ID_MAX + 1]);

/* Whether n bytes can be an identifier: text of a length that fits, without control characters. */
bool operator_id_ok(const char *s, size_t n);

#endif
