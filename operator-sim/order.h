#ifndef OPERATOR_SIM_ORDER_H
#define OPERATOR_SIM_ORDER_H

/*
 * The body of a POST /messages: a JSON object with "reference", "to", "text" and "type", all of
 * them strings, and where it wants receipts of its own "receipt_url" and "receipt_reference";
 * further names are passed over, a name given twice is an error. A simulator reads
 * as many of them as all consumers send, so the usual one (those four, nothing escaped) is read in
 * one look, and only what that does not take is parsed as JSON: it judges the others, and words
 * what is wrong with them. Pure.
 */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "libcommon/domain/message.h"
#include "operator-sim/ledger.h"

struct order {
    char reference[LEDGER_REFERENCE_MAX + 1];
    char to[MESSAGE_RECIPIENT_MAX + 1];
    const char *text; /* in the body, or in json; without a NUL at its end */
    size_t text_len;
    enum message_type type;
    const char *receipt_url, *receipt_reference; /* in json; NULL: none came */
    json_t *json;                                /* NULL: none was made */
};

bool order_reference_ok(const char *s, size_t n);

/* NULL when the order is whole, else the field to blame. The body outlives the order, which
 * order_free() ends either way. */
const char *order_read(const char *body, size_t n, struct order *o);
void order_free(struct order *o);

/* The two ways to read one, which agree wherever the look says yes. */
bool order_look(const char *body, size_t n, struct order *o);
const char *order_parse(const char *body, size_t n, struct order *o);

#endif
