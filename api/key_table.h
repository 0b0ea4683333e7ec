#ifndef API_KEY_TABLE_H
#define API_KEY_TABLE_H

/*
 * The keys of one reading, sorted by hash: what key_ring.h swaps. Filled and sealed by one thread,
 * then read by any. Pure.
 *
 * A search takes as many steps as the number of keys demands, and no branch depends on what it
 * meets; the one key that it ends at is compared in constant time. Time so tells nothing about the
 * hashes here, however many are tried (and a hash would not tell its key).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/key_ring.h"
#include "api/key_store.h"

struct key_table;

struct key_table *key_table_new(void);
void key_table_free(struct key_table *t); /* NULL is fine */

/* False: memory is out. A key whose networks cannot be read is allowed from nowhere. */
bool key_table_add(struct key_table *t, const struct key_row *row);
void key_table_seal(struct key_table *t); /* nothing is added any more */
size_t key_table_count(const struct key_table *t);

/* As key_ring_ask; now_us: by the database's clock. */
enum key_answer key_table_ask(const struct key_table *t, const uint8_t hash[KEY_HASH_LEN],
                              const char *peer, int64_t now_us, struct key_grant *grant);

#endif
