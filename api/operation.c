#include "api/operation.h"

#include <jansson.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/json_size.h"
#include "libcommon/base/must.h"
#include "libcommon/domain/ledger.h"

/* Of a body: what its names and blanks take, and a recipient with its quotes, comma and blanks. */
#define BODY_FRAME_BYTES 1024
#define BODY_RECIPIENT_BYTES 40
#define VALUES_MAX 64      /* beside recipients: more than there is a use for */
#define ALLOC_BYTES 16     /* that an allocation costs beside what is asked for */
#define RESPONSE_BYTES 256 /* of the answer that its committer writes */
/* Of its rows in a packet. */
#define PACKET_FRAME_BYTES 1024
#define PACKET_RECIPIENT_BYTES 200
#define PACKET_TEXT_TIMES 3 /* it is there twice, escaped */

_Static_assert((int64_t)PRICE_MAX *MESSAGE_RECIPIENTS_MAX <= LEDGER_TOPUP_MAX,
               "what a send costs is an amount");
_Static_assert(OPERATION_DESCRIPTION_MAX <= MESSAGE_TEXT_MAX, "a top-up fits where a send does");

static EVP_MD *sha256;
static pthread_once_t sha256_once = PTHREAD_ONCE_INIT;

/* Fetched once: an implicit fetch on each use is slow in OpenSSL 3. */
static void fetch_sha256(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    MUST(sha256 != NULL);
}

static int refuse(struct operation_fault *fault, const char *field, const char *message)
{
    fault->code = "invalid_input";
    fault->field = field;
    snprintf(fault->message, sizeof(fault->message), "%s", message);
    return -1;
}

/* A place in a body: the name in its object, and behind it the place in a list. */
struct place {
    const char *name;
    size_t name_len;
    size_t index;
    unsigned depth; /* of braces and brackets */
    bool in_list;   /* the second one is a bracket */
    bool in_value;  /* of name, rather than before the next name */
};

/* From an opening quote to the closing one, or to end. */
static const char *skip_string(const char *p, const char *end)
{
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\')
            p++;
    return p < end ? p : end;
}

static void enter(struct place *at, char bracket)
{
    at->depth++;
    if (at->depth == 2) {
        at->in_list = bracket == '[';
        at->index = 0;
    }
}

/* Where a body of clean tokens, an object, ends. jansson says no more than that of its faults. */
static struct place find_end(const char *p, size_t n)
{
    const char *end = p + n;
    struct place at = {0};

    for (; p < end; p++) {
        if (*p == '{' || *p == '[')
            enter(&at, *p);
        else if (*p == '}' || *p == ']')
            at.depth--;
        else if (*p == ':' && at.depth == 1)
            at.in_value = true;
        else if (*p == ',' && at.depth == 1)
            at.in_value = false;
        else if (*p == ',' && at.depth == 2)
            at.index++;
        if (*p != '"')
            continue;
        if (at.depth == 1 && !at.in_value) {
            at.name = p + 1;
            at.name_len = (size_t)(skip_string(p, end) - at.name);
        }
        p = skip_string(p, end);
    }
    return at;
}

/* Names the field that the first n bytes end in. One that is long or escaped is none of ours. */
static void name_field(struct operation_fault *fault, const char *body, size_t n)
{
    struct place at = find_end(body, n);
    int len = (int)at.name_len;

    if (!at.name || at.name_len > sizeof(fault->named) - 24 || memchr(at.name, '\\', at.name_len))
        return;
    if (at.depth > 1 && at.in_list)
        snprintf(fault->named, sizeof(fault->named), "%.*s[%zu]", len, at.name, at.index);
    else
        snprintf(fault->named, sizeof(fault->named), "%.*s", len, at.name);
    fault->field = fault->named;
}

static void refuse_json(struct operation_fault *fault, const char *body, const json_error_t *error)
{
    size_t n = (size_t)error->position;

    switch (json_error_code(error)) {
    case json_error_numeric_overflow:
        refuse(fault, NULL, "The number is out of range.");
        name_field(fault, body, n);
        break;
    case json_error_duplicate_key:
        refuse(fault, NULL, "The name is given twice.");
        name_field(fault, body, n);
        break;
    case json_error_null_byte_in_key:
        refuse(fault, NULL, "A name must not hold NUL.");
        break;
    default:
        fault->code = "invalid_json";
        fault->field = NULL;
        snprintf(fault->message, sizeof(fault->message), "The body is not valid JSON (byte %d).",
                 error->position);
    }
}

