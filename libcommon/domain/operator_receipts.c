#include "libcommon/domain/operator_receipts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/domain/operator_keys.h"

#define WHY_SIZE 256

/* ---- words ---- */

static const char *const formats[OPERATOR_RECEIPT_FORMATS] = {
    [OPERATOR_RECEIPT_JSON] = "json",
    [OPERATOR_RECEIPT_FORM] = "form",
    [OPERATOR_RECEIPT_QUERY] = "query",
};
static const char *const id_forms[OPERATOR_ID_FORMS] = {
    [OPERATOR_ID_TEXT] = "text",
    [OPERATOR_ID_DECIMAL] = "decimal",
    [OPERATOR_ID_HEXADECIMAL] = "hexadecimal",
};
static const char *const part_rules[] = {
    [RECEIPT_PARTS_ALL] = "all",
    [RECEIPT_PARTS_FIRST] = "first",
    [RECEIPT_PARTS_LAST] = "last",
};
static const char *const reference_forms[] = {"signed", "plain"};
static const char *const digests[] = {"sha1", "sha256", "sha512"}; /* from OPERATOR_SHA1 on */
static const char *const signature_forms[] = {"hexadecimal", "base64"};

/* Why something was not delivered, in words that are the same for every operator. */
static const char *const reasons[] = {
    "expired",  "unreachable", "unknown_number", "barred", "opted_out",
    "filtered", "rejected",    "network",        "failed",
};

#define COUNT(words) (sizeof(words) / sizeof((words)[0]))

static size_t word_at(const char *const *words, size_t n, const char *text, size_t len)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(words[i]) == len && !memcmp(words[i], text, len))
            return i;
    return n;
}

static void list_words(const char *const *words, size_t n, char *out, size_t size)
{
    size_t at = 0;

    *out = '\0';
    for (size_t i = 0; i < n && at < size; i++) {
        const char *before = !i ? "" : i + 1 < n ? ", " : " or ";

        at += (size_t)snprintf(out + at, size - at, "%s%s", before, words[i]);
    }
}

/* The place of a value among words; false: it is none of them, and a fault. */
static bool take_word(struct operator_draft *d, const struct operator_key *key,
                      const struct operator_text *text, const char *const *words, size_t n,
                      size_t *place)
{
    char list[WHY_SIZE];

    *place = word_at(words, n, text->value, strlen(text->value));
    if (*place < n)
        return true;
    list_words(words, n, list, sizeof(list));
    operator_draft_fault(d, key->name, text->line, "must be %s", list);
    return false;
}

static struct operator_receipts *receipts_of(struct operator_draft *d)
{
    return &d->op->receipts;
}

/* ---- what stands where ---- */

static void set_format(struct operator_draft *d, const struct operator_key *key,
                       const struct operator_text *text)
{
    size_t place;

    receipts_of(d)->given = true;
    if (take_word(d, key, text, formats, COUNT(formats), &place))
        receipts_of(d)->format = (enum operator_receipt_format)place;
}

static void set_each(struct operator_draft *d, const struct operator_key *key,
                     const struct operator_text *text)
{
    char why[WHY_SIZE];

    if (!json_path_compile(&receipts_of(d)->each, text->value, strlen(text->value), why,
                           sizeof(why)))
        operator_draft_fault(d, key->name, text->line, "%s", why);
}

static void set_reference_form(struct operator_draft *d, const struct operator_key *key,
                               const struct operator_text *text)
{
    size_t place;

    if (take_word(d, key, text, reference_forms, COUNT(reference_forms), &place))
        receipts_of(d)->plain_reference = place == 1;
}

static void set_id_form(struct operator_draft *d, const struct operator_key *key,
                        const struct operator_text *text)
{
    enum operator_id_form *form = (void *)((char *)d->op + key->offset);
    size_t place;

    if (take_word(d, key, text, id_forms, COUNT(id_forms), &place))
        *form = (enum operator_id_form)place;
}

static void set_parts(struct operator_draft *d, const struct operator_key *key,
                      const struct operator_text *text)
{
    size_t place;

    if (take_word(d, key, text, part_rules, COUNT(part_rules), &place))
        receipts_of(d)->parts = (enum receipt_parts)place;
}

/* ---- rules ---- */

