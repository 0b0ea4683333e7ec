#ifndef API_KEY_RING_H
#define API_KEY_RING_H

/*
 * All keys in memory, so that a request is judged without the database. A thread of its own, with a
 * connection of its own, asks every refresh_ms for the change counter (key_store.h) and reads the
 * table again when it has moved; the new set takes the old one's place at once. What the ring says
 * is as old as key_ring_age_ms: whoever must not rely on old keys looks at that.
 *
 * A key is found by its hash (key_text.h) in the same steps whether it is there or not, and
 * compared in constant time. Expiry and revocation follow the database's clock: the ring knows how
 * far it is from our own.
 */

#include <stdint.h>

#include "api/key_scope.h"
#include "api/key_text.h"
#include "libcommon/db/db.h"

enum key_answer {
    KEY_OK,
    KEY_UNKNOWN,
    KEY_EXPIRED,
    KEY_REVOKED,
    KEY_ELSEWHERE, /* not allowed from that address */
};

/* For every answer but KEY_UNKNOWN. */
struct key_grant {
    uint64_t key_id;
    int64_t customer_id; /* 0: all */
    unsigned scopes;     /* of enum key_scope */
};

struct key_ring;

/* Makes its metrics known; they have values once a ring runs. */
void key_ring_register(void);

/* Empty until the thread has read the table for the first time. settings must outlive it. */
struct key_ring *key_ring_start(const struct db_settings *settings, int64_t refresh_ms);
/* Until the table has been read for the first time, or the first try has failed; at most ms. */
void key_ring_await(struct key_ring *ring, int64_t ms);
void key_ring_free(struct key_ring *ring); /* NULL is fine; bounded by the database's timeouts */

/* Any thread; never waits for the database. peer: an IPv4 or IPv6 address as text; NULL, or what is
 * none, is no address that a key bound to networks is allowed from. */
enum key_answer key_ring_ask(struct key_ring *ring, const uint8_t hash[KEY_HASH_LEN],
                             const char *peer, struct key_grant *grant);

/* Since the database last said that this is all; INT64_MAX: it never has. Any thread. */
int64_t key_ring_age_ms(struct key_ring *ring);

#endif
