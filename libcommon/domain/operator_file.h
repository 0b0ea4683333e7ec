#ifndef LIBCOMMON_DOMAIN_OPERATOR_FILE_H
#define LIBCOMMON_DOMAIN_OPERATOR_FILE_H

/*
 * Operators as their files describe them (docs/operators.md). A file has a section an operator; a
 * folder stands for its *.ini in the order of their names. Reading goes through everything and
 * reports each fault with file, line and reason; none quotes a value, which may be a secret.
 *
 * A set is read-only once it is read, and shared by counting (keep, drop): whoever uses one keeps
 * it, and a newer one does not take it away. Reading blocks on files and aborts for want of memory:
 * at start, in a verb, or when a person asks for it; the rest is for any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "libcommon/base/buf.h"
#include "libcommon/domain/operator_receipts.h"
#include "libcommon/domain/operator_rule.h"
#include "libcommon/domain/operator_template.h"
#include "libcommon/domain/verdict.h"

#define OPERATORS_MAX 8
#define OPERATOR_NAME_MAX 30 /* eight names fit message_status.unknown_operators */
#define OPERATOR_URL_MAX 400
#define OPERATOR_HEADERS_MAX 16
#define OPERATOR_RULES_MAX 64

enum operator_kind {
    OPERATOR_NATIVE, /* our own protocol */
    OPERATOR_HTTP,   /* a carrier's: requests by template, answers by rules */
    OPERATOR_KINDS,
};

struct operator_properties {
    bool can_lookup;           /* it tells whether it has a message */
    bool repeat_is_safe;       /* it knows a reference again and delivers once */
    int64_t lookup_settles_ms; /* these: -1 where the file says nothing, and the setting counts */
    int64_t timeout_ms, tries, in_flight_normal, in_flight_express;
    int64_t tps;           /* submissions a second from one process; 0: as many as there are */
    int64_t remaining_low; /* a person is told below so much; 0: at nothing */
};

/* Of kind http: one request, without what every request has. */
struct operator_request {
    const char *method; /* NULL: there is none */
    struct operator_template target;
    struct operator_template head; /* lines that end with CR LF */
    struct operator_template body;
    bool has_body;
    bool asks_for_receipts; /* it has %{receipt_url} or %{signed_reference} */
};

struct operator_rule {
    enum verdict verdict;
    enum unfit unfit; /* UNFIT_REASONS: as the answer's status says, or forbidden */
    struct operator_condition *condition;
    unsigned line;
};

struct operator_lookup_rule {
    enum lookup_answer answer;
    struct operator_condition *condition;
};

struct operator_config {
    char name[OPERATOR_NAME_MAX + 1];
    enum operator_kind kind;
    char *file; /* NULL: it comes from OPERATORS */
    unsigned line;
    char url[OPERATOR_URL_MAX + 1]; /* native: the base, without a slash at its end; http: scheme,
                                       host and port */
    struct operator_properties properties;
    struct operator_request submit, lookup;
    struct operator_rule rules[OPERATOR_RULES_MAX];
    size_t rule_count;
    struct operator_lookup_rule lookup_rules[OPERATOR_RULES_MAX];
    size_t lookup_rule_count;
    bool gives_id;
    struct operator_spot *id, *lookup_id, *parts, *cost, *remaining; /* NULL: nowhere */
    struct operator_receipts receipts;
};

struct operator_set {
    struct operator_config *all[OPERATORS_MAX];
    size_t n;
    _Atomic unsigned users;
};

/* What of the files a program goes by: secrets are asked for that part alone. */
enum operator_part { OPERATOR_SENDING = 1, OPERATOR_RECEIVING = 2 };

struct operator_reading {
    unsigned parts;             /* of enum operator_part */
    operator_secret_fn *secret; /* operator_secret.h has the real one */
};

/* Reads a file or a folder. NULL when anything is wrong: errors has a line for each fault, and
 * *faults their number. */
struct operator_set *operator_set_read(const char *path, const struct operator_reading *how,
                                       struct buf *errors, size_t *faults);
/* Likewise from the text of one file, called name in faults. Pure. */
struct operator_set *operator_set_parse(const char *text, size_t n, const char *name,
                                        const struct operator_reading *how, struct buf *errors,
                                        size_t *faults);
/* "name=url,name=url", all native. NULL with the end of a sentence in why. */
struct operator_set *operator_set_of_list(const char *list, char *why, size_t size);

struct operator_set *operator_set_keep(struct operator_set *set);
void operator_set_drop(struct operator_set *set); /* NULL is fine */
/* NULL: none is called so. */
const struct operator_config *operator_set_find(const struct operator_set *set, const char *name,
                                                size_t n);
/* Whether the second can take the first one's place in a running process. What there is kept from
 * the start stays: the operators by name and kind, in their order, whether each gives receipts, and
 * how identifiers read in its answers. False: why is a sentence with the operator's name. */
#define OPERATOR_WHY_SIZE 128
bool operator_set_may_follow(const struct operator_set *before, const struct operator_set *after,
                             char *why, size_t size);

const char *operator_kind_name(enum operator_kind kind);
bool operator_name_ok(const char *s, size_t n);
/* A base that an operator can have: http:// or https://, without user, query and fragment. */
bool operator_url_ok(const char *s, size_t n);

/* The keys as a table in Markdown. */
void operator_keys_print_markdown(FILE *to);

#endif
