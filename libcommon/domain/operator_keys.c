#include "libcommon/domain/operator_keys.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HTTP OPERATOR_KIND_BIT(OPERATOR_HTTP)
#define ANY OPERATOR_ANY_KIND

void operator_draft_fault(struct operator_draft *d, const char *key, unsigned line, const char *fmt,
                          ...)
{
    char why[320];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    buf_printf(d->errors, "%s:%u: %s%s%s%s\n", d->name, line, key ? "" : "[",
               key ? key : d->op->name, key ? " " : "] ", why);
    d->faults++;
}

static void *target_of(struct operator_draft *d, const struct operator_key *key)
{
    return (char *)d->op + key->offset;
}

void operator_set_number(struct operator_draft *d, const struct operator_key *key,
                         const struct operator_text *text)
{
    char *end;
    long long value;

    errno = 0;
    value = strtoll(text->value, &end, 10);
    if (errno || end == text->value || *end || *text->value == '+' || value < key->min ||
        value > key->max)
        operator_draft_fault(d, key->name, text->line, "must be a whole number from %lld to %lld",
                             (long long)key->min, (long long)key->max);
    else
        *(int64_t *)target_of(d, key) = value;
}

void operator_set_flag(struct operator_draft *d, const struct operator_key *key,
                       const struct operator_text *text)
{
    if (!strcmp(text->value, "true"))
        *(bool *)target_of(d, key) = true;
    else if (!strcmp(text->value, "false"))
        *(bool *)target_of(d, key) = false;
    else
        operator_draft_fault(d, key->name, text->line, "must be true or false");
}

void operator_set_spot(struct operator_draft *d, const struct operator_key *key,
                       const struct operator_text *text)
{
    struct operator_spot **spot = target_of(d, key);
    char why[200];

    *spot = operator_spot_compile(text->value, why, sizeof(why));
    if (!*spot)
        operator_draft_fault(d, key->name, text->line, "%s", why);
}

bool operator_draft_compile(struct operator_draft *d, const char *key,
                            const struct operator_text *text, enum operator_place place,
                            enum operator_part part, struct operator_template *out)
{
    const struct operator_words words = {
        .from = d->from.value,
        .secret = d->how->parts & part ? d->how->secret : NULL,
    };
    char why[256];

    if (operator_template_compile(out, text->value, place, &words, why, sizeof(why)))
        return true;
    operator_draft_fault(d, key, text->line, "%s", why);
    return false;
}

/* ---- rows of this table alone ---- */

/* kind is known when the others are read. */
static void set_kind(struct operator_draft *d, const struct operator_key *key,
                     const struct operator_text *text)
{
    (void)d;
    (void)key;
    (void)text;
}

/* Texts that wait in the draft for each other. */
static void set_text(struct operator_draft *d, const struct operator_key *key,
                     const struct operator_text *text)
{
    *(struct operator_text *)((char *)d + key->offset) = *text;
}

static void set_header(struct operator_draft *d, const struct operator_key *key,
                       const struct operator_text *text)
{
    struct operator_request_draft *r = (void *)((char *)d + key->offset);

    if (r->header_count == OPERATOR_HEADERS_MAX)
        operator_draft_fault(d, key->name, text->line, "is there more than %d times",
                             OPERATOR_HEADERS_MAX);
    else
        r->headers[r->header_count++] = *text;
}

static struct operator_condition *compile_rule(struct operator_draft *d,
                                               const struct operator_key *key,
                                               const struct operator_text *text)
{
    char why[256];
    struct operator_condition *c = operator_condition_compile(text->value, why, sizeof(why));

    if (!c)
        operator_draft_fault(d, key->name, text->line, "%s", why);
    return c;
}

/* word: the verdict; min: the reason, of those that are unfit. */
static void set_rule(struct operator_draft *d, const struct operator_key *key,
                     const struct operator_text *text)
{
    struct operator_config *op = d->op;
    struct operator_condition *c = compile_rule(d, key, text);

    if (!c)
        return;
    if (op->rule_count == OPERATOR_RULES_MAX) {
        operator_draft_fault(d, key->name, text->line,
                             "is more than the %d rules that there may be", OPERATOR_RULES_MAX);
        operator_condition_free(c);
        return;
    }
    op->rules[op->rule_count++] = (struct operator_rule){.verdict = (enum verdict)key->word,
                                                         .unfit = (enum unfit)key->min,
                                                         .condition = c,
                                                         .line = text->line};
}

static void set_lookup_rule(struct operator_draft *d, const struct operator_key *key,
                            const struct operator_text *text)
{
    struct operator_config *op = d->op;
    struct operator_condition *c = compile_rule(d, key, text);

    if (!c)
        return;
    if (op->lookup_rule_count == OPERATOR_RULES_MAX) {
        operator_draft_fault(d, key->name, text->line,
                             "is more than the %d rules that there may be", OPERATOR_RULES_MAX);
        operator_condition_free(c);
        return;
    }
    op->lookup_rules[op->lookup_rule_count++] =
        (struct operator_lookup_rule){(enum lookup_answer)key->word, c};
}

