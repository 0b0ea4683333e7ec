#include "test/loadtest/book.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"

struct book_entry {
    uint64_t id[2];
    int64_t accepted_us; /* 0: not known */
    uint32_t position;
    uint8_t operators; /* a bit each */
    uint8_t charges, refunds;
    bool used : 1, accepted : 1, row : 1, done : 1, failed : 1, unknown : 1;
};

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_id(const char *text, uint64_t id[2])
{
    size_t digits = 0;

    id[0] = id[1] = 0;
    for (size_t i = 0; i < BOOK_ID_CHARS; i++) {
        int d = digit(text[i]);

        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (text[i] != '-')
                return false;
            continue;
        }
        if (d < 0)
            return false;
        id[digits / 16] = id[digits / 16] << 4 | (uint64_t)d;
        digits++;
    }
    return true;
}

static struct book_entry *slot(const struct book *b, const uint64_t id[2], uint32_t position)
{
    uint64_t hash = (id[0] ^ (id[1] + position) * 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
    size_t at = (size_t)(hash ^ hash >> 32) & (b->room - 1);

    while (b->entries[at].used && (b->entries[at].id[0] != id[0] || b->entries[at].id[1] != id[1] ||
                                   b->entries[at].position != position))
        at = (at + 1) & (b->room - 1);
    return &b->entries[at];
}

static void grow(struct book *b)
{
    struct book old = *b;

    b->room = old.room ? 2 * old.room : 1024;
    b->entries = must_alloc(b->room, sizeof(*b->entries));
    for (size_t i = 0; i < old.room; i++)
        if (old.entries[i].used)
            *slot(b, old.entries[i].id, old.entries[i].position) = old.entries[i];
    free(old.entries);
}

static struct book_entry *entry(struct book *b, const uint64_t id[2], uint32_t position)
{
    struct book_entry *e;

    if (2 * b->count >= b->room)
        grow(b);
    e = slot(b, id, position);
    if (!e->used) {
        *e = (struct book_entry){.id = {id[0], id[1]}, .position = position, .used = true};
        b->count++;
    }
    return e;
}

/* "<message>-<position>" */
static bool read_reference(const char *text, uint64_t id[2], uint32_t *position)
{
    char *end;
    unsigned long n;

    if (strlen(text) < BOOK_ID_CHARS + 2 || text[BOOK_ID_CHARS] != '-' || !read_id(text, id))
        return false;
    n = strtoul(text + BOOK_ID_CHARS + 1, &end, 10);
    *position = (uint32_t)n;
    return !*end && n <= UINT32_MAX;
}

void book_free(struct book *b)
{
    if (!b)
        return;
    free(b->entries);
    *b = (struct book){0};
}

bool book_accept(struct book *b, const char *id, unsigned recipients)
{
    uint64_t key[2];

    if (!read_id(id, key))
        return false;
    for (unsigned i = 0; i < recipients; i++)
        entry(b, key, i)->accepted = true;
    return true;
}

bool book_row(struct book *b, const char *id, unsigned position, enum book_state state,
              bool unknown)
{
    struct book_entry *e;
    uint64_t key[2];

    if (strlen(id) != BOOK_ID_CHARS || !read_id(id, key))
        return false;
    e = entry(b, key, position);
    e->row = true;
    e->done = state == BOOK_DONE;
    e->failed = state == BOOK_FAILED;
    e->unknown = unknown;
    return true;
}

bool book_dated(struct book *b, const char *id, unsigned position, int64_t accepted_us)
{
    uint64_t key[2];

    if (strlen(id) != BOOK_ID_CHARS || !read_id(id, key))
        return false;
    entry(b, key, position)->accepted_us = accepted_us;
    return true;
}

bool book_charge(struct book *b, const char *transaction)
{
    struct book_entry *e;
    uint64_t key[2];

    if (strlen(transaction) != BOOK_ID_CHARS + 2 || !read_id(transaction + 2, key))
        return false;
    e = entry(b, key, 0);
    e->charges += e->charges < UINT8_MAX;
    return true;
}

bool book_refund(struct book *b, const char *transaction)
{
    struct book_entry *e;
    uint32_t position;
    uint64_t key[2];

    if (strlen(transaction) < 2 || !read_reference(transaction + 2, key, &position))
        return false;
    e = entry(b, key, position);
    e->refunds += e->refunds < UINT8_MAX;
    return true;
}

bool book_delivered(struct book *b, const char *reference, unsigned operator)
{
    struct book_entry *e;
    uint32_t position;
    uint64_t key[2];

    if (!read_reference(reference, key, &position))
        return false;
    if (!b->count)
        return true;
    e = slot(b, key, position);
    if (e->used)
        e->operators |= (uint8_t)(1u << operator);
    return true;
}

int64_t book_accepted_us(const struct book *b, const char *reference)
{
    uint32_t position;
    uint64_t key[2];

    return b->count && read_reference(reference, key, &position)
               ? slot(b, key, position)->accepted_us /* of an empty slot 0 */
               : 0;
}

static void judge(const struct book_entry *e, uint8_t charges, bool operators_asked,
                  struct book_verdict *v)
{
    unsigned deliveries = (unsigned)__builtin_popcount(e->operators);
    bool twice_out = deliveries > 1 || (deliveries && e->failed);

    v->accepted += e->accepted;
    v->rows += e->row;
    v->charged += e->row && charges;
    v->done += e->done;
    v->failed += e->failed;
    v->refunded += e->refunds > 0;
    v->delivered += deliveries > 0;
    v->unanswered += e->row && !e->accepted;
    v->lost += !e->row || !charges || (!e->done && !e->failed) || (e->failed && !e->refunds) ||
               (operators_asked && e->done && !deliveries);
    v->doubled +=
        charges > 1 || e->refunds > 1 || (e->done && e->refunds) || (twice_out && !e->unknown);
    v->unknown_doubled += twice_out && e->unknown;
}

void book_close(const struct book *b, bool operators_asked, struct book_verdict *verdict)
{
    *verdict = (struct book_verdict){.strange = b->strange};
    for (size_t i = 0; i < b->room; i++) {
        const struct book_entry *e = &b->entries[i];

        if (e->used) /* a message's charge is noted at its first recipient */
            judge(e, e->position ? slot(b, e->id, 0)->charges : e->charges, operators_asked,
                  verdict);
    }
}