/* Of values beyond those that are of any use no document is made. */
static void refuse_surplus(struct operation_fault *fault, const char *body, const char *surplus)
{
    refuse(fault, NULL, "The body holds more values than there is a use for.");
    name_field(fault, body, (size_t)(surplus - body));
}

static json_t *load(const char *body, size_t n, struct operation_fault *fault)
{
    json_error_t error;
    json_t *root = json_loadb(body, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);

    fault->code = NULL;
    if (!root) {
        refuse_json(fault, body, &error);
        return NULL;
    }
    if (json_is_object(root))
        return root;
    refuse(fault, NULL, "The body must be a JSON object.");
    fault->code = "invalid_json";
    json_decref(root);
    return NULL;
}

static struct operation *operation_new(enum operation_kind kind)
{
    struct operation *op = calloc(1, sizeof(*op));

    if (!op)
        return NULL;
    op->kind = kind;
    op->bytes = sizeof(*op) + RESPONSE_BYTES + 2 * ALLOC_BYTES;
    op->packet_bytes = PACKET_FRAME_BYTES;
    return op;
}

/* otherwise: whom a body without the field is about; 0: it must be there. */
static int take_customer(struct operation *op, const json_t *root, const char *field,
                         int64_t otherwise, struct operation_fault *fault)
{
    const json_t *v = json_object_get(root, field);

    if (!v && !otherwise)
        return refuse(fault, field, "This field is required.");
    if (v && (!json_is_integer(v) || json_integer_value(v) <= 0))
        return refuse(fault, field, "Must be a positive whole number.");
    op->customer_id = v ? json_integer_value(v) : otherwise;
    return 0;
}

/* Copies it: the document goes. It holds no NUL. */
static const char *keep_text(struct operation *op, const json_t *text)
{
    size_t n = json_string_length(text);

    op->text = strdup(json_string_value(text));
    op->bytes += n + 1 + ALLOC_BYTES;
    op->packet_bytes += n * PACKET_TEXT_TIMES;
    return op->text;
}

static int take_text(struct operation *op, const json_t *root, struct operation_fault *fault)
{
    const json_t *v = json_object_get(root, "text");

    if (!v)
        return refuse(fault, "text", "This field is required.");
    if (!json_is_string(v) || !message_text_ok(json_string_value(v), json_string_length(v)))
        return refuse(fault, "text", "Must be a string of 1 to 4096 bytes of UTF-8 without NUL.");
    op->message.text = keep_text(op, v);
    op->message.text_len = json_string_length(v);
    return op->text ? 0 : -1;
}

static int take_type(struct operation *op, const json_t *root, struct operation_fault *fault)
{
    const json_t *v = json_object_get(root, "type");

    op->message.type = MESSAGE_NORMAL;
    /* The parser lets a NUL into a string: it ends no name. */
    if (v && (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v) ||
              !message_type_parse(json_string_value(v), &op->message.type)))
        return refuse(fault, "type", "Must be \"normal\" or \"express\".");
    return 0;
}

static uint32_t hash_text(const char *s, uint64_t seed)
{
    uint64_t h = seed;

    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 32);
}

/* Repeated recipients count once; the first one keeps its place. The table's seed is random, so
 * that a client cannot make it degenerate. */
static int keep_distinct(struct operation *op)
{
    size_t n = op->message.recipient_count;
    size_t size = 4;
    size_t kept = 0;
    uint64_t seed = random_u64();
    uint32_t *table;

    while (size < n * 2)
        size *= 2;
    table = calloc(size, sizeof(*table)); /* index + 1 into recipients; 0: free */
    if (!table)
        return -1;
    for (size_t i = 0; i < n; i++) {
        size_t at = hash_text(op->recipients[i], seed) & (size - 1);

        while (table[at] && strcmp(op->recipients[table[at] - 1], op->recipients[i]) != 0)
            at = (at + 1) & (size - 1);
        if (table[at])
            continue;
        op->recipients[kept++] = op->recipients[i];
        table[at] = (uint32_t)kept;
    }
    free(table);
    op->message.recipient_count = kept;
    return 0;
}

