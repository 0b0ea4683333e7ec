#ifndef API_KEY_STORE_H
#define API_KEY_STORE_H

/*
 * The table of API keys; no other module names it in SQL. It holds hashes, never a key. Each change
 * is one transaction, which first raises a counter: that row's lock makes changes come one after
 * another, and its value tells whoever keeps the keys in memory (key_ring.h) that they are others
 * now. A row stays when its key is dead.
 *
 * All of it blocks, on a connection that is acquired. After ERR_RETRY and ERR_UNKNOWN the same call
 * may be repeated on a new one: a new key is looked for by its hash first, so that what was done is
 * not done twice. ERR_PERMANENT says in a sentence for a person why it cannot be.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/key_scope.h"
#include "api/key_text.h"
#include "libcommon/db/db.h"

#define KEY_STORE_MAX 100000  /* keys that are not dead: replicas have them in memory */
#define KEY_LABEL_MAX 100     /* bytes */
#define KEY_NETWORKS_MAX 1000 /* bytes */

/* A key as it is to be. */
struct key_wish {
    const char *label;
    int64_t customer_id;  /* 0: all */
    unsigned scopes;      /* of enum key_scope */
    const char *networks; /* as networks_check (net/address.h) takes them; "": from everywhere */
    int64_t expires_sec;  /* from now; 0: never */
};

/* Why there can be no such key, as a sentence's end; NULL: there can. Pure. */
const char *key_wish_fault(const struct key_wish *wish);

void key_store_register(void); /* once, before the rest */

int key_store_create(struct db *db, const struct key_wish *wish, const uint8_t hash[KEY_HASH_LEN],
                     uint64_t *id, struct err *err);

/* From now on; of one that is revoked already nothing changes. */
int key_store_revoke(struct db *db, uint64_t id, struct err *err);

/* Another key in its place: the same label, customer, scopes, networks and length of life. The old
 * one goes on for grace_sec. ERR_PERMANENT when it is revoked or replaced. */
int key_store_rotate(struct db *db, uint64_t id, int64_t grace_sec,
                     const uint8_t hash[KEY_HASH_LEN], uint64_t *new_id, struct err *err);

/* The first key that may do everything, and only the first: where there is or was one with the
 * scope admin, nothing happens. *id: of the key that has this hash, 0 when it was not taken. *made:
 * by this call, or, where it was made by an earlier one of the same hash, false. */
int key_store_bootstrap(struct db *db, const uint8_t hash[KEY_HASH_LEN], uint64_t *id, bool *made,
                        struct err *err);

/* One small row: whether anything has changed, and the database's clock. */
struct key_store_state {
    uint64_t changes; /* counted; with changed_us never the same again */
    int64_t changed_us;
    int64_t now_us;
};
int key_store_look(struct db *db, struct key_store_state *state, struct err *err);

/* Times in microseconds since 1970 by the database's clock; 0: never. */
struct key_row {
    uint64_t id;
    uint8_t hash[KEY_HASH_LEN];
    const char *label, *networks; /* until the function returns */
    int64_t customer_id;
    unsigned scopes; /* those that this release knows */
    int64_t created_us, expires_us, revoked_us;
    uint64_t replaced_by;
};

/* Called in order of id. False ends the reading with ERR_RETRY: memory is out. */
typedef bool key_row_fn(const struct key_row *row, void *arg);

/* Page by page. recent: without those that have been dead for 30 days. */
int key_store_each(struct db *db, bool recent, key_row_fn *fn, void *arg, struct err *err);

/* In the caller's transaction: keys have come, or a customer leaves with them; other changes wait
 * for its end. */
int key_store_touch(struct db *db, struct err *err);

#endif
