#ifndef LOADTEST_BOOK_H
#define LOADTEST_BOOK_H

/*
 * What every witness says of every recipient of a run: the client that had its message accepted,
 * the database's row, charge and refund, and the operators. A recipient is a message's identifier
 * and a position, as in the reference that operators are given. Pure; the verdict is book_close's.
 * Beside that it remembers when each was accepted.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BOOK_ID_CHARS 36
#define BOOK_OPERATORS 8

enum book_state { BOOK_OPEN, BOOK_DONE, BOOK_FAILED };

struct book_entry;

struct book {
    struct book_entry *entries; /* open addressing; room is a power of two */
    size_t count, room;
    uint64_t strange; /* answers, rows or references that cannot be read */
};

struct book_verdict {
    uint64_t accepted; /* recipients of messages that the client had accepted */
    uint64_t rows;     /* recipients in the database */
    uint64_t charged;  /* of those, of messages with a charge */
    uint64_t done, failed, refunded;
    uint64_t delivered; /* recipients that an operator has accepted */
    /* Accepted and not there, without a charge, not final, or done and no operator has it. */
    uint64_t lost;
    /* Charged or refunded twice, refunded though done, delivered by more than one operator or
     * though refunded, where no answer was unknown. */
    uint64_t doubled;
    uint64_t unknown_doubled; /* the same, where an operator's answer was unknown */
    uint64_t unanswered;      /* in the database and not known to have been accepted */
    uint64_t strange;
};

void book_free(struct book *b); /* NULL is fine */
/* Each returns false when the identifier or reference is none of ours. They run out of memory by
 * aborting: the size is the run's own. */
bool book_accept(struct book *b, const char *id, unsigned recipients);
bool book_row(struct book *b, const char *id, unsigned position, enum book_state state,
              bool unknown);
bool book_dated(struct book *b, const char *id, unsigned position, int64_t accepted_us);
bool book_charge(struct book *b, const char *transaction); /* c-<message> */
bool book_refund(struct book *b, const char *transaction); /* r-<message>-<position> */
/* A reference that is nobody's row is not noted: it is of other traffic. Call after the rows. */
bool book_delivered(struct book *b, const char *reference, unsigned operator);
/* 0: nothing is known of it. */
int64_t book_accepted_us(const struct book *b, const char *reference);
void book_close(const struct book *b, bool operators_asked, struct book_verdict *verdict);

#endif
