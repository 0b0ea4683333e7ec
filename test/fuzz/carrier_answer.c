/*
 * A carrier's answer, held against the rules of a file: the input is the section's rules, a line of
 * three dashes, and what came over the wire. Nothing is accepted that did not come to its end, and
 * an identifier that is kept is fit for a row and a log line.
 */

#include <stdlib.h>

#include "consumerd/transport_http_read.h"
#include "libcommon/base/utf8.h"
#include "libcommon/domain/operator_exchange.h"
#include "test/fuzz/fuzz.h"

#define BODY_MAX 8192

static void check_id(const char *id, bool may_be)
{
    size_t n = strlen(id);

    MUST(n <= PROVIDER_ID_MAX && utf8_ok(id, n) && (may_be || !n));
    for (size_t i = 0; i < n; i++)
        MUST((unsigned char)id[i] >= ' ' && id[i] != '\x7f');
}

static void judge(const struct operator_config *op, const struct http_read *read,
                  const struct buf *body)
{
    struct operator_judgement said;
    char id[PROVIDER_ID_MAX + 1];
    struct operator_answer a;
    enum lookup_answer found;

    operator_answer_begin(&a, read->status, body->data, body->len, read->state == READ_DONE);
    operator_judge(op, &a, &said);
    MUST(said.verdict < VERDICTS);
    MUST((said.verdict == VERDICT_UNFIT) == (said.unfit != UNFIT_REASONS));
    MUST(said.verdict != VERDICT_ACCEPTED || a.whole);
    MUST(said.verdict != VERDICT_ACCEPTED || said.line || *said.id);
    check_id(said.id, said.verdict == VERDICT_ACCEPTED);
    found = operator_judge_lookup(op, &a, id);
    MUST(found != LOOKUP_FOUND || a.whole);
    check_id(id, found == LOOKUP_FOUND);
    operator_answer_end(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char begin[] = "[a]\nkind = http\nurl = http://a/\nlookup.url = http://a/l\n"
                                "lookup.found = json:id exists\nlookup.id = json:id\n";
    const struct operator_reading how = {.parts = 0};
    struct fuzz_text input = {(const char *)data, size};
    struct buf text = {0}, errors = {0}, body = {0};
    struct operator_set *set;
    struct http_read read;
    size_t faults;

    buf_puts(&text, begin);
    while (input.n) {
        struct fuzz_text line = fuzz_line(&input);

        if (line.n == 3 && !memcmp(line.p, "---", 3))
            break;
        buf_put(&text, line.p, line.n);
        buf_putc(&text, '\n');
    }
    set = operator_set_parse(text.data, text.len, "f", &how, &errors, &faults);
    http_read_begin(&read);
    http_read_take(&read, input.p, input.n, &body, BODY_MAX);
    http_read_end(&read, true);
    for (size_t i = 0; set && i < set->n; i++)
        if (set->all[i]->kind == OPERATOR_HTTP)
            judge(set->all[i], &read, &body);
    operator_set_drop(set);
    buf_free(&text);
    buf_free(&errors);
    buf_free(&body);
    return 0;
}
