#ifndef LIBCOMMON_DOMAIN_OPERATOR_RULE_H
#define LIBCOMMON_DOMAIN_OPERATOR_RULE_H

/*
 * What an operator's file says of an answer: conditions that it may meet, and where values stand in
 * it.
 *
 *   condition := test { "and" test }
 *   test      := [ "not" ] subject comparison
 *   subject   := status | body | json:PATH (json_path.h)
 *   comparison := == VALUE | != VALUE | in VALUE, VALUE, ... | ~ "REGEX" | exists
 *   VALUE     := word | "text" | 400-499
 *
 * A value of JSON is compared as text: 0 and "0" are alike, and so are true and "true". A range is
 * of whole numbers. A regex is POSIX extended, without back-references, repetition counts and
 * repetitions of what repeats already, and looks at the first OPERATOR_REGEX_BYTES bytes. What is
 * not there meets nothing, not even != or not.
 *
 *   place     := json:PATH | body:REGEX (its first group, or all that it matches)
 *
 * Pure. What is compiled is read-only, for any thread; an answer is one thread's.
 */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/json_path.h"

#define OPERATOR_REGEX_MAX 200    /* bytes of a pattern */
#define OPERATOR_REGEX_BYTES 4096 /* of a text, that it looks at */

/* An answer, or another text, that rules are held against. */
struct operator_answer {
    int status; /* 0: it has none */
    const char *body;
    size_t len;
    bool whole; /* its body has come to its end: else there is none */
    json_t *json;
    bool json_read;
};

void operator_answer_begin(struct operator_answer *a, int status, const char *body, size_t len,
                           bool whole);
void operator_answer_end(struct operator_answer *a);
/* Its body as JSON; NULL: it is none. */
const json_t *operator_answer_json(struct operator_answer *a);

struct operator_condition;
/* NULL with the end of a sentence in why. */
struct operator_condition *operator_condition_compile(const char *text, char *why, size_t size);
void operator_condition_free(struct operator_condition *c); /* NULL is fine */
bool operator_condition_holds(const struct operator_condition *c, struct operator_answer *a);

struct operator_spot;
/* NULL with the end of a sentence in why. */
struct operator_spot *operator_spot_compile(const char *text, char *why, size_t size);
void operator_spot_free(struct operator_spot *s); /* NULL is fine */
/* The text that stands there; NULL: nothing, or too much of it. */
const char *operator_spot_get(const struct operator_spot *s, struct operator_answer *a,
                              char out[JSON_SCALAR_MAX]);

#endif
