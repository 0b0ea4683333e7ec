#include "api/key_table.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/net/address.h"

#define WORDS (KEY_HASH_LEN / 8)
#define ROOM_FIRST 64

struct entry {
    uint64_t hash[WORDS]; /* as a number, its highest word first */
    struct key_grant grant;
    int64_t expires_us, revoked_us; /* INT64_MAX: never */
    bool everywhere;
    struct network *networks;
    size_t network_count;
};

struct key_table {
    struct entry *entries; /* the first is of no key: there is always one to compare with */
    size_t n, room;
};

struct key_table *key_table_new(void)
{
    struct key_table *t = must_alloc(1, sizeof(*t));

    t->entries = must_alloc(ROOM_FIRST, sizeof(*t->entries));
    t->room = ROOM_FIRST;
    t->n = 1;
    return t;
}

void key_table_free(struct key_table *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->n; i++)
        free(t->entries[i].networks);
    free(t->entries);
    free(t);
}

static void as_number(const uint8_t hash[KEY_HASH_LEN], uint64_t number[WORDS])
{
    for (size_t i = 0; i < WORDS; i++) {
        number[i] = 0;
        for (size_t k = 0; k < 8; k++)
            number[i] = number[i] << 8 | hash[8 * i + k];
    }
}

/* ---- filling ---- */

static bool make_room(struct key_table *t)
{
    struct entry *moved;

    if (t->n < t->room)
        return true;
    moved = realloc(t->entries, 2 * t->room * sizeof(*moved));
    if (!moved)
        return false;
    t->entries = moved;
    t->room *= 2;
    return true;
}

/* Whatever the table says: who is bound to a customer administers nothing. */
static unsigned allowed_scopes(const struct key_row *row)
{
    return row->customer_id ? row->scopes & ~(unsigned)KEY_ADMIN : row->scopes;
}

bool key_table_add(struct key_table *t, const struct key_row *row)
{
    char why[160];
    struct entry *e;

    if (!make_room(t))
        return false;
    e = &t->entries[t->n++];
    *e = (struct entry){
        .grant = {.key_id = row->id,
                  .customer_id = row->customer_id,
                  .scopes = allowed_scopes(row)},
        .expires_us = row->expires_us ? row->expires_us : INT64_MAX,
        .revoked_us = row->revoked_us ? row->revoked_us : INT64_MAX,
        .everywhere = !*row->networks,
    };
    as_number(row->hash, e->hash);
    if (!e->everywhere && networks_check(row->networks, why, sizeof(why)))
        e->networks = networks_parse(row->networks, &e->network_count);
    return true;
}

/* ---- finding ---- */

/* Whether a <= b as numbers: nothing is borrowed by b - a. */
static size_t not_above(const uint64_t a[WORDS], const uint64_t b[WORDS])
{
    uint64_t borrow = 0;

    for (size_t i = WORDS; i--;) {
        uint64_t less = b[i] - a[i];

        borrow = (uint64_t)(b[i] < a[i]) | (uint64_t)(less < borrow);
    }
    return (size_t)(borrow ^ 1);
}

static int by_hash(const void *left, const void *right)
{
    const struct entry *a = left;
    const struct entry *b = right;

    return (int)not_above(b->hash, a->hash) - (int)not_above(a->hash, b->hash);
}

void key_table_seal(struct key_table *t)
{
    qsort(t->entries, t->n, sizeof(*t->entries), by_hash);
}

size_t key_table_count(const struct key_table *t)
{
    return t->n - 1;
}

/* The last entry that is not above the hash; the first one when there is none. */
static const struct entry *find(const struct key_table *t, const uint64_t hash[WORDS])
{
    const struct entry *at = t->entries;

    for (size_t left = t->n; left > 1;) {
        size_t half = left / 2;

        at += half * not_above(at[half].hash, hash);
        left -= half;
    }
    return at;
}

static bool allowed_from(const struct entry *e, const char *peer)
{
    struct address address;

    if (e->everywhere)
        return true;
    return peer && address_parse(peer, strlen(peer), &address) &&
           networks_have(e->networks, e->network_count, &address);
}

enum key_answer key_table_ask(const struct key_table *t, const uint8_t hash[KEY_HASH_LEN],
                              const char *peer, int64_t now_us, struct key_grant *grant)
{
    uint64_t number[WORDS];
    const struct entry *e;

    as_number(hash, number);
    e = find(t, number);
    if (CRYPTO_memcmp(e->hash, number, sizeof(number)) != 0 || !e->grant.key_id)
        return KEY_UNKNOWN;
    *grant = e->grant;
    if (now_us >= e->revoked_us)
        return KEY_REVOKED;
    if (now_us >= e->expires_us)
        return KEY_EXPIRED;
    return allowed_from(e, peer) ? KEY_OK : KEY_ELSEWHERE;
}
