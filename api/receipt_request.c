#include "api/receipt_request.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libcommon/base/json_path.h"
#include "libcommon/base/utf8.h"
#include "libcommon/domain/receipt_address.h"

#define SIGNATURE_MAX 128 /* bytes, as text */

/* ---- who brings it ---- */

/* Takes as long whatever is wrong; only the length shows. */
static bool is_same(const char *a, size_t a_len, const char *b, size_t b_len)
{
    return a_len == b_len && CRYPTO_memcmp(a, b, a_len) == 0;
}

static bool is_from(const struct operator_receipts *rules, const char *peer)
{
    struct address address;

    return address_parse(peer, strlen(peer), &address) &&
           networks_have(rules->from, rules->from_count, &address);
}

static bool has_secret(const struct operator_receipts *rules, const char *secret)
{
    return *rules->secret && is_same(secret, strlen(secret), rules->secret, strlen(rules->secret));
}

static size_t put_base64(const unsigned char *bytes, size_t n, char *out)
{
    return (size_t)EVP_EncodeBlock((unsigned char *)out, bytes, (int)n);
}

static bool has_basic(const struct operator_receipts *rules, const struct receipt_request *request)
{
    const char *given = request->header(request->arg, "Authorization");
    size_t n = strlen(rules->basic);
    char *wanted;
    size_t len;
    bool ok;

    if (!given || strncasecmp(given, "Basic ", 6) != 0)
        return false;
    given += 6 + strspn(given + 6, " ");
    wanted = malloc(4 * ((n + 2) / 3) + 1);
    if (!wanted)
        return false;
    len = put_base64((const unsigned char *)rules->basic, n, wanted);
    ok = is_same(given, strlen(given), wanted, len);
    OPENSSL_cleanse(wanted, len);
    free(wanted);
    return ok;
}

static const EVP_MD *digest_of(enum operator_digest digest)
{
    switch (digest) {
    case OPERATOR_SHA1:
        return EVP_sha1();
    case OPERATOR_SHA512:
        return EVP_sha512();
    default:
        return EVP_sha256();
    }
}

static bool put_form(struct buf *out, const struct receipt_request *request)
{
    struct receipt_form form;
    bool ok = receipt_form_read(&form, request->body, request->body_len);

    if (ok)
        receipt_form_put_sorted(&form, out);
    receipt_form_free(&form);
    return ok;
}

/* What the signature is over. False: there is no such thing. */
static bool put_signed(const struct operator_receipts *rules, const struct receipt_request *request,
                       struct buf *out)
{
    for (size_t i = 0; i < rules->over_count; i++) {
        const struct operator_signed *piece = &rules->over[i];
        const char *text = piece->text;

        switch (piece->part) {
        case OPERATOR_SIGNED_BODY:
            buf_put(out, request->body, request->body_len);
            break;
        case OPERATOR_SIGNED_URL:
            buf_puts(out, request->public_url);
            buf_puts(out, request->target);
            break;
        case OPERATOR_SIGNED_FORM:
            if (!put_form(out, request))
                return false;
            break;
        case OPERATOR_SIGNED_HEADER:
            text = request->header(request->arg, piece->text);
            if (!text)
                return false;
            buf_puts(out, text);
            break;
        default:
            buf_puts(out, text);
        }
    }
    return !out->failed;
}

static size_t put_signature(const struct operator_receipts *rules, const unsigned char *bytes,
                            size_t n, char out[SIGNATURE_MAX + 1])
{
    if (rules->base64)
        return put_base64(bytes, n, out);
    for (size_t i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    return 2 * n;
}

/* "sha256=" before it is usual, and hexadecimal digits come in either case. */
static size_t take_signature(const struct operator_receipts *rules, const char *given,
                             char out[SIGNATURE_MAX + 1])
{
    static const char *const names[] = {"sha1=", "sha256=", "sha512="};
    size_t n;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (!strncasecmp(given, names[i], strlen(names[i]))) {
            given += strlen(names[i]);
            break;
        }
    }
    n = strlen(given);
    if (n > SIGNATURE_MAX)
        return 0;
    for (size_t i = 0; i <= n; i++)
        out[i] = (char)(!rules->base64 && given[i] >= 'A' && given[i] <= 'F' ? given[i] | 0x20
                                                                             : given[i]);
    return n;
}

