#ifndef LIBCOMMON_DOMAIN_OPERATOR_TEMPLATE_H
#define LIBCOMMON_DOMAIN_OPERATOR_TEMPLATE_H

/*
 * A piece of a request to an operator as its file words it, with values to be filled in:
 *
 *   %{text} %{to} %{reference} %{type}  of the message, for this recipient
 *   %{from}                             the file's own key
 *   %{receipt_url} %{signed_reference}  what a receipt comes back with
 *   %{alphabet:A:B}                     A when the text is written in GSM's 7-bit alphabet, else B
 *   %{secret:NAME}                      from the environment, a file or a credential
 *   %%{                                 the characters %{ themselves
 *
 * behind a name a form (to:digits, to:plus) and an escape (url json xml host raw) may follow. A
 * template is compiled for the place where it stands, and one that would let a value break out of
 * that place is refused then: what may hold any character needs the escape of its place. What
 * cannot do harm anywhere (a reference, to:digits) needs none.
 *
 * Pure: no environment, no clock. A compiled template is read-only, for any thread. Secrets lie in
 * its memory, which is wiped when it is freed.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/buf.h"

enum operator_place {
    OPERATOR_IN_HOST,   /* the URL's host and port: known when it is compiled */
    OPERATOR_IN_URL,    /* its path and query */
    OPERATOR_IN_HEADER, /* the value of a header */
    OPERATOR_IN_FORM,   /* a body: application/x-www-form-urlencoded */
    OPERATOR_IN_JSON,
    OPERATOR_IN_XML,
    OPERATOR_IN_PLAIN, /* of another type: the escape has to be said */
    OPERATOR_PLACES,
};

/* What is filled in. Every one is given; "" where there is none. */
struct operator_values {
    const char *text;
    size_t text_len;
    const char *to; /* + optional, digits */
    const char *reference, *type;
    const char *receipt_url, *signed_reference;
};

/* Gives the value of a secret. False with the end of a sentence in why: "is set nowhere". */
typedef bool operator_secret_fn(const char *name, struct buf *out, char *why, size_t size);

/* What is known when a template is compiled. */
struct operator_words {
    const char *from;           /* NULL: the file has none */
    operator_secret_fn *secret; /* NULL: nobody asks for a request, secrets stay empty */
};

struct operator_piece;
struct operator_template {
    struct operator_piece *pieces;
    size_t count;
};

/* False with the end of a sentence in why. */
bool operator_template_compile(struct operator_template *t, const char *text,
                               enum operator_place place, const struct operator_words *words,
                               char *why, size_t size);
void operator_template_free(struct operator_template *t);

/* Appends it with its values; shown: for people, secrets as ***. */
void operator_template_put(const struct operator_template *t, const struct operator_values *values,
                           struct buf *out);
void operator_template_show(const struct operator_template *t, const struct operator_values *values,
                            struct buf *out);

/* Appends text, or a secret, as it stands. */
void operator_template_add(struct operator_template *t, const char *text, size_t n, bool secret);
/* Moves the pieces of one to the end of another. */
void operator_template_append(struct operator_template *t, struct operator_template *from);

/* Whether a variable stands in it: "text", "signed_reference", ... */
bool operator_template_uses(const struct operator_template *t, const char *variable);
/* Whether it is the same for every message. */
bool operator_template_is_constant(const struct operator_template *t);

#endif
