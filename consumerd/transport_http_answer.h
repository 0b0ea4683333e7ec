#ifndef CONSUMERD_TRANSPORT_HTTP_ANSWER_H
#define CONSUMERD_TRANSPORT_HTTP_ANSWER_H

/*
 * What an operator's answer over HTTP says. Part of transport_native.c; nobody else includes this.
 * Pure.
 *
 * An operator has a message when it says so: a 2xx whose body, all of it, is a JSON object with an
 * id and, where it has a status, one of the words in transport_http_answer.c. The id is text or an
 * integer, of any length that fits, kept as it was written; one that does not fit or has control
 * characters is none.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consumerd/inflight.h"
#include "libcommon/domain/verdict.h"

/* The answer to a POST. body: NULL when it did not come to its end. id: "" unless accepted; unfit:
 * the reason, when it is that. */
enum verdict http_answer_to_post(long status, const char *body, size_t n,
                                 char id[PROVIDER_ID_MAX + 1], enum unfit *unfit);
/* To a GET. */
enum lookup_answer http_answer_to_get(long status, const char *body, size_t n,
                                      char id[PROVIDER_ID_MAX + 1]);
/* How long a 429 wants us to stay away, from its Retry-After in seconds; whatever that says. */
int64_t http_answer_rest_ms(int64_t retry_after_sec);

#endif