static bool has_signature(const struct operator_receipts *rules,
                          const struct receipt_request *request)
{
    const char *header = request->header(request->arg, rules->header);
    unsigned char bytes[EVP_MAX_MD_SIZE];
    char wanted[SIGNATURE_MAX + 1];
    char given[SIGNATURE_MAX + 1];
    struct buf text = {0};
    unsigned n = 0;
    size_t given_len, wanted_len;
    bool ok;

    given_len = header ? take_signature(rules, header, given) : 0;
    ok = given_len && *rules->key && put_signed(rules, request, &text) &&
         HMAC(digest_of(rules->digest), rules->key, (int)strlen(rules->key),
              (const unsigned char *)(text.data ? text.data : ""), text.len, bytes, &n);
    buf_free(&text);
    if (!ok)
        return false;
    wanted_len = put_signature(rules, bytes, n, wanted);
    return is_same(given, given_len, wanted, wanted_len);
}

bool receipt_request_is_genuine(const struct operator_receipts *rules,
                                const struct receipt_request *request)
{
    if (!rules->from && !rules->secret && !rules->basic && !rules->digest)
        return false;
    return (!rules->from || is_from(rules, request->peer)) &&
           (rules->secret ? has_secret(rules, request->secret) : !*request->secret) &&
           (!rules->basic || has_basic(rules, request)) &&
           (!rules->digest || has_signature(rules, request));
}

/* ---- what it says ---- */

/* At most size - 1 bytes of it, whole characters, and no control characters: it is shown. */
static void copy_text(char *out, size_t size, const char *text)
{
    size_t left = text ? strlen(text) : 0;
    size_t n = 0;

    while (left) {
        size_t length = utf8_character(text, left);
        size_t step = length ? length : 1;

        if (n + step >= size)
            break;
        if (length && !utf8_is_control(text, length)) {
            memcpy(out + n, text, length);
            n += length;
        } else {
            out[n++] = length ? ' ' : '?';
        }
        text += step;
        left -= step;
    }
    out[n] = '\0';
}

static const char *get(const struct operator_spot *spot, struct operator_answer *answer,
                       char out[JSON_SCALAR_MAX])
{
    const char *text = spot ? operator_spot_get(spot, answer, out) : NULL;

    return text ? text : "";
}

static enum operator_receipt_says judge(const struct operator_receipts *rules,
                                        struct operator_answer *answer)
{
    for (size_t i = 0; i < rules->rule_count; i++)
        if (operator_condition_holds(rules->rules[i].condition, answer))
            return rules->rules[i].says;
    return OPERATOR_RECEIPT_SAYS;
}

static const char *reason_of(const struct operator_receipts *rules, struct operator_answer *answer)
{
    for (size_t i = 0; i < rules->reason_count; i++)
        if (operator_condition_holds(rules->reasons[i].condition, answer))
            return rules->reasons[i].name;
    return "failed";
}

/* "<message>-<position>": what the operator got of us, without a mac. */
static bool read_plain(const char *text, struct receipt_reference *out)
{
    const char *dash = strrchr(text, '-');
    size_t n = dash ? (size_t)(dash - text) : 0;
    size_t digits = dash ? strlen(dash + 1) : 0;

    if (!n || n > MESSAGE_ID_MAX || !digits || digits > 9 ||
        strspn(dash + 1, "0123456789") != digits)
        return false;
    memcpy(out->message_id, text, n);
    out->message_id[n] = '\0';
    out->position = (unsigned)strtoul(dash + 1, NULL, 10);
    return true;
}

static bool read_reference(const struct receipt_reader *reader, const char *text,
                           struct receipt_reference *out)
{
    if (receipt_reference_read(text, strlen(text), reader->reference_key, reader->operator_name,
                               out))
        return true;
    return reader->rules->plain_reference && read_plain(text, out);
}

/* What it is about: by the reference that it has in itself, or in the address. False: nothing, and
 * it is counted. */
