#include "api/commit_queue.h"

#include <stdlib.h>

#include "libcommon/base/must.h"

/* Customers that share a slot wait for each other: few do, and it is harmless. */
#define SLOT_BITS 14
#define GATHER_MAX_US 1500
#define GATHER_TIMES 3 /* what the last one took: a fourth of the time goes to transactions */
#define GATHERED 8     /* requests: so many have come by themselves */
#define CLOSELY 4      /* within so many times what a batch took */
#define NOBODY 0

struct slot {
    uint32_t rows;  /* that wait */
    uint32_t batch; /* that has its customers in hand, or NOBODY */
};

struct list {
    struct operation *first;
    struct operation **last;
};

struct commit_queue {
    struct commit_limits limits;
    struct list waiting, aside;
    size_t count; /* waiting */
    size_t bytes;
    size_t ready_rows; /* of those waiting whose slot is in no batch's hand */
    size_t in_hand;    /* batches */
    uint32_t batches;
    struct slot slots[1 << SLOT_BITS];
};

struct commit_queue *commit_queue_new(const struct commit_limits *limits)
{
    struct commit_queue *q = must_alloc(1, sizeof(*q));

    q->limits = *limits;
    q->waiting.last = &q->waiting.first;
    q->aside.last = &q->aside.first;
    return q;
}

void commit_queue_free(struct commit_queue *q)
{
    MUST(commit_queue_empty(q) && !q->in_hand);
    free(q);
}

static struct slot *slot_at(struct commit_queue *q, uint16_t at)
{
    return &q->slots[at];
}

static uint16_t slot_of(const struct operation *op)
{
    return (uint16_t)((uint64_t)op->customer_id * UINT64_C(0x9e3779b97f4a7c15) >> (64 - SLOT_BITS));
}

static uint32_t rows_of(const struct operation *op)
{
    return op->kind == OPERATION_SEND ? (uint32_t)op->message.recipient_count : 1;
}

static void append(struct list *l, struct operation *op)
{
    op->next = NULL;
    *l->last = op;
    l->last = &op->next;
}

static void count_in(struct commit_queue *q, const struct operation *op)
{
    struct slot *slot = slot_at(q, slot_of(op));

    q->count++;
    q->bytes += op->bytes;
    slot->rows += rows_of(op);
    if (slot->batch == NOBODY)
        q->ready_rows += rows_of(op);
}

bool commit_queue_put(struct commit_queue *q, struct operation *op)
{
    if (q->count >= q->limits.max || (q->count && q->bytes + op->bytes > q->limits.max_bytes))
        return false;
    append(&q->waiting, op);
    count_in(q, op);
    return true;
}

bool commit_queue_empty(const struct commit_queue *q)
{
    return !q->count && !q->aside.first;
}

bool commit_queue_may_take(const struct commit_queue *q)
{
    return q->ready_rows && (!q->in_hand || q->ready_rows >= q->limits.beside_rows);
}

static void occupy(struct commit_queue *q, struct commit_hand *hand, uint16_t at)
{
    slot_at(q, at)->batch = q->batches;
    q->ready_rows -= slot_at(q, at)->rows;
    hand->slots[hand->slot_count++] = at;
}

static struct operation *take_out(struct commit_queue *q, struct operation **at)
{
    struct operation *op = *at;

    *at = op->next;
    if (!op->next)
        q->waiting.last = at;
    op->next = NULL;
    q->count--;
    q->bytes -= op->bytes;
    slot_at(q, slot_of(op))->rows -= rows_of(op);
    return op;
}

void commit_queue_take(struct commit_queue *q, struct commit_hand *hand)
{
    struct operation **at = &q->waiting.first;
    size_t rows = 0;
    size_t bytes = 0;

    hand->n = hand->slot_count = 0;
    q->in_hand++;
    if (++q->batches == NOBODY)
        q->batches++;
    while (*at && hand->n < BATCH_CUSTOMERS_MAX) {
        uint16_t slot = slot_of(*at);
        uint32_t batch = slot_at(q, slot)->batch;

        if (batch != NOBODY && batch != q->batches) {
            at = &(*at)->next;
            continue;
        }
        rows += rows_of(*at);
        bytes += (*at)->packet_bytes;
        if (hand->n && (rows > q->limits.batch_rows || bytes > q->limits.batch_bytes))
            break;
        if (batch == NOBODY)
            occupy(q, hand, slot);
        hand->ops[hand->n++] = take_out(q, at);
    }
    MUST(hand->n);
}

void commit_queue_done(struct commit_queue *q, struct commit_hand *hand)
{
    for (size_t i = 0; i < hand->slot_count; i++) {
        struct slot *slot = slot_at(q, hand->slots[i]);

        slot->batch = NOBODY;
        q->ready_rows += slot->rows;
    }
    hand->n = hand->slot_count = 0;
    q->in_hand--;
}

int64_t commit_queue_gather_us(int64_t after_us, int64_t took_us, size_t n)
{
    if (n >= GATHERED || after_us >= took_us * CLOSELY)
        return 0;
    return took_us * GATHER_TIMES < GATHER_MAX_US ? took_us * GATHER_TIMES : GATHER_MAX_US;
}

void commit_queue_set_aside(struct commit_queue *q, struct operation *op)
{
    append(&q->aside, op);
}

bool commit_queue_has_aside(const struct commit_queue *q)
{
    return q->aside.first;
}

void commit_queue_return(struct commit_queue *q)
{
    if (!q->aside.first)
        return;
    for (struct operation *op = q->aside.first; op; op = op->next)
        count_in(q, op);
    *q->aside.last = q->waiting.first;
    if (!q->waiting.first)
        q->waiting.last = q->aside.last;
    q->waiting.first = q->aside.first;
    q->aside = (struct list){.last = &q->aside.first};
}