/* NULL: a fault, or there are as many as there may be. */
static struct operator_condition *compile(struct operator_draft *d, const struct operator_key *key,
                                          const struct operator_text *text, const char *condition,
                                          size_t count, size_t most)
{
    char why[WHY_SIZE];
    struct operator_condition *c;

    if (count == most) {
        operator_draft_fault(d, key->name, text->line, "is more than the %zu that there may be",
                             most);
        return NULL;
    }
    c = operator_condition_compile(condition, why, sizeof(why));
    if (!c)
        operator_draft_fault(d, key->name, text->line, "%s", why);
    return c;
}

static void set_rule(struct operator_draft *d, const struct operator_key *key,
                     const struct operator_text *text)
{
    struct operator_receipts *r = receipts_of(d);
    struct operator_condition *c =
        compile(d, key, text, text->value, r->rule_count, OPERATOR_RECEIPT_RULES_MAX);

    if (c)
        r->rules[r->rule_count++] =
            (struct operator_receipt_rule){(enum operator_receipt_says)key->word, c};
}

static const char *skip_blanks(const char *s)
{
    return s + strspn(s, " \t");
}

/* "expired when CONDITION" */
static void set_reason(struct operator_draft *d, const struct operator_key *key,
                       const struct operator_text *text)
{
    static const char when[] = "when ";
    struct operator_receipts *r = receipts_of(d);
    size_t len = strcspn(text->value, " \t");
    size_t place = word_at(reasons, COUNT(reasons), text->value, len);
    const char *rest = skip_blanks(text->value + len);
    struct operator_condition *c;
    char list[WHY_SIZE];

    if (place == COUNT(reasons) || strncmp(rest, when, strlen(when)) != 0) {
        list_words(reasons, COUNT(reasons), list, sizeof(list));
        operator_draft_fault(d, key->name, text->line,
                             "must be a reason, `when` and a condition; reasons are %s", list);
        return;
    }
    c = compile(d, key, text, rest + strlen(when), r->reason_count, OPERATOR_RECEIPT_REASONS_MAX);
    if (c)
        r->reasons[r->reason_count++] = (struct operator_receipt_reason){reasons[place], c};
}

/* ---- who brings them ---- */

static void set_from(struct operator_draft *d, const struct operator_key *key,
                     const struct operator_text *text)
{
    struct operator_receipts *r = receipts_of(d);
    char why[WHY_SIZE];

    if (networks_check(text->value, why, sizeof(why)))
        r->from = networks_parse(text->value, &r->from_count);
    else
        operator_draft_fault(d, key->name, text->line, "%s", why);
}

/* The text of a value that may hold secrets. They are known where they are needed. */
static char *plain_text(struct operator_draft *d, const struct operator_key *key,
                        const struct operator_text *text)
{
    static const struct operator_values nobody = {.text = "",
                                                  .to = "",
                                                  .reference = "",
                                                  .type = "",
                                                  .receipt_url = "",
                                                  .signed_reference = ""};
    struct operator_template template = {0};
    struct buf out = {0};
    char *plain;

    operator_draft_compile(d, key->name, text, OPERATOR_IN_HEADER, (enum operator_part)key->word,
                           &template);
    if (operator_template_is_constant(&template))
        operator_template_put(&template, &nobody, &out);
    else
        operator_draft_fault(d, key->name, text->line, "must be the same for every message");
    operator_template_free(&template);
    MUST(!out.failed);
    plain = must_strdup(out.len ? out.data : "");
    if (out.data)
        explicit_bzero(out.data, out.cap);
    buf_free(&out);
    return plain;
}