static void set_can_lookup(struct operator_draft *d, const struct operator_key *key,
                           const struct operator_text *text)
{
    d->says_lookup = true;
    operator_set_flag(d, key, text);
}

static void set_gives_id(struct operator_draft *d, const struct operator_key *key,
                         const struct operator_text *text)
{
    d->says_id = true;
    operator_set_flag(d, key, text);
}

#define IN_DRAFT(field_) offsetof(struct operator_draft, field_)
#define IN_CONFIG(field_) offsetof(struct operator_config, field_)
#define NUMBER_ROW(name_, kinds_, field_, min_, max_, help_)                  \
    {                                                                         \
        .name = (name_), .kinds = (kinds_), .set = operator_set_number,       \
        .offset = IN_CONFIG(properties.field_), .min = (min_), .max = (max_), \
        .shape = "whole number", .help = (help_)                              \
    }
#define TEXT_ROW(name_, kinds_, field_, shape_, help_)                                   \
    {                                                                                    \
        .name = (name_), .kinds = (kinds_), .set = set_text, .offset = IN_DRAFT(field_), \
        .shape = (shape_), .help = (help_)                                               \
    }
#define HEADER_ROW(name_, field_, help_)                                       \
    {                                                                          \
        .name = (name_), .kinds = HTTP, .repeated = true, .set = set_header,   \
        .offset = IN_DRAFT(field_), .shape = "Name: template", .help = (help_) \
    }
#define RULE_ROW(name_, verdict_, unfit_, help_)                                    \
    {                                                                               \
        .name = (name_), .kinds = HTTP, .repeated = true, .joined_by_blank = true,  \
        .set = set_rule, .word = (verdict_), .min = (unfit_), .shape = "condition", \
        .help = (help_)                                                             \
    }
#define LOOKUP_RULE_ROW(name_, answer_, help_)                                           \
    {                                                                                    \
        .name = (name_), .kinds = HTTP, .repeated = true, .joined_by_blank = true,       \
        .set = set_lookup_rule, .word = (answer_), .shape = "condition", .help = (help_) \
    }
#define SPOT_ROW(name_, field_, help_)                                                         \
    {                                                                                          \
        .name = (name_), .kinds = HTTP, .set = operator_set_spot, .offset = IN_CONFIG(field_), \
        .shape = "json:PATH or body:REGEX", .help = (help_)                                    \
    }

