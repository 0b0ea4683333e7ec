#ifndef API_LEDGER_CLIENT_H
#define API_LEDGER_CLIENT_H

/*
 * An operator simulator's ledger, over HTTP, for the audit. One thread; blocks, a call at most 30
 * s. Failures are ERR_RETRY (it cannot be reached) or ERR_PERMANENT (what answers is no ledger);
 * the URL, which may hold a password, is in none of them.
 */

#include <jansson.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/err.h"

struct ledger_client;

/* Pure. The entries of a page of n bytes that was asked for at *cursor, which moves on, and is
 * negative after the last one. NULL: it is no ledger's, or leads back. */
json_t *ledger_page_read(const char *text, size_t n, int64_t *cursor);

struct ledger_client *ledger_client_new(const char *base_url, size_t len);
void ledger_client_free(struct ledger_client *c); /* NULL is fine */

/* POST /ledger/find; body {"references":[…]}, up to 5,000. *entries: an array of those that are
 * accepted, the caller's. */
int ledger_client_find(struct ledger_client *c, const struct buf *body, json_t **entries,
                       struct err *err);
/* GET /ledger, the page at *cursor, which moves on and is negative after the last one; begin at 0.
 */
int ledger_client_page(struct ledger_client *c, int64_t *cursor, json_t **entries, struct err *err);

#endif
