#ifndef API_RECEIPT_OPERATORS_H
#define API_RECEIPT_OPERATORS_H

/*
 * The operators' files as msg-api knows them: read at start, and again when a person asks (SIGHUP);
 * a wrong file keeps the old one. Any thread asks.
 */

#include "libcommon/domain/operator_file.h"

/* For the check of settings: reads them and forgets them. The number of faults, with lines. */
size_t receipt_operators_check(struct buf *errors);

/* -1 when they cannot be read any more as they could when the settings were checked. Without a
 * file there are none, and that is well. */
int receipt_operators_open(struct err *err);
void receipt_operators_close(void);
/* Whether any operator gives receipts. */
bool receipt_operators_any(void);
/* Reads them again; says in the log what came of it. Blocks on files: a thread of its own time. */
void receipt_operators_reload(void);

/* Keeps the present set; operator_set_drop when done. NULL: there is none. */
struct operator_set *receipt_operators_keep(void);

#endif
