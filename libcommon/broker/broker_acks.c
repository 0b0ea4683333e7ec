#include "libcommon/broker/broker_acks.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_CAP 256

void broker_acks_free(struct broker_acks *a)
{
    free(a->entries);
    *a = (struct broker_acks){0};
}

void broker_acks_clear(struct broker_acks *a)
{
    a->head = a->tail = a->due = 0;
}

/* Squeezes out what is settled; grows only when that frees too little to be worth it. */
static bool make_room(struct broker_acks *a)
{
    size_t kept = 0;
    size_t cap = a->cap ? a->cap * 2 : FIRST_CAP;
    struct broker_ack_entry *grown;

    for (size_t i = a->head; i < a->tail; i++)
        if (a->entries[i].state != ACK_SENT)
            a->entries[kept++] = a->entries[i];
    a->head = 0;
    a->tail = kept;
    if (a->cap && kept <= a->cap / 2)
        return true;
    grown = realloc(a->entries, cap * sizeof(*grown));
    if (!grown)
        return kept < a->cap;
    a->entries = grown;
    a->cap = cap;
    return true;
}

bool broker_acks_delivered(struct broker_acks *a, uint64_t tag)
{
    if (a->tail > a->head && a->entries[a->tail - 1].tag >= tag)
        return false;
    if (a->tail == a->cap && !make_room(a))
        return false;
    a->entries[a->tail++] = (struct broker_ack_entry){tag, ACK_OUTSTANDING};
    return true;
}

/* The first entry at or above tag; tail when there is none. */
static size_t find(const struct broker_acks *a, uint64_t tag)
{
    size_t low = a->head;
    size_t high = a->tail;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (a->entries[middle].tag < tag)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_outstanding(const struct broker_acks *a, size_t at, uint64_t tag)
{
    return at < a->tail && a->entries[at].tag == tag && a->entries[at].state == ACK_OUTSTANDING;
}

bool broker_acks_done(struct broker_acks *a, uint64_t tag, bool multiple)
{
    size_t at = find(a, tag);

    if (!is_outstanding(a, at, tag))
        return false;
    for (size_t i = multiple ? a->head : at; i <= at; i++) {
        if (a->entries[i].state != ACK_OUTSTANDING)
            continue;
        a->entries[i].state = ACK_DUE;
        a->due++;
    }
    return true;
}

bool broker_acks_settled(struct broker_acks *a, uint64_t tag)
{
    size_t at = find(a, tag);

    if (!is_outstanding(a, at, tag))
        return false;
    a->entries[at].state = ACK_SENT;
    return true;
}

void broker_acks_collect(struct broker_acks *a, broker_acks_fn *fn, void *arg)
{
    uint64_t last = 0;
    size_t n = 0;

    /* A multiple ack must name a tag that the broker still holds: the last one due, not one that a
     * single frame has settled already. */
    for (; a->head < a->tail && a->entries[a->head].state != ACK_OUTSTANDING; a->head++) {
        if (a->entries[a->head].state != ACK_DUE)
            continue;
        last = a->entries[a->head].tag;
        n++;
    }
    a->due -= n;
    if (n)
        fn(last, n > 1, arg);
    for (size_t i = a->head; a->due && i < a->tail; i++) {
        if (a->entries[i].state != ACK_DUE)
            continue;
        fn(a->entries[i].tag, false, arg);
        a->entries[i].state = ACK_SENT;
        a->due--;
    }
    if (a->head == a->tail)
        a->head = a->tail = 0;
}
