#ifndef API_KEY_SCOPE_H
#define API_KEY_SCOPE_H

/* What a key is for: a set of scopes, and the words for them on the command line, in the table and
 * in answers. Pure; any thread. */

#include <stdbool.h>
#include <stddef.h>

struct buf;

enum key_scope {
    KEY_SEND = 1u << 0,
    KEY_READ = 1u << 1,
    KEY_TOPUP = 1u << 2,
    KEY_ADMIN = 1u << 3,
    KEY_METRICS = 1u << 4,
    KEY_WEBHOOKS = 1u << 5,
};

const char *key_scope_name(enum key_scope scope);

/* "send,read" as a set. False when a word is no scope, is empty or stands there twice: *scopes then
 * has those that are known, so that who reads what a newer release has stored loses nothing else.
 */
bool key_scopes_read(const char *list, unsigned *scopes);
void key_scopes_put(struct buf *out, unsigned scopes);

#endif
