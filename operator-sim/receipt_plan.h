#ifndef OPERATOR_SIM_RECEIPT_PLAN_H
#define OPERATOR_SIM_RECEIPT_PLAN_H

/*
 * Which receipts a message gets and when, and how a receipt is written. The settings are one flat
 * JSON object (fields: sim.h). What is random is rolled from seed and reference, as faults are: the
 * same message under the same seed and settings gets the same receipts. Pure.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/buf.h"

#define RECEIPT_URL_MAX 512
#define RECEIPT_REFERENCE_MAX 200
#define RECEIPT_HEADER_MAX 64
#define RECEIPT_PARTS_MAX 10
#define RECEIPT_BATCH_MAX 100
#define RECEIPT_ID_SIZE 64
/* Of one message: a final one a part and one on the way, each twice, and a forged one. */
#define RECEIPT_PLANNED_MAX (2 * (RECEIPT_PARTS_MAX + 1) + 1)

/* How the message's number is written; as text the operator's name stands before it. What is a
 * number has no more than 63 bits. */
enum receipt_id {
    RECEIPT_ID_TEXT,
    RECEIPT_ID_DECIMAL,
    RECEIPT_ID_HEX,
    RECEIPT_ID_DECIMAL_ZEROS,
    RECEIPT_ID_HEX_ZEROS,
    RECEIPT_IDS
};

enum receipt_form {
    RECEIPT_JSON,
    RECEIPT_FORM,  /* POST, urlencoded */
    RECEIPT_QUERY, /* GET */
    RECEIPT_FORMS
};

enum receipt_share {
    RECEIPT_SHARE_DELIVERED,
    RECEIPT_SHARE_SILENT,
    RECEIPT_SHARE_SENT,
    RECEIPT_SHARE_REORDER,
    RECEIPT_SHARE_DUPLICATE,
    RECEIPT_SHARE_BEFORE_ANSWER,
    RECEIPT_SHARE_FORGED,
    RECEIPT_SHARES
};

struct receipt_plan {
    char url[RECEIPT_URL_MAX + 1]; /* "": only for messages that bring one */
    char signature_header[RECEIPT_HEADER_MAX + 1];
    enum receipt_form form;
    enum receipt_id answer_id, receipt_id;
    bool echo, hold;
    double share[RECEIPT_SHARES];
    int64_t delay_ms, delay_max_ms, answer_after_ms, retry_ms;
    int64_t parts, batch, per_second, tries;
};

/* One to be sent. */
struct receipt_planned {
    int64_t delay_us;
    uint8_t says; /* for receipt_is_final and receipt_put */
    uint8_t part; /* from 1; 0: of the whole message */
    bool forged;
};

/* What a receipt is about. */
struct receipt_about {
    const char *name;      /* the operator's */
    const char *reference; /* as the message brought it */
    uint64_t number;       /* the message's */
    int64_t at_us;         /* wall clock */
};

void receipt_plan_none(struct receipt_plan *plan);
/* False with a reason when the text is no set of receipts; *plan is then unchanged. */
bool receipt_plan_parse(const char *json, size_t n, struct receipt_plan *plan, char *why,
                        size_t size);
void receipt_plan_put_json(struct buf *out, const struct receipt_plan *plan);
bool receipt_url_ok(const char *url);

/* The number of receipts that the message gets. */
size_t receipt_plan_make(const struct receipt_plan *plan, uint64_t seed, const char *reference,
                         struct receipt_planned out[RECEIPT_PLANNED_MAX]);
/* Whether the message has reached the handset, receipts or none. */
bool receipt_plan_delivers(const struct receipt_plan *plan, uint64_t seed, const char *reference);
bool receipt_plan_before_answer(const struct receipt_plan *plan, uint64_t seed,
                                const char *reference);
bool receipt_is_final(const struct receipt_planned *planned);

void receipt_put_id(enum receipt_id form, const char *name, uint64_t number,
                    char out[RECEIPT_ID_SIZE]);
/* The receipt as an object of JSON, or as name=value pairs. */
void receipt_put(struct buf *out, const struct receipt_plan *plan,
                 const struct receipt_planned *planned, const struct receipt_about *about);

#endif