static void wipe(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

static void set_secret_text(struct operator_draft *d, const struct operator_key *key,
                            const struct operator_text *text)
{
    char **to = (void *)((char *)d->op + key->offset);

    wipe(*to);
    *to = plain_text(d, key, text);
}

static void set_digest(struct operator_draft *d, const struct operator_key *key,
                       const struct operator_text *text)
{
    size_t place;

    if (take_word(d, key, text, digests, COUNT(digests), &place))
        receipts_of(d)->digest = (enum operator_digest)(OPERATOR_SHA1 + place);
}

static void set_header(struct operator_draft *d, const struct operator_key *key,
                       const struct operator_text *text)
{
    (void)key;
    free(receipts_of(d)->header);
    receipts_of(d)->header = must_strdup(text->value);
}

static void set_signature_form(struct operator_draft *d, const struct operator_key *key,
                               const struct operator_text *text)
{
    size_t place;

    if (take_word(d, key, text, signature_forms, COUNT(signature_forms), &place))
        receipts_of(d)->base64 = place == 1;
}

static bool read_signed(const char *word, size_t n, struct operator_signed *out)
{
    static const struct {
        const char *word;
        enum operator_signed_part part;
        bool with_text;
    } parts[] = {{"body", OPERATOR_SIGNED_BODY, false},
                 {"url", OPERATOR_SIGNED_URL, false},
                 {"form", OPERATOR_SIGNED_FORM, false},
                 {"header:", OPERATOR_SIGNED_HEADER, true},
                 {"text:", OPERATOR_SIGNED_TEXT, true}};

    for (size_t i = 0; i < COUNT(parts); i++) {
        size_t len = strlen(parts[i].word);

        if (n < len || memcmp(word, parts[i].word, len) != 0 || parts[i].with_text != (n > len))
            continue;
        out->part = parts[i].part;
        out->text = parts[i].with_text ? strndup(word + len, n - len) : NULL;
        MUST(out->text || !parts[i].with_text);
        return true;
    }
    return false;
}

static void set_over(struct operator_draft *d, const struct operator_key *key,
                     const struct operator_text *text)
{
    struct operator_receipts *r = receipts_of(d);

    for (const char *at = skip_blanks(text->value); *at;) {
        size_t n = strcspn(at, " \t");

        if (r->over_count == OPERATOR_SIGNED_PARTS_MAX ||
            !read_signed(at, n, &r->over[r->over_count])) {
            operator_draft_fault(d, key->name, text->line,
                                 "must be up to %d of body, url, form, header:NAME and text:TEXT",
                                 OPERATOR_SIGNED_PARTS_MAX);
            return;
        }
        r->over_count++;
        at = skip_blanks(at + n);
    }
}

/* ---- the table ---- */

#define ANY OPERATOR_ANY_KIND
#define IN_RECEIPTS(field_) \
    (offsetof(struct operator_config, receipts) + offsetof(struct operator_receipts, field_))
#define RULE_ROW(name_, says_, help_)                                                              \
    {                                                                                              \
        .name = (name_), .kinds = ANY, .repeated = true, .joined_by_blank = true, .set = set_rule, \
        .word = (says_), .shape = "condition", .help = (help_)                                     \
    }
#define SPOT_ROW(name_, field_, help_)                                                          \
    {                                                                                           \
        .name = (name_), .kinds = ANY, .set = operator_set_spot, .offset = IN_RECEIPTS(field_), \
        .shape = "json:PATH or body:REGEX", .help = (help_)                                     \
    }
#define SECRET_ROW(name_, field_, parts_, shape_, help_)                                      \
    {                                                                                         \
        .name = (name_), .kinds = ANY, .set = set_secret_text, .offset = IN_RECEIPTS(field_), \
        .word = (parts_), .shape = (shape_), .help = (help_)                                  \
    }
#define ROW(name_, set_, shape_, help_)                                                  \
    {                                                                                    \
        .name = (name_), .kinds = ANY, .set = (set_), .shape = (shape_), .help = (help_) \
    }
#define ID_ROW(name_, field_, help_)                                                      \
    {                                                                                     \
        .name = (name_), .kinds = ANY, .set = set_id_form, .offset = IN_RECEIPTS(field_), \
        .shape = "text, decimal, hexadecimal", .help = (help_)                            \
    }

const struct operator_key operator_receipt_keys[] = {
    ROW("receipt.format", set_format, "json, form, query",
        "Where a receipt stands in a request: in its body as JSON or as a form (in the query of a "
        "GET), or in the query whatever the body is. The operator gives receipts where this key "
        "is there. The fields of a form and of a query are read as members of a JSON object: "
        "`json:status`."),
    ROW("receipt.each", set_each, "path",
        "The array of receipts in the JSON body, as `results`. Without it a body that is an array "
        "has a receipt in each place, and any other one is a receipt."),
    RULE_ROW("receipt.delivered", OPERATOR_RECEIPT_DELIVERED,
             "The message has arrived. Rules are judged in the order of the file, and the first "
             "that holds counts. May be there more than once, like the next two."),
    RULE_ROW("receipt.undelivered", OPERATOR_RECEIPT_UNDELIVERED,
             "It has not arrived, and will not."),
    RULE_ROW("receipt.interim", OPERATOR_RECEIPT_INTERIM,
             "It is on its way: counted, and nothing else."),
    {.name = "receipt.reason",
     .kinds = ANY,
     .repeated = true,
     .joined_by_blank = true,
     .set = set_reason,
     .shape = "REASON when condition",
     .help = "Why it has not arrived, in our words: `expired`, `unreachable`, `unknown_number`, "
             "`barred`, `opted_out`, `filtered`, `rejected`, `network` or, without a rule that "
             "holds, `failed`."},
    SPOT_ROW("receipt.reference", reference,
             "Where our reference stands, when the operator echoes it beside the address. In the "
             "address it is found anyway."),
    ROW("receipt.reference_form", set_reference_form, "signed, plain",
        "`plain`: the reference comes without its signature, as the operator got it "
        "(`%{reference}`). Whoever brings receipts must then be known by a signature, basic "
        "credentials or the path's secret."),
    SPOT_ROW("receipt.id", id, "Where the operator's identifier of the message stands."),
    ID_ROW("receipt.answer_id_form", answer_id,
           "How the identifier reads in the answer to a submission: `text` matches as it stands, "
           "a number whatever its base and its leading zeros are."),
    ID_ROW("receipt.id_form", receipt_id, "How it reads in a receipt."),
    SPOT_ROW("receipt.code", code, "Where the operator's own code stands; up to 32 bytes of it."),
    SPOT_ROW("receipt.words", words, "Where its own words stand; up to 160 bytes of them."),
    ROW("receipt.parts", set_parts, "all, first, last",
        "Of a message in parts that each get a receipt: which have to be delivered."),
    SPOT_ROW("receipt.part", part,
             "Where the part's number stands; without it parts are told apart by the identifier."),
    ROW("receipt.from", set_from, "networks",
        "Addresses that receipts come from, as `192.0.2.0/24,2001:db8::/32`. Of this key, "
        "receipt.secret, receipt.basic and receipt.signature at least one is needed, and all that "
        "are there have to be right."),
    SECRET_ROW("receipt.secret", secret, OPERATOR_SENDING | OPERATOR_RECEIVING, "text, template",
               "The end of the path that receipts come to; `%{receipt_url}` has it. Letters, "
               "digits, - and _."),
    SECRET_ROW("receipt.basic", basic, OPERATOR_RECEIVING, "user:password, template",
               "Basic credentials."),
    ROW("receipt.signature", set_digest, "sha1, sha256, sha512",
        "The digest of the HMAC that each request is signed with."),
    SECRET_ROW("receipt.signature_key", key, OPERATOR_RECEIVING, "text, template", "Its key."),
    ROW("receipt.signature_header", set_header, "name", "The header that it comes in."),
    ROW("receipt.signature_form", set_signature_form, "hexadecimal, base64",
        "How it is written there."),
    ROW("receipt.signature_of", set_over, "body, url, form, header:NAME, text:TEXT",
        "What it is over, one after the other; `body` where the key is absent. `url` is "
        "RECEIPTS_PUBLIC_URL with path and query as they came, `form` the names and values of the "
        "body's fields, sorted by name."),
    {.name = NULL},
};

/* ---- the whole ---- */

static bool is_path_word(const char *s)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    return *s && !s[strspn(s, allowed)];
}

