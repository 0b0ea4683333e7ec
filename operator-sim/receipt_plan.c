#include "operator-sim/receipt_plan.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "libcommon/base/clock.h"
#include "operator-sim/hash.h"

#define DELAY_MAX_MS 86400000
#define REORDER_US 50000 /* behind the last of those that it should have come before */
#define NUMBER_DIGITS 20

/* Rolls of their own, beside those of the faults. */
enum roll { ROLL_SHARE = 1000, ROLL_DELAY = 1100, ROLL_DELAY_AGAIN, ROLL_REASON, ROLL_PART };

/* What receipts say. */
static const struct says {
    const char *status, *code, *words;
    bool final, delivered;
} all_says[] = {
    {"sent", "", "Handed to the network", false, false},
    {"delivered", "0", "Delivered to the handset", true, true},
    {"undelivered", "1", "Unknown subscriber", true, false},
    {"undelivered", "27", "Absent subscriber", true, false},
    {"undelivered", "50", "Blocked by the recipient", true, false},
    {"expired", "36", "Validity period over", true, false},
};
#define SAYS_SENT 0
#define SAYS_DELIVERED 1
#define SAYS_UNDELIVERED 2 /* the first of them */
#define SAYS (sizeof(all_says) / sizeof(all_says[0]))

static const char *const form_names[RECEIPT_FORMS] = {
    [RECEIPT_JSON] = "json",
    [RECEIPT_FORM] = "form",
    [RECEIPT_QUERY] = "query",
};
static const char *const id_names[RECEIPT_IDS] = {
    [RECEIPT_ID_TEXT] = "text",
    [RECEIPT_ID_DECIMAL] = "decimal",
    [RECEIPT_ID_HEX] = "hex",
    [RECEIPT_ID_DECIMAL_ZEROS] = "decimal_zeros",
    [RECEIPT_ID_HEX_ZEROS] = "hex_zeros",
};

/* ---- settings ---- */

enum field_kind { FIELD_NUMBER, FIELD_SHARE, FIELD_BOOL, FIELD_TEXT, FIELD_CHOICE };

#define AT(member_) offsetof(struct receipt_plan, member_)
#define AT_SHARE(kind_) (offsetof(struct receipt_plan, share) + (kind_) * sizeof(double))

static const struct field {
    const char *name;
    enum field_kind kind;
    size_t offset;
    int64_t min, max;           /* of a number; max of a text: its length */
    double initial;             /* of all but texts */
    const char *const *choices; /* max of them */
    const char *initial_text;
} fields[] = {
    {"url", FIELD_TEXT, AT(url), 0, RECEIPT_URL_MAX, 0, NULL, ""},
    {"form", FIELD_CHOICE, AT(form), 0, RECEIPT_FORMS, RECEIPT_JSON, form_names, NULL},
    {"answer_id", FIELD_CHOICE, AT(answer_id), 0, RECEIPT_IDS, RECEIPT_ID_TEXT, id_names, NULL},
    {"receipt_id", FIELD_CHOICE, AT(receipt_id), 0, RECEIPT_IDS, RECEIPT_ID_TEXT, id_names, NULL},
    {"echo", FIELD_BOOL, AT(echo), 0, 1, true, NULL, NULL},
    {"hold", FIELD_BOOL, AT(hold), 0, 1, false, NULL, NULL},
    {"signature_header", FIELD_TEXT, AT(signature_header), 0, RECEIPT_HEADER_MAX, 0, NULL,
     "X-Signature"},
    {"delivered_share", FIELD_SHARE, AT_SHARE(RECEIPT_SHARE_DELIVERED), 0, 1, 1, NULL, NULL},
    {"silent_share", FIELD_SHARE, AT_SHARE(RECEIPT_SHARE_SILENT), 0, 1, 0, NULL, NULL},
    {"sent_share", FIELD_SHARE, AT_SHARE(RECEIPT_SHARE_SENT), 0, 1, 0, NULL, NULL},
    {"reorder_share", FIELD_SHARE, AT_SHARE(RECEIPT_SHARE_REORDER), 0, 1, 0, NULL, NULL},
    {"duplicate_share", FIELD_SHARE, AT_SHARE(RECEIPT_SHARE_DUPLICATE), 0, 1, 0, NULL, NULL},
    {"before_answer_share", FIELD_SHARE, AT_SHARE(RECEIPT_SHARE_BEFORE_ANSWER), 0, 1, 0, NULL,
     NULL},
    {"forged_share", FIELD_SHARE, AT_SHARE(RECEIPT_SHARE_FORGED), 0, 1, 0, NULL, NULL},
    {"delay_ms", FIELD_NUMBER, AT(delay_ms), 0, DELAY_MAX_MS, 0, NULL, NULL},
    {"delay_max_ms", FIELD_NUMBER, AT(delay_max_ms), 0, DELAY_MAX_MS, 0, NULL, NULL},
    {"answer_after_ms", FIELD_NUMBER, AT(answer_after_ms), 1, 60000, 100, NULL, NULL},
    {"parts", FIELD_NUMBER, AT(parts), 1, RECEIPT_PARTS_MAX, 1, NULL, NULL},
    {"batch", FIELD_NUMBER, AT(batch), 0, RECEIPT_BATCH_MAX, 0, NULL, NULL},
    {"per_second", FIELD_NUMBER, AT(per_second), 0, 1000000, 0, NULL, NULL},
    {"tries", FIELD_NUMBER, AT(tries), 1, 1000, 20, NULL, NULL},
    {"retry_ms", FIELD_NUMBER, AT(retry_ms), 1, 600000, 500, NULL, NULL},
};
#define FIELDS (sizeof(fields) / sizeof(fields[0]))

