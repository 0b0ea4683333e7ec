#ifndef LIBCOMMON_DOMAIN_OPERATOR_KEYS_H
#define LIBCOMMON_DOMAIN_OPERATOR_KEYS_H

/*
 * The keys of an operator's section: one row a key. The rows feed reading, checking and
 * docs/operators.md. Part of operator_file.c and of those that own rows; nobody else includes this.
 */

#include "libcommon/domain/operator_file.h"

#define OPERATOR_KIND_BIT(kind) (1u << (kind))
#define OPERATOR_ANY_KIND ((1u << OPERATOR_KINDS) - 1)

/* A value in a file; NULL: the key is not there. */
struct operator_text {
    const char *value;
    unsigned line;
};

struct operator_request_draft {
    struct operator_text method, url, body;
    struct operator_text headers[OPERATOR_HEADERS_MAX];
    size_t header_count;
};

/* A section while it is read. Values live until it is finished. */
struct operator_draft {
    struct operator_config *op;
    const struct operator_reading *how;
    const char *name; /* the file's */
    struct buf *errors;
    size_t faults;
    struct operator_text from, basic, bearer;
    struct operator_request_draft submit, lookup;
    bool says_lookup, says_id; /* the keys can_lookup, gives_id are there */
};

/* Adds a fault: the end of a sentence that begins with the key. key: NULL: of the section. */
void operator_draft_fault(struct operator_draft *d, const char *key, unsigned line, const char *fmt,
                          ...) __attribute__((format(printf, 4, 5)));

struct operator_key {
    const char *name; /* NULL: the end of a table */
    unsigned kinds;   /* of OPERATOR_KIND_BIT */
    bool repeated;
    bool joined_by_blank; /* what goes on in the next line: after a blank, else at once */
    /* Takes the value, or adds a fault. */
    void (*set)(struct operator_draft *d, const struct operator_key *key,
                const struct operator_text *text);
    size_t offset;          /* for those of them that serve several rows: into the config */
    int64_t min, max, word; /* likewise */
    const char *shape;      /* what a value is, for people */
    const char *help;
};

/* For rows of one kind: numbers at .offset from min to max; true or false; a spot; and so on. */
void operator_set_number(struct operator_draft *d, const struct operator_key *key,
                         const struct operator_text *text);
void operator_set_flag(struct operator_draft *d, const struct operator_key *key,
                       const struct operator_text *text);
void operator_set_spot(struct operator_draft *d, const struct operator_key *key,
                       const struct operator_text *text);

extern const struct operator_key operator_receipt_keys[]; /* operator_receipts.c's */

/* NULL: no key is called so. */
const struct operator_key *operator_key_find(const char *name);

/* When all keys of a section are set: what belongs together is compiled and checked. */
void operator_draft_finish(struct operator_draft *d);

/* A template for a place, with the words that the draft has; empty, and false, on a fault. */
bool operator_draft_compile(struct operator_draft *d, const char *key,
                            const struct operator_text *text, enum operator_place place,
                            enum operator_part part, struct operator_template *out);

#endif
