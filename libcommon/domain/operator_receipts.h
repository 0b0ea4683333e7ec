#ifndef LIBCOMMON_DOMAIN_OPERATOR_RECEIPTS_H
#define LIBCOMMON_DOMAIN_OPERATOR_RECEIPTS_H

/*
 * What an operator's file says of its receipts: the keys receipt.*. msg-api goes by all of them,
 * msg-consumerd by those that say how an identifier reads and where receipts go. Read-only once
 * read; any thread.
 */

#include <stdbool.h>
#include <stddef.h>

#include "libcommon/base/json_path.h"
#include "libcommon/domain/operator_rule.h"
#include "libcommon/domain/recipient_receipt.h"
#include "libcommon/net/address.h"

#define OPERATOR_RECEIPT_RULES_MAX 32
#define OPERATOR_RECEIPT_REASONS_MAX 64
#define OPERATOR_SIGNED_PARTS_MAX 16

struct operator_draft;

/* Where receipts stand in a request. */
enum operator_receipt_format {
    OPERATOR_RECEIPT_JSON,  /* in its body */
    OPERATOR_RECEIPT_FORM,  /* in its body, or in the query of a GET */
    OPERATOR_RECEIPT_QUERY, /* in its query, whatever the body is */
    OPERATOR_RECEIPT_FORMATS,
};

enum operator_receipt_says {
    OPERATOR_RECEIPT_DELIVERED,
    OPERATOR_RECEIPT_UNDELIVERED,
    OPERATOR_RECEIPT_INTERIM, /* on its way */
    OPERATOR_RECEIPT_SAYS,    /* no rule holds */
};

struct operator_receipt_rule {
    enum operator_receipt_says says;
    struct operator_condition *condition;
};

struct operator_receipt_reason {
    const char *name; /* of the closed list */
    struct operator_condition *condition;
};

enum operator_id_form {
    OPERATOR_ID_TEXT,
    OPERATOR_ID_DECIMAL,
    OPERATOR_ID_HEXADECIMAL,
    OPERATOR_ID_FORMS,
};

enum operator_digest { OPERATOR_DIGEST_NONE, OPERATOR_SHA1, OPERATOR_SHA256, OPERATOR_SHA512 };

/* What a signature is over, piece by piece. */
enum operator_signed_part {
    OPERATOR_SIGNED_BODY,
    OPERATOR_SIGNED_URL,    /* RECEIPTS_PUBLIC_URL, path and query as they came */
    OPERATOR_SIGNED_FORM,   /* names and values of the body's fields, sorted by name */
    OPERATOR_SIGNED_HEADER, /* the value of one */
    OPERATOR_SIGNED_TEXT,   /* as it stands in the file */
};

struct operator_signed {
    enum operator_signed_part part;
    char *text; /* a header's name, or the text */
};

struct operator_receipts {
    bool given; /* the operator sends some */
    enum operator_receipt_format format;
    struct json_path each; /* the array of receipts; without steps: the body, or each of its */
    struct operator_receipt_rule rules[OPERATOR_RECEIPT_RULES_MAX];
    size_t rule_count;
    struct operator_receipt_reason reasons[OPERATOR_RECEIPT_REASONS_MAX];
    size_t reason_count;
    struct operator_spot *reference, *id, *code, *words, *part; /* NULL: nowhere */
    bool plain_reference;                                       /* without its mac */
    enum operator_id_form answer_id, receipt_id;
    enum receipt_parts parts;

    /* Who may bring them: each that is there has to be right. */
    struct network *from;
    size_t from_count;
    char *secret; /* the end of the path */
    char *basic;  /* user:password */
    enum operator_digest digest;
    char *key, *header;
    bool base64; /* else hexadecimal */
    struct operator_signed over[OPERATOR_SIGNED_PARTS_MAX];
    size_t over_count;
};

/* When all of a section's keys are read: what else is wrong with these. */
void operator_receipts_finish(struct operator_draft *draft);
void operator_receipts_free(struct operator_receipts *receipts);

/* What deliveries.match_id says of an identifier: its number where the file reads it as one,
 * without leading zeros, else the text. answered: it comes from the answer to a submission. "" for
 * one that is longer than RECEIPT_MATCH_MAX. */
void operator_receipts_match_id(const struct operator_receipts *receipts, bool answered,
                                const char *id, char out[RECEIPT_MATCH_MAX + 1]);

#endif