static bool identify(struct receipt_reader *reader, struct operator_answer *answer,
                     const char *in_address, struct recipient_receipt *r)
{
    char text[JSON_SCALAR_MAX];
    struct receipt_reference reference;
    const char *given = get(reader->rules->reference, answer, text);

    if (!*given)
        given = in_address;
    if (*given) {
        if (!read_reference(reader, given, &reference)) {
            reader->forged++;
            return false;
        }
        snprintf(r->message_id, sizeof(r->message_id), "%s", reference.message_id);
        r->position = reference.position;
    }
    operator_receipts_match_id(reader->rules, false, get(reader->rules->id, answer, text),
                               r->match_id);
    if (!utf8_ok(r->match_id, strlen(r->match_id)))
        *r->match_id = '\0';
    if (*r->message_id || *r->match_id)
        return true;
    reader->unreadable++;
    return false;
}

static void take_details(const struct receipt_reader *reader, struct operator_answer *answer,
                         struct recipient_receipt *r)
{
    char text[JSON_SCALAR_MAX];

    copy_text(r->code, sizeof(r->code), get(reader->rules->code, answer, text));
    copy_text(r->words, sizeof(r->words), get(reader->rules->words, answer, text));
    copy_text(r->part, sizeof(r->part), get(reader->rules->part, answer, text));
    if (!*r->part)
        snprintf(r->part, sizeof(r->part), "%s", r->match_id);
    if (!r->delivered)
        snprintf(r->reason, sizeof(r->reason), "%s", reason_of(reader->rules, answer));
}

static bool make_room(struct receipt_reader *reader)
{
    size_t room = reader->room ? 2 * reader->room : 1;
    struct recipient_receipt *receipts;

    if (reader->n < reader->room)
        return true;
    receipts = realloc(reader->receipts, room * sizeof(*receipts));
    if (!receipts)
        return false;
    reader->receipts = receipts;
    reader->room = room;
    return true;
}

static enum receipt_reading read_one(struct receipt_reader *reader, struct operator_answer *answer,
                                     const char *in_address)
{
    enum operator_receipt_says says = judge(reader->rules, answer);
    struct recipient_receipt *r;
    char text[JSON_SCALAR_MAX];

    if (says == OPERATOR_RECEIPT_INTERIM) {
        reader->interim++;
        return RECEIPT_READ_OK;
    }
    if (says == OPERATOR_RECEIPT_SAYS) {
        reader->unclear++;
        copy_text(reader->unclear_code, sizeof(reader->unclear_code),
                  get(reader->rules->code, answer, text));
        return RECEIPT_READ_OK;
    }
    if (reader->n == reader->most)
        return RECEIPT_READ_TOO_MANY;
    if (!make_room(reader))
        return RECEIPT_READ_NO_MEMORY;
    r = &reader->receipts[reader->n];
    *r = (struct recipient_receipt){.delivered = says == OPERATOR_RECEIPT_DELIVERED,
                                    .rule = reader->rules->parts};
    snprintf(r->operator_name, sizeof(r->operator_name), "%s", reader->operator_name);
    if (identify(reader, answer, in_address, r)) {
        take_details(reader, answer, r);
        reader->n++;
    }
    return RECEIPT_READ_OK;
}

/* ---- from a request to its receipts ---- */

/* A value of JSON, as if it were all of an answer's body. */
static enum receipt_reading read_value(struct receipt_reader *reader, json_t *value,
                                       const struct receipt_request *request,
                                       const char *in_address)
{
    struct operator_answer answer;
    enum receipt_reading reading;

    operator_answer_begin(&answer, 0, request->body, request->body_len, true);
    answer.json = json_incref(value);
    answer.json_read = true;
    reading = read_one(reader, &answer, in_address);
    operator_answer_end(&answer);
    return reading;
}

/* A reference in the address is of one receipt. */
static enum receipt_reading read_json(struct receipt_reader *reader, json_t *root,
                                      const struct receipt_request *request, const char *in_address)
{
    const json_t *list =
        reader->rules->each.steps ? json_path_get(&reader->rules->each, root) : root;
    enum receipt_reading reading = RECEIPT_READ_OK;
    size_t n = json_array_size(list);

    if (!list || (reader->rules->each.steps && !json_is_array(list))) {
        reader->unreadable++;
        return RECEIPT_READ_OK;
    }
    if (!json_is_array(list))
        return read_value(reader, root, request, in_address);
    for (size_t i = 0; i < n && reading == RECEIPT_READ_OK; i++)
        reading = read_value(reader, json_array_get(list, i), request, n == 1 ? in_address : "");
    return reading;
}

