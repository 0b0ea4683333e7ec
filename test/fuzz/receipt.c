/*
 * A request with receipts, read by the rules of a file: the input is the file's keys, a line of
 * three dashes, the query, a line end, and the body. Whatever is taken of it fits its column, is
 * text, and is about something; a reference counts only with its mac.
 */

#include <stdlib.h>

#include "api/receipt_request.h"
#include "libcommon/base/utf8.h"
#include "libcommon/domain/operator_file.h"
#include "test/fuzz/fuzz.h"

#define KEY "a key that is long enough"
#define MOST 50

static const char *no_header(const void *arg, const char *name)
{
    (void)arg;
    return *name == 'X' ? "sha256=00" : NULL;
}

static bool secret(const char *name, struct buf *out, char *why, size_t size)
{
    (void)name;
    MUST(size > 0);
    *why = '\0';
    buf_puts(out, "s3cret");
    return true;
}

static void check_text(const char *s, size_t most)
{
    size_t n = strlen(s);

    MUST(n <= most && utf8_ok(s, n));
    for (size_t i = 0; i < n; i++)
        MUST((unsigned char)s[i] >= ' ' && s[i] != '\x7f');
}

static void check_receipt(const struct receipt_reader *reader, const struct recipient_receipt *r)
{
    MUST(*r->message_id || *r->match_id);
    MUST(strlen(r->message_id) <= MESSAGE_ID_MAX);
    MUST(strlen(r->match_id) <= RECEIPT_MATCH_MAX && utf8_ok(r->match_id, strlen(r->match_id)));
    MUST(utf8_ok(r->part, strlen(r->part)));
    check_text(r->code, RECEIPT_CODE_MAX);
    check_text(r->words, RECEIPT_WORDS_MAX);
    check_text(r->reason, RECEIPT_REASON_MAX);
    MUST(r->delivered == !*r->reason);
    /* Nobody here knows the key. */
    MUST(!*r->message_id || reader->rules->plain_reference);
}

static void read_request(const struct operator_config *op, struct fuzz_text query,
                         struct fuzz_text body, bool is_get)
{
    char *text = fuzz_string(query);
    struct receipt_request request = {.peer = "192.0.2.1",
                                      .secret = "",
                                      .target = "/operators/a/receipts",
                                      .query = text,
                                      .is_get = is_get,
                                      .body = body.p,
                                      .body_len = body.n,
                                      .public_url = "https://a",
                                      .header = no_header};
    struct receipt_reader reader = {
        .rules = &op->receipts, .operator_name = op->name, .reference_key = KEY, .most = MOST};

    (void)receipt_request_is_genuine(&op->receipts, &request);
    if (receipt_request_read(&reader, &request) == RECEIPT_READ_OK)
        for (size_t i = 0; i < reader.n; i++)
            check_receipt(&reader, &reader.receipts[i]);
    MUST(reader.n <= MOST);
    free(reader.receipts);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct operator_reading how = {.parts = OPERATOR_RECEIVING, .secret = secret};
    struct fuzz_text input = {(const char *)data, size};
    struct buf text = {0};
    struct buf errors = {0};
    struct operator_set *set;
    struct fuzz_text query;
    size_t faults = 0;

    buf_puts(&text, "[a]\nkind = native\nurl = http://a\n");
    while (input.n) {
        struct fuzz_text line = fuzz_line(&input);

        if (line.n == 3 && !memcmp(line.p, "---", 3))
            break;
        buf_put(&text, line.p, line.n);
        buf_putc(&text, '\n');
    }
    query = fuzz_line(&input);
    set = operator_set_parse(text.data, text.len, "file", &how, &errors, &faults);
    MUST((set != NULL) == !faults && (faults == 0) == !errors.len);
    for (size_t i = 0; set && i < set->n; i++) {
        if (!set->all[i]->receipts.given)
            continue;
        read_request(set->all[i], query, input, false);
        read_request(set->all[i], query, input, true);
    }
    operator_set_drop(set);
    buf_free(&errors);
    buf_free(&text);
    return 0;
}