static void fault(struct operator_draft *d, const char *key, const char *why)
{
    operator_draft_fault(d, key, d->op->line, "%s", why);
}

static void check_signature(struct operator_draft *d, struct operator_receipts *r)
{
    if (!r->digest) {
        if (r->key || r->header || r->over_count)
            fault(d, "receipt.signature", "is missing, and other keys say something of it");
        return;
    }
    if (!r->key || (d->how->parts & OPERATOR_RECEIVING && !*r->key))
        fault(d, "receipt.signature_key", "is missing");
    if (!r->header || !*r->header)
        fault(d, "receipt.signature_header", "is missing");
    if (!r->over_count)
        r->over[r->over_count++] = (struct operator_signed){.part = OPERATOR_SIGNED_BODY};
}

static void check_access(struct operator_draft *d, struct operator_receipts *r)
{
    bool known = d->how->parts & (OPERATOR_RECEIVING | OPERATOR_SENDING);

    if (!r->from && !r->secret && !r->basic && !r->digest)
        fault(d, "receipt.format",
              "needs one of receipt.from, receipt.secret, receipt.basic and receipt.signature: "
              "else anybody may bring receipts");
    if (r->plain_reference && !r->secret && !r->basic && !r->digest)
        fault(d, "receipt.reference_form",
              "is plain, which needs receipt.secret, receipt.basic or receipt.signature");
    if (r->secret && known && !is_path_word(r->secret))
        fault(d, "receipt.secret", "must be of letters, digits, - and _");
    if (r->basic && d->how->parts & OPERATOR_RECEIVING && !strchr(r->basic, ':'))
        fault(d, "receipt.basic", "must be user:password");
    check_signature(d, r);
}