static void *at(struct receipt_plan *plan, const struct field *f)
{
    return (char *)plan + f->offset;
}

void receipt_plan_none(struct receipt_plan *plan)
{
    memset(plan, 0, sizeof(*plan));
    for (size_t i = 0; i < FIELDS; i++) {
        const struct field *f = &fields[i];

        switch (f->kind) {
        case FIELD_NUMBER:
            *(int64_t *)at(plan, f) = (int64_t)f->initial;
            break;
        case FIELD_SHARE:
            *(double *)at(plan, f) = f->initial;
            break;
        case FIELD_BOOL:
            *(bool *)at(plan, f) = f->initial > 0;
            break;
        case FIELD_CHOICE:
            *(unsigned *)at(plan, f) = (unsigned)f->initial;
            break;
        case FIELD_TEXT:
            snprintf(at(plan, f), (size_t)f->max + 1, "%s", f->initial_text);
            break;
        }
    }
}

static bool take_choice(const struct field *f, const char *text, unsigned *choice)
{
    for (unsigned i = 0; text && i < (unsigned)f->max; i++) {
        if (strcmp(f->choices[i], text) != 0)
            continue;
        *choice = i;
        return true;
    }
    return false;
}

/* One field of the object into the plan; a reason when it is not what it must be. */
static bool take(struct receipt_plan *plan, const struct field *f, const json_t *value, char *why,
                 size_t size)
{
    const char *text = json_string_value(value);

    switch (f->kind) {
    case FIELD_NUMBER:
        *(int64_t *)at(plan, f) = json_integer_value(value);
        if (json_is_integer(value) && json_integer_value(value) >= f->min &&
            json_integer_value(value) <= f->max)
            return true;
        snprintf(why, size, "%s must be a whole number from %" PRId64 " to %" PRId64, f->name,
                 f->min, f->max);
        return false;
    case FIELD_SHARE:
        *(double *)at(plan, f) = json_number_value(value);
        if (json_is_number(value) && json_number_value(value) >= 0 && json_number_value(value) <= 1)
            return true;
        snprintf(why, size, "%s must be a number from 0 to 1", f->name);
        return false;
    case FIELD_BOOL:
        *(bool *)at(plan, f) = json_is_true(value);
        if (json_is_boolean(value))
            return true;
        snprintf(why, size, "%s must be true or false", f->name);
        return false;
    case FIELD_CHOICE:
        if (take_choice(f, text, at(plan, f)))
            return true;
        snprintf(why, size, "%s must be one of those that there are", f->name);
        return false;
    case FIELD_TEXT:
        if (text && json_string_length(value) <= (size_t)f->max) {
            snprintf(at(plan, f), (size_t)f->max + 1, "%s", text);
            return true;
        }
        snprintf(why, size, "%s must be a text of at most %" PRId64 " characters", f->name, f->max);
        return false;
    }
    return false;
}