/* Refuses a list that holds what is no recipient. *digits: bytes of all of them. */
static int check_recipients(const json_t *list, size_t n, size_t *digits,
                            struct operation_fault *fault)
{
    *digits = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);

        if (!json_is_string(v) ||
            !message_recipient_ok(json_string_value(v), json_string_length(v))) {
            snprintf(fault->named, sizeof(fault->named), "recipients[%zu]", i);
            return refuse(fault, fault->named,
                          "Each recipient must be a string of digits, with an optional + in front, "
                          "of at most 20 characters.");
        }
        *digits += json_string_length(v) + 1;
    }
    return 0;
}

/* The pointers, the prices, the digits. */
static int keep_recipients(struct operation *op, const json_t *list, size_t n, size_t digits)
{
    size_t size = n * (sizeof(*op->recipients) + sizeof(*op->prices)) + digits;
    char *at;

    op->recipients = malloc(size);
    if (!op->recipients)
        return -1;
    op->prices = (int64_t *)(void *)(op->recipients + n);
    at = (char *)(op->prices + n);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);

        op->recipients[i] = memcpy(at, json_string_value(v), json_string_length(v) + 1);
        at += json_string_length(v) + 1;
    }
    op->bytes += size + ALLOC_BYTES;
    return 0;
}

static int refuse_count(const struct operation_limits *limits, struct operation_fault *fault)
{
    char text[64];

    snprintf(text, sizeof(text), "Must be a list of 1 to %lld recipients.",
             (long long)limits->max_recipients);
    return refuse(fault, "recipients", text);
}

static int take_recipients(struct operation *op, const json_t *root,
                           const struct operation_limits *limits, struct operation_fault *fault)
{
    const json_t *list = json_object_get(root, "recipients");
    size_t n = json_array_size(list);
    size_t digits;

    if (!list)
        return refuse(fault, "recipients", "This field is required.");
    if (!json_is_array(list) || n < 1 || n > (size_t)limits->max_recipients)
        return refuse_count(limits, fault);
    if (check_recipients(list, n, &digits, fault) || keep_recipients(op, list, n, digits))
        return -1;
    op->message.recipient_count = n;
    if (n > 1 && keep_distinct(op))
        return -1;
    op->message.recipients = op->recipients;
    op->packet_bytes += op->message.recipient_count * PACKET_RECIPIENT_BYTES;
    return 0;
}

static void set_prices(struct operation *op, const struct price_settings *prices)
{
    for (size_t i = 0; i < op->message.recipient_count; i++) {
        op->prices[i] = price_of_recipient(prices, op->message.type, op->recipients[i]);
        op->total += op->prices[i];
    }
}

size_t operation_body_bytes(int64_t max_recipients)
{
    return BODY_FRAME_BYTES + 6 * MESSAGE_TEXT_MAX + (size_t)max_recipients * BODY_RECIPIENT_BYTES;
}

static bool is_recipient(const char *body, const char *at)
{
    static const char name[] = "recipients";
    struct place place = find_end(body, (size_t)(at - body));

    return place.depth == 2 && place.in_list && place.name_len == sizeof(name) - 1 &&
           !memcmp(place.name, name, sizeof(name) - 1);
}

static json_t *load_send(const char *body, size_t n, const struct operation_limits *limits,
                         struct operation_fault *fault)
{
    const char *surplus = json_surplus(body, n, (size_t)limits->max_recipients + VALUES_MAX);

    if (!surplus)
        return load(body, n, fault);
    if (is_recipient(body, surplus))
        refuse_count(limits, fault);
    else
        refuse_surplus(fault, body, surplus);
    return NULL;
}

static json_t *load_topup(const char *body, size_t n, struct operation_fault *fault)
{
    const char *surplus = json_surplus(body, n, VALUES_MAX);

    if (!surplus)
        return load(body, n, fault);
    refuse_surplus(fault, body, surplus);
    return NULL;
}

static void identify(struct operation *op, char kind)
{
    random_uuid7(op->message.id);
    snprintf(op->message.transaction_id, sizeof(op->message.transaction_id), "%c-%s", kind,
             op->message.id);
}

struct operation *operation_parse_send(const char *body, size_t n,
                                       const struct operation_limits *limits,
                                       struct operation_fault *fault)
{
    json_t *root = load_send(body, n, limits, fault);
    struct operation *op = root ? operation_new(OPERATION_SEND) : NULL;