/* Words in a carrier's own alphabet are not what matters: what is not UTF-8 becomes '?'. */
static void put_utf8(struct buf *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t length = utf8_character(s + i, n - i);

        if (length)
            buf_put(out, s + i, length);
        else
            buf_putc(out, '?');
        i += length ? length : 1;
    }
}

static enum receipt_reading parse_json(const struct receipt_request *request, json_t **root)
{
    bool as_it_is = utf8_ok(request->body, request->body_len);
    bool no_memory = false;
    struct buf text = {0};

    if (!as_it_is)
        put_utf8(&text, request->body, request->body_len);
    if (!text.failed)
        *root =
            json_read(as_it_is ? request->body : text.data, as_it_is ? request->body_len : text.len,
                      JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &no_memory);
    no_memory = no_memory || text.failed;
    buf_free(&text);
    return no_memory ? RECEIPT_READ_NO_MEMORY : RECEIPT_READ_OK;
}

static enum receipt_reading parse_form(const struct receipt_request *request, json_t **root)
{
    enum receipt_reading reading = RECEIPT_READ_NO_MEMORY;
    struct receipt_form form;

    if (receipt_form_read(&form, request->body, request->body_len)) {
        *root = receipt_form_json(&form);
        reading = *root ? RECEIPT_READ_OK : RECEIPT_READ_NO_MEMORY;
    } else if (form.text) {
        reading = RECEIPT_READ_OK;
    }
    receipt_form_free(&form);
    return reading;
}

/* *root stays as it is where there is nothing of that kind. */
static enum receipt_reading parse(const struct receipt_reader *reader,
                                  const struct receipt_request *request,
                                  const struct receipt_form *query, json_t **root)
{
    if (reader->rules->format == OPERATOR_RECEIPT_JSON)
        return parse_json(request, root);
    if (reader->rules->format == OPERATOR_RECEIPT_QUERY || request->is_get) {
        *root = receipt_form_json(query);
        return *root ? RECEIPT_READ_OK : RECEIPT_READ_NO_MEMORY;
    }
    return parse_form(request, root);
}

/* What is too long for a reference stays too long. */
static void find_in_address(const struct receipt_form *query, char *out, size_t size)
{
    *out = '\0';
    for (size_t i = 0; i < query->n; i++) {
        const struct receipt_field *f = &query->fields[i];
        size_t n = f->value_len < size ? f->value_len : size - 1;

        if (f->name_len == strlen(RECEIPT_PARAMETER) &&
            !memcmp(f->name, RECEIPT_PARAMETER, f->name_len)) {
            memcpy(out, f->value, n);
            out[n] = '\0';
        }
    }
}

static enum receipt_reading read_request(struct receipt_reader *reader,
                                         const struct receipt_request *request,
                                         const struct receipt_form *query)
{
    char in_address[RECEIPT_REFERENCE_SIZE + 1];
    enum receipt_reading reading;
    json_t *root = NULL;

    find_in_address(query, in_address, sizeof(in_address));
    reading = parse(reader, request, query, &root);
    if (root)
        reading = read_json(reader, root, request, in_address);
    else if (reading == RECEIPT_READ_OK)
        reader->unreadable++;
    json_decref(root);
    return reading;
}

enum receipt_reading receipt_request_read(struct receipt_reader *reader,
                                          const struct receipt_request *request)
{
    enum receipt_reading reading = RECEIPT_READ_NO_MEMORY;
    struct receipt_form query;

    reader->n = reader->interim = reader->unclear = reader->unreadable = reader->forged = 0;
    if (receipt_form_read(&query, request->query, strlen(request->query))) {
        reading = read_request(reader, request, &query);
    } else if (query.text) {
        reader->unreadable++;
        reading = RECEIPT_READ_OK;
    }
    receipt_form_free(&query);
    return reading;
}
