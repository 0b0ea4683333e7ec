#ifndef API_RECEIPT_FORM_H
#define API_RECEIPT_FORM_H

/*
 * The fields of a form or a query (application/x-www-form-urlencoded), in their order, decoded.
 * Pure.
 */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "libcommon/base/buf.h"

#define RECEIPT_FIELDS_MAX 200

struct receipt_field {
    const char *name, *value;
    size_t name_len, value_len;
};

struct receipt_form {
    struct receipt_field fields[RECEIPT_FIELDS_MAX];
    size_t n;
    char *text; /* what the fields point to */
};

/* False: more fields than RECEIPT_FIELDS_MAX; with text NULL, memory is out. */
bool receipt_form_read(struct receipt_form *form, const char *text, size_t n);
void receipt_form_free(struct receipt_form *form); /* after a read, whatever came of it */

/* An object of texts; what is not UTF-8 becomes U+FFFD, and NULs are left out, so that UCS-2 reads
 * as far as it is ASCII. A field that is there twice is null: which one would it be? NULL: memory
 * is out. */
json_t *receipt_form_json(const struct receipt_form *form);
/* Names and values, one behind the other, in the order of the names' bytes. */
void receipt_form_put_sorted(const struct receipt_form *form, struct buf *out);

#endif