    if (!op || take_customer(op, root, "customer_id", limits->customer_id, fault) ||
        take_text(op, root, fault) || take_recipients(op, root, limits, fault) ||
        take_type(op, root, fault)) {
        operation_free(op);
        op = NULL;
    } else {
        set_prices(op, limits->prices);
        op->message.customer_id = op->customer_id;
        identify(op, 'c');
    }
    json_decref(root);
    return op;
}

static int take_amount(struct operation *op, const json_t *root, struct operation_fault *fault)
{
    const json_t *v = json_object_get(root, "balance");
    char text[64];

    if (!v)
        return refuse(fault, "balance", "This field is required.");
    if (!json_is_integer(v) || json_integer_value(v) <= 0 ||
        json_integer_value(v) > LEDGER_TOPUP_MAX) {
        snprintf(text, sizeof(text), "Must be a whole number from 1 to %lld.",
                 (long long)LEDGER_TOPUP_MAX);
        return refuse(fault, "balance", text);
    }
    op->amount = json_integer_value(v);
    return 0;
}

static int take_description(struct operation *op, const json_t *root, struct operation_fault *fault)
{
    const json_t *v = json_object_get(root, "description");

    if (!v || json_is_null(v))
        return 0;
    if (!json_is_string(v) || json_string_length(v) > OPERATION_DESCRIPTION_MAX ||
        (json_string_length(v) && !message_text_ok(json_string_value(v), json_string_length(v))))
        return refuse(fault, "description",
                      "Must be a string of at most 1024 bytes of UTF-8 without NUL.");
    op->description = keep_text(op, v);
    op->description_len = json_string_length(v);
    return op->text ? 0 : -1;
}

struct operation *operation_parse_topup(const char *body, size_t n, int64_t customer_id,
                                        struct operation_fault *fault)
{
    json_t *root = load_topup(body, n, fault);
    struct operation *op = root ? operation_new(OPERATION_TOPUP) : NULL;

    if (!op || take_customer(op, root, "user_id", customer_id, fault) ||
        take_amount(op, root, fault) || take_description(op, root, fault)) {
        operation_free(op);
        op = NULL;
    } else {
        identify(op, 'd');
    }
    json_decref(root);
    return op;
}

/* The fields that count, each ended by a NUL that none of them can hold. */
static int hash_body(struct operation *op)
{
    struct buf b = {0};
    bool ok;

    if (op->kind == OPERATION_SEND) {
        buf_puts(&b, message_type_name(op->message.type));
        buf_putc(&b, '\0');
        buf_put(&b, op->message.text, op->message.text_len);
        for (size_t i = 0; i < op->message.recipient_count; i++) {
            buf_putc(&b, '\0');
            buf_puts(&b, op->message.recipients[i]);
        }
    } else {
        buf_put_int(&b, op->amount);
        buf_putc(&b, '\0');
        buf_put(&b, op->description, op->description_len);
    }
    pthread_once(&sha256_once, fetch_sha256);
    ok = !b.failed && EVP_Digest(b.data, b.len, op->body_hash, NULL, sha256, NULL);
    buf_free(&b);
    return ok ? 0 : -1;
}

int operation_set_key(struct operation *op, const char *key, struct operation_fault *fault)
{
    size_t n = strlen(key);

    fault->code = NULL;
    if (n < 1 || n > OPERATION_KEY_MAX)
        return refuse(fault, "Idempotency-Key", "Must be 1 to 255 characters long.");
    for (size_t i = 0; i < n; i++)
        if (key[i] < 0x20 || key[i] > 0x7e)
            return refuse(fault, "Idempotency-Key", "Must be printable ASCII.");
    op->key = strdup(key);
    op->key_len = n;
    op->bytes += n + 1 + ALLOC_BYTES;
    return op->key ? hash_body(op) : -1;
}

void operation_set_tracestate(struct operation *op, const char *tracestate)
{
    op->tracestate = strdup(tracestate);
    op->bytes += strlen(tracestate) + 1 + ALLOC_BYTES;
    op->packet_bytes += strlen(tracestate) * PACKET_TEXT_TIMES;
}

void operation_free(struct operation *op)
{
    if (!op)
        return;
    free(op->text);
    free(op->recipients);
    free(op->tracestate);
    free(op->key);
    buf_free(&op->response);
    free(op);
}