bool receipt_url_ok(const char *url)
{
    const char *host = !strncasecmp(url, "http://", 7)    ? url + 7
                       : !strncasecmp(url, "https://", 8) ? url + 8
                                                          : "";

    if (!*host || *host == '/' || strlen(url) > RECEIPT_URL_MAX)
        return false;
    for (; *url; url++)
        if ((unsigned char)*url <= ' ' || (unsigned char)*url >= 0x7f || *url == '#')
            return false;
    return true;
}

static bool complete(struct receipt_plan *plan, const json_t *object, char *why, size_t size)
{
    static const char token[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

    if (!json_object_get(object, "receipt_id"))
        plan->receipt_id = plan->answer_id;
    if (*plan->url && !receipt_url_ok(plan->url)) {
        snprintf(why, size, "url must be http:// or https:// with a host");
        return false;
    }
    if (!*plan->signature_header || plan->signature_header[strspn(plan->signature_header, token)]) {
        snprintf(why, size, "signature_header must be letters, digits, - and _");
        return false;
    }
    if (plan->delay_max_ms && plan->delay_max_ms < plan->delay_ms) {
        snprintf(why, size, "delay_max_ms must not be below delay_ms");
        return false;
    }
    if (plan->batch && plan->form != RECEIPT_JSON) {
        snprintf(why, size, "batch needs the form json");
        return false;
    }
    return true;
}

bool receipt_plan_parse(const char *json, size_t n, struct receipt_plan *plan, char *why,
                        size_t size)
{
    json_t *object = json_loadb(json, n, JSON_REJECT_DUPLICATES, NULL);
    struct receipt_plan parsed;
    const char *name;
    json_t *value;
    bool ok = json_is_object(object);

    receipt_plan_none(&parsed);
    if (!ok)
        snprintf(why, size, "must be a JSON object");
    json_object_foreach(object, name, value)
    {
        size_t i = 0;

        while (i < FIELDS && strcmp(fields[i].name, name) != 0)
            i++;
        if (i == FIELDS)
            snprintf(why, size, "there is no field \"%.40s\"", name);
        ok = i < FIELDS && take(&parsed, &fields[i], value, why, size);
        if (!ok)
            break;
    }
    ok = ok && complete(&parsed, object, why, size);
    json_decref(object);
    if (ok)
        *plan = parsed;
    return ok;
}

static void put_field(struct buf *out, const struct field *f, struct receipt_plan *plan)
{
    switch (f->kind) {
    case FIELD_NUMBER:
        buf_printf(out, "\"%s\":%" PRId64, f->name, *(int64_t *)at(plan, f));
        break;
    case FIELD_SHARE:
        buf_printf(out, "\"%s\":%g", f->name, *(double *)at(plan, f));
        break;
    case FIELD_BOOL:
        buf_printf(out, "\"%s\":%s", f->name, *(bool *)at(plan, f) ? "true" : "false");
        break;
    case FIELD_CHOICE:
        buf_printf(out, "\"%s\":\"%s\"", f->name, f->choices[*(unsigned *)at(plan, f)]);
        break;
    case FIELD_TEXT: {
        const char *text = at(plan, f);

        buf_printf(out, "\"%s\":", f->name);
        buf_put_json(out, text, strlen(text));
        break;
    }
    }
}

void receipt_plan_put_json(struct buf *out, const struct receipt_plan *plan)
{
    struct receipt_plan copy = *plan;

    for (size_t i = 0; i < FIELDS; i++) {
        buf_putc(out, i ? ',' : '{');
        put_field(out, &fields[i], &copy);
    }
    buf_putc(out, '}');
}

/* ---- what a message gets ---- */

static bool strikes(const struct receipt_plan *plan, enum receipt_share share, uint64_t seed,
                    const char *reference, uint32_t nth)
{
    return hash_roll(seed, ROLL_SHARE + share, reference, nth) < plan->share[share];
}

bool receipt_plan_delivers(const struct receipt_plan *plan, uint64_t seed, const char *reference)
{
    return strikes(plan, RECEIPT_SHARE_DELIVERED, seed, reference, 0);
}

bool receipt_plan_before_answer(const struct receipt_plan *plan, uint64_t seed,
                                const char *reference)
{
    return strikes(plan, RECEIPT_SHARE_BEFORE_ANSWER, seed, reference, 0) &&
           !strikes(plan, RECEIPT_SHARE_SILENT, seed, reference, 0);
}

bool receipt_is_final(const struct receipt_planned *planned)
{
    return all_says[planned->says].final;
}

/* A whole number, 0 <= it < n. */
static unsigned pick(uint64_t seed, enum roll kind, const char *reference, unsigned n)
{
    return (unsigned)(hash_roll(seed, kind, reference, 0) * n);
}

static int64_t delay_us(const struct receipt_plan *plan, uint64_t seed, enum roll kind,
                        const char *reference, uint32_t nth)
{
    int64_t low_us = plan->delay_ms * 1000;
    int64_t wide_us = plan->delay_max_ms * 1000 - low_us;

    if (wide_us <= 0)
        return low_us;
    return low_us + (int64_t)(hash_roll(seed, kind, reference, nth) * (double)(wide_us + 1));
}

/* Of an undelivered message one part says so. */
static size_t plan_parts(const struct receipt_plan *plan, uint64_t seed, const char *reference,
                         struct receipt_planned *out)
{
    bool delivers = receipt_plan_delivers(plan, seed, reference);
    unsigned bad = pick(seed, ROLL_PART, reference, (unsigned)plan->parts) + 1;
    unsigned reason =
        SAYS_UNDELIVERED + pick(seed, ROLL_REASON, reference, (unsigned)SAYS - SAYS_UNDELIVERED);
    bool at_once = receipt_plan_before_answer(plan, seed, reference);

    for (unsigned part = 1; part <= plan->parts; part++)
        out[part - 1] = (struct receipt_planned){
            .says = (uint8_t)(delivers || part != bad ? SAYS_DELIVERED : reason),
            .part = (uint8_t)(plan->parts > 1 ? part : 0),
            .delay_us = at_once ? 0 : delay_us(plan, seed, ROLL_DELAY, reference, part),
        };
    return (size_t)plan->parts;
}

size_t receipt_plan_make(const struct receipt_plan *plan, uint64_t seed, const char *reference,
                         struct receipt_planned out[RECEIPT_PLANNED_MAX])
{
    bool late = strikes(plan, RECEIPT_SHARE_REORDER, seed, reference, 0);
    int64_t first_us = INT64_MAX;
    int64_t last_us = 0;
    size_t n;
    size_t once;

    if (strikes(plan, RECEIPT_SHARE_SILENT, seed, reference, 0))
        return 0;
    n = plan_parts(plan, seed, reference, out);
    for (size_t i = 0; i < n; i++) {
        first_us = out[i].delay_us < first_us ? out[i].delay_us : first_us;
        last_us = out[i].delay_us > last_us ? out[i].delay_us : last_us;
    }
    if (strikes(plan, RECEIPT_SHARE_SENT, seed, reference, 0))
        out[n++] = (struct receipt_planned){.says = SAYS_SENT,
                                            .delay_us = late ? last_us + REORDER_US : first_us / 2};
    once = n;
    for (size_t i = 0; i < once; i++) {
        if (!strikes(plan, RECEIPT_SHARE_DUPLICATE, seed, reference, (uint32_t)i))
            continue;
        out[n] = out[i];
        out[n++].delay_us += delay_us(plan, seed, ROLL_DELAY_AGAIN, reference, (uint32_t)i);
    }
    if (strikes(plan, RECEIPT_SHARE_FORGED, seed, reference, 0))
        out[n++] = (struct receipt_planned){.forged = true,
                                            .delay_us = first_us / 2,
                                            .says = receipt_plan_delivers(plan, seed, reference)
                                                        ? SAYS_UNDELIVERED
                                                        : SAYS_DELIVERED};
    return n;
}

/* ---- how it is written ---- */

/* Every answer has one. */
static void put_text_id(const char *name, uint64_t number, char out[RECEIPT_ID_SIZE])
{
    static const char hex[] = "0123456789abcdef";
    char *at = stpncpy(out, name, RECEIPT_ID_SIZE - 18);

    *at++ = '-';
    for (int shift = 60; shift >= 0; shift -= 4)
        *at++ = hex[number >> shift & 15];
    *at = '\0';
}

void receipt_put_id(enum receipt_id form, const char *name, uint64_t number,
                    char out[RECEIPT_ID_SIZE])
{
    uint64_t whole = number & INT64_MAX;

    switch (form) {
    case RECEIPT_ID_DECIMAL:
        snprintf(out, RECEIPT_ID_SIZE, "%" PRIu64, whole);
        break;
    case RECEIPT_ID_HEX:
        snprintf(out, RECEIPT_ID_SIZE, "%" PRIx64, whole);
        break;
    case RECEIPT_ID_DECIMAL_ZEROS:
        snprintf(out, RECEIPT_ID_SIZE, "%0*" PRIu64, NUMBER_DIGITS, whole);
        break;
    case RECEIPT_ID_HEX_ZEROS:
        snprintf(out, RECEIPT_ID_SIZE, "%0*" PRIx64, NUMBER_DIGITS, whole);
        break;
    default:
        put_text_id(name, number, out);
        break;
    }
}

static void put_url(struct buf *out, const char *s)
{
    for (; *s; s++) {
        char c = *s;

        if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
            strchr("-_.", c))
            buf_putc(out, c);
        else
            buf_printf(out, "%%%02X", (unsigned char)c);
    }
}

