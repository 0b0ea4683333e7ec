#ifndef API_RECEIPT_REQUEST_H
#define API_RECEIPT_REQUEST_H

/*
 * A request with receipts: who brings it, by the operator's file, and what it says. Pure: the HTTP
 * server's part of it is behind a function.
 */

#include "api/receipt_form.h"
#include "libcommon/domain/operator_receipts.h"

/* What came. Texts belong to the caller. */
struct receipt_request {
    const char *peer;   /* the address, as text */
    const char *secret; /* what the path ends in; "": nothing */
    const char *target; /* path and query as they came */
    const char *query;  /* as it came; "": none */
    bool is_get;
    const char *body;
    size_t body_len;
    const char *public_url;                                   /* that the path stands behind */
    const char *(*header)(const void *arg, const char *name); /* NULL: it is not there */
    const void *arg;
};

/* Whether the one who brings it is who the file says. */
bool receipt_request_is_genuine(const struct operator_receipts *rules,
                                const struct receipt_request *request);

enum receipt_reading {
    RECEIPT_READ_OK,
    RECEIPT_READ_TOO_MANY, /* receipts */
    RECEIPT_READ_NO_MEMORY,
};

/* What a request says: receipts that decide something, and how many do not. One that is none keeps
 * nothing from its neighbours: whoever brings a list brings all of it again. */
struct receipt_reader {
    const struct operator_receipts *rules;
    const char *operator_name, *reference_key;
    size_t most; /* receipts */

    struct recipient_receipt *receipts; /* the caller frees them */
    size_t n, room;
    size_t interim, unclear; /* those on their way, and those that no rule is for */
    size_t unreadable;       /* those about nothing; 1: the request is not what the file says */
    size_t forged;           /* those with a reference that is none of ours */
    char unclear_code[RECEIPT_CODE_MAX + 1]; /* of one of the latter */
};

enum receipt_reading receipt_request_read(struct receipt_reader *reader,
                                          const struct receipt_request *request);

#endif