static bool has_rule(const struct operator_receipts *r, enum operator_receipt_says says)
{
    for (size_t i = 0; i < r->rule_count; i++)
        if (r->rules[i].says == says)
            return true;
    return false;
}

static bool says_anything(const struct operator_receipts *r)
{
    return r->rule_count || r->reason_count || r->reference || r->id || r->code || r->words ||
           r->part || r->from || r->secret || r->basic || r->digest || r->each.steps;
}

void operator_receipts_finish(struct operator_draft *d)
{
    struct operator_receipts *r = receipts_of(d);

    if (!r->given) {
        if (says_anything(r))
            fault(d, "receipt.format", "is missing, and other keys say something of receipts");
        return;
    }
    if (!has_rule(r, OPERATOR_RECEIPT_DELIVERED))
        fault(d, "receipt.delivered", "is missing");
    if (!has_rule(r, OPERATOR_RECEIPT_UNDELIVERED))
        fault(d, "receipt.undelivered", "is missing");
    if ((r->answer_id == OPERATOR_ID_TEXT) != (r->receipt_id == OPERATOR_ID_TEXT))
        fault(d, "receipt.id_form",
              "and receipt.answer_id_form must both be text, or both be numbers");
    if (r->format != OPERATOR_RECEIPT_JSON && r->each.steps)
        fault(d, "receipt.each", "is for receipts in JSON");
    check_access(d, r);
}

void operator_receipts_free(struct operator_receipts *r)
{
    for (size_t i = 0; i < r->rule_count; i++)
        operator_condition_free(r->rules[i].condition);
    for (size_t i = 0; i < r->reason_count; i++)
        operator_condition_free(r->reasons[i].condition);
    for (size_t i = 0; i < r->over_count; i++)
        free(r->over[i].text);
    operator_spot_free(r->reference);
    operator_spot_free(r->id);
    operator_spot_free(r->code);
    operator_spot_free(r->words);
    operator_spot_free(r->part);
    json_path_free(&r->each);
    free(r->from);
    free(r->header);
    wipe(r->secret);
    wipe(r->basic);
    wipe(r->key);
    *r = (struct operator_receipts){0};
}

/* ---- identifiers ---- */

/* Digits of that base, and nothing else, as far as 64 bits go. */
static bool read_number(const char *s, enum operator_id_form form, unsigned long long *number)
{
    bool hex = form == OPERATOR_ID_HEXADECIMAL;

    if (hex && s[0] == '0' && (s[1] == 'x' || s[1] == 'X'))
        s += 2;
    if (!*s || s[strspn(s, hex ? "0123456789abcdefABCDEF" : "0123456789")])
        return false;
    errno = 0;
    *number = strtoull(s, NULL, hex ? 16 : 10);
    return !errno;
}

void operator_receipts_match_id(const struct operator_receipts *r, bool answered, const char *id,
                                char out[RECEIPT_MATCH_MAX + 1])
{
    enum operator_id_form form = answered ? r->answer_id : r->receipt_id;
    unsigned long long number;

    *out = '\0';
    if (form != OPERATOR_ID_TEXT && read_number(id, form, &number))
        snprintf(out, RECEIPT_MATCH_MAX + 1, "%llu", number);
    else if (strlen(id) <= RECEIPT_MATCH_MAX)
        snprintf(out, RECEIPT_MATCH_MAX + 1, "%s", id);
}