static const struct operator_key keys[] = {
    {.name = "kind",
     .kinds = ANY,
     .set = set_kind,
     .shape = "native, http",
     .help = "The protocol: `native` is our own, `http` is worded by the keys below. Required."},
    TEXT_ROW("url", ANY, submit.url, "URL, template",
             "Where messages are submitted. Native: the base of its paths. Required."),
    TEXT_ROW("from", HTTP, from, "text", "What `%{from}` stands for: the sender."),
    TEXT_ROW("method", HTTP, submit.method, "GET, POST, PUT",
             "Of the request; POST where there is a body, else GET."),
    HEADER_ROW("header", submit, "A header of the request. May be there more than once."),
    TEXT_ROW("body", HTTP, submit.body, "template",
             "The request's body. Its Content-Type header says which escapes it needs."),
    TEXT_ROW("basic", HTTP, basic, "user:password, template",
             "Basic credentials, of every request."),
    TEXT_ROW("bearer", HTTP, bearer, "token, template", "A bearer token, of every request."),
    RULE_ROW("accepted", VERDICT_ACCEPTED, UNFIT_REASONS,
             "The carrier has taken the message. Rules are judged in the order of the file, and "
             "the first that holds counts. May be there more than once, like the others."),
    RULE_ROW("rejected", VERDICT_REJECTED, UNFIT_REASONS,
             "Its final no to this message: the next operator is asked, and without one the "
             "recipient has failed."),
    RULE_ROW("opted_out", VERDICT_OPTED_OUT, UNFIT_REASONS,
             "The recipient wants no messages: failed, whoever would carry it."),
    RULE_ROW("throttled", VERDICT_THROTTLED, UNFIT_REASONS,
             "Too many requests: the operator rests, for its Retry-After or a second."),
    RULE_ROW("unfit", VERDICT_UNFIT, UNFIT_REASONS,
             "The carrier cannot serve us, for a reason that its status says; a person has to "
             "mend it."),
    RULE_ROW("unfit.credentials", VERDICT_UNFIT, UNFIT_CREDENTIALS,
             "It does not know us: it is used no more until it does."),
    RULE_ROW("unfit.credit", VERDICT_UNFIT, UNFIT_CREDIT, "It wants to be paid: likewise."),
    RULE_ROW("unfit.forbidden", VERDICT_UNFIT, UNFIT_FORBIDDEN,
             "It refuses what we ask for: likewise, once it has done so to several messages."),
    RULE_ROW("unfit.address", VERDICT_UNFIT, UNFIT_ADDRESS,
             "What we ask for is not where we look for it: likewise."),
    RULE_ROW("unfit.protocol", VERDICT_UNFIT, UNFIT_PROTOCOL,
             "It does not take requests as we make them: likewise."),
    RULE_ROW("transient", VERDICT_TRANSIENT, UNFIT_REASONS,
             "It does not have the message, and a repeat may succeed."),
    RULE_ROW("unknown", VERDICT_UNKNOWN, UNFIT_REASONS,
             "It may have the message: it is asked, where that can be done."),
    SPOT_ROW("id", id, "Where an accepting answer has the carrier's identifier."),
    {.name = "gives_id",
     .kinds = HTTP,
     .set = set_gives_id,
     .offset = IN_CONFIG(gives_id),
     .shape = "true, false",
     .help = "false: the carrier gives no identifier, and its receipts come with our reference. "
             "Needs a rule `accepted`."},
    SPOT_ROW("parts", parts, "Where an accepting answer says how many parts it has made."),
    SPOT_ROW("cost", cost, "Where it says what it costs."),
    SPOT_ROW("remaining", remaining, "Where it says what is left of our money there."),
    NUMBER_ROW("remaining_low", HTTP, remaining_low, 1, 1000000000,
               "Below so much of it a person is told (the alert `OperatorBalanceLow`)."),
    TEXT_ROW("lookup.url", HTTP, lookup.url, "URL, template",
             "Where the carrier is asked whether it has a reference; at the same host as url."),
    TEXT_ROW("lookup.method", HTTP, lookup.method, "GET, POST, PUT", "As method."),
    HEADER_ROW("lookup.header", lookup, "As header."),
    TEXT_ROW("lookup.body", HTTP, lookup.body, "template", "As body."),
    LOOKUP_RULE_ROW("lookup.found", LOOKUP_FOUND, "The carrier has the message."),
    LOOKUP_RULE_ROW("lookup.not_found", LOOKUP_NOT_FOUND,
                    "It does not have it. Where no rule says anything, 404 means that, and the "
                    "rest that it could not be asked."),
    SPOT_ROW("lookup.id", lookup_id, "Where an answer that has found it has the identifier."),
    {.name = "can_lookup",
     .kinds = ANY,
     .set = set_can_lookup,
     .offset = IN_CONFIG(properties.can_lookup),
     .shape = "true, false",
     .help = "Whether it tells if it has a message. Native: true; else true with lookup.url."},
    {.name = "repeat_is_safe",
     .kinds = ANY,
     .set = operator_set_flag,
     .offset = IN_CONFIG(properties.repeat_is_safe),
     .shape = "true, false",
     .help = "Whether it knows a reference again, so that two submissions deliver once. Native: "
             "true, else false."},
    NUMBER_ROW("lookup_settles_ms", ANY, lookup_settles_ms, 0, 60000,
               "How long after a submission its \"not found\" means nothing yet. Default: "
               "OPERATOR_LOOKUP_SETTLES_MS."),
    NUMBER_ROW("timeout_ms", ANY, timeout_ms, 50, 60000,
               "Longest wait for one call. Default: OPERATOR_TIMEOUT_MS."),
    NUMBER_ROW("tries", ANY, tries, 1, 20,
               "Tries before the next operator is used. Default: OPERATOR_TRIES."),
    NUMBER_ROW("in_flight_normal", ANY, in_flight_normal, 1, 20000,
               "Normal messages on their way at a time. Default: OPERATOR_MAX_IN_FLIGHT."),
    NUMBER_ROW("in_flight_express", ANY, in_flight_express, 1, 20000,
               "Express messages on their way at a time. Default: "
               "OPERATOR_MAX_IN_FLIGHT_EXPRESS."),
    NUMBER_ROW("tps", ANY, tps, 0, 100000,
               "Submissions a second from each msg-consumerd; what is beyond waits. 0, the "
               "default: any number."),
    {.name = NULL},
};

static const struct operator_key *const tables[] = {keys, operator_receipt_keys};

const struct operator_key *operator_key_find(const char *name)
{
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
        for (const struct operator_key *key = tables[i]; key->name; key++)
            if (!strcmp(key->name, name))
                return key;
    return NULL;
}

void operator_keys_print_markdown(FILE *to)
{
    fprintf(to, "| key | of | value | meaning |\n| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        for (const struct operator_key *key = tables[i]; key->name; key++) {
            fprintf(to, "| `%s` | %s | %s", key->name, key->kinds == ANY ? "any" : "http",
                    key->shape);
            if (key->set == operator_set_number)
                fprintf(to, " from %lld to %lld", (long long)key->min, (long long)key->max);
            fprintf(to, " | %s |\n", key->help);
        }
    }
}