static void put_pair(struct buf *out, enum receipt_form form, const char **before, const char *name,
                     const char *value)
{
    buf_puts(out, *before);
    if (form == RECEIPT_JSON) {
        buf_printf(out, "\"%s\":", name);
        buf_put_json(out, value, strlen(value));
        *before = ",";
    } else {
        buf_printf(out, "%s=", name);
        put_url(out, value);
        *before = "&";
    }
}

void receipt_put(struct buf *out, const struct receipt_plan *plan,
                 const struct receipt_planned *planned, const struct receipt_about *about)
{
    const struct says *says = &all_says[planned->says];
    const char *before = plan->form == RECEIPT_JSON ? "{" : "";
    char id[RECEIPT_ID_SIZE];
    struct buf time = {0};
    char part[8];

    receipt_put_id(plan->receipt_id, about->name, about->number, id);
    put_pair(out, plan->form, &before, "id", id);
    if (plan->echo)
        put_pair(out, plan->form, &before, "reference", about->reference);
    put_pair(out, plan->form, &before, "status", says->status);
    put_pair(out, plan->form, &before, "code", says->code);
    put_pair(out, plan->form, &before, "words", says->words);
    if (planned->part) {
        snprintf(part, sizeof(part), "%u", planned->part);
        put_pair(out, plan->form, &before, "part", part);
        snprintf(part, sizeof(part), "%" PRId64, plan->parts);
        put_pair(out, plan->form, &before, "parts", part);
    }
    clock_put_rfc3339(&time, about->at_us);
    put_pair(out, plan->form, &before, "at", time.failed ? "" : time.data);
    buf_free(&time);
    if (plan->form == RECEIPT_JSON)
        buf_putc(out, '}');
}
