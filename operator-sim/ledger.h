#ifndef OPERATOR_SIM_LEDGER_H
#define OPERATOR_SIM_LEDGER_H

/*
 * What the simulator has seen and accepted, by reference, in the order of first sight. Compact: a
 * million references take about 130 MB. With a file, what is accepted is appended to it before it
 * is answered, and read back at start, so that a restarted simulator remembers. Not thread-safe:
 * the caller locks.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/err.h"
#include "libcommon/base/trace.h"
#include "libcommon/domain/message.h"

#define LEDGER_REFERENCE_MAX 80

/* What the last final receipt has said that the other side took. */
enum ledger_receipt { LEDGER_NO_RECEIPT, LEDGER_DELIVERED, LEDGER_UNDELIVERED };

struct ledger_entry {
    const char *reference;
    const char *to;      /* NULL until accepted */
    int64_t accepted_us; /* 0: seen, but not accepted */
    uint32_t next;       /* in the chain of its hash bucket */
    uint32_t requests;   /* POSTs that named it */
    uint32_t lookups;    /* GETs */
    uint32_t text_crc32;
    uint16_t text_bytes;
    uint8_t type;    /* enum message_type */
    uint8_t receipt; /* enum ledger_receipt */
    bool has_key;    /* an Idempotency-Key came with it */
    bool has_trace;
    struct trace_context trace;
};

struct ledger_counts {
    uint64_t seen, accepted, requests, duplicates, lookups;
};

struct ledger;

/* max: most references. file: "" for none. ERR_PERMANENT: the file cannot be used. */
struct ledger *ledger_open(size_t max, const char *file, struct err *err);
void ledger_close(struct ledger *l); /* NULL is fine */

struct ledger_entry *ledger_find(struct ledger *l, const char *reference);
/* Found or made, with the request counted; NULL when the ledger is full. */
struct ledger_entry *ledger_request(struct ledger *l, const char *reference);
void ledger_count_lookup(struct ledger *l, struct ledger_entry *e); /* e may be NULL */

/* What is accepted with a reference. */
struct ledger_message {
    const char *to;
    const char *text;
    size_t text_len;
    enum message_type type;
    bool has_key;
    const struct trace_context *trace; /* NULL: none came */
};

/* Once for an entry. ERR_RETRY: the file or memory would not take it, and it is not accepted. */
int ledger_accept(struct ledger *l, struct ledger_entry *e, const struct ledger_message *m,
                  struct err *err);

/* The entry at a position, 0 .. counts.seen - 1; NULL beyond. */
const struct ledger_entry *ledger_at(const struct ledger *l, size_t position);
struct ledger_counts ledger_counts(const struct ledger *l);

#endif
