/*
 * An operator's answer as it comes over its connection: in whatever segments, it says the same, and
 * an id that is kept is fit for a row and a log line.
 */

#include <stdlib.h>

#include "consumerd/transport_http_answer.h"
#include "consumerd/transport_http_read.h"
#include "libcommon/base/utf8.h"
#include "test/fuzz/fuzz.h"

#define BODY_MAX 4096

static size_t read_whole(struct http_read *r, const uint8_t *data, size_t size, struct buf *body)
{
    size_t taken;

    http_read_begin(r);
    taken = http_read_take(r, (const char *)data, size, body, BODY_MAX);
    MUST(taken <= size && (taken == size || http_read_over(r)));
    http_read_end(r, true);
    MUST(http_read_over(r));
    return taken;
}

static size_t read_cut(struct http_read *r, const uint8_t *data, size_t size, struct buf *body)
{
    struct fuzz_cuts cuts = fuzz_cuts(data, size);
    size_t at = 0;

    http_read_begin(r);
    while (at < size && !http_read_over(r)) {
        size_t n = fuzz_cut(&cuts, size - at);
        char *part = malloc(n);

        MUST(part != NULL);
        memcpy(part, data + at, n);
        at += http_read_take(r, part, n, body, BODY_MAX);
        free(part);
    }
    http_read_end(r, true);
    return at;
}

static void check_id(const char *id, bool taken)
{
    size_t n = strlen(id);

    MUST(n <= PROVIDER_ID_MAX && taken == (n > 0) && utf8_ok(id, n));
    for (size_t i = 0; i < n; i++)
        MUST((unsigned char)id[i] >= ' ' && id[i] != '\x7f');
}

static void judge(const struct http_read *r, const struct buf *body)
{
    const char *text = r->state == READ_DONE ? body->data ? body->data : "" : NULL;
    char id[PROVIDER_ID_MAX + 1];
    enum unfit unfit;
    enum verdict verdict = http_answer_to_post(r->status, text, body->len, id, &unfit);
    enum lookup_answer found;
    int64_t rest_ms;

    MUST(verdict < VERDICTS && (verdict == VERDICT_UNFIT) == (unfit != UNFIT_REASONS));
    check_id(id, verdict == VERDICT_ACCEPTED);
    found = http_answer_to_get(r->status, text, body->len, id);
    check_id(id, found == LOOKUP_FOUND);
    rest_ms = http_answer_rest_ms(strtoll(r->retry_after, NULL, 10));
    MUST(rest_ms > 0 && rest_ms <= INT64_C(86400000));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_read whole;
    struct http_read cut;
    struct buf body = {0};
    struct buf again = {0};

    read_whole(&whole, data, size, &body);
    read_cut(&cut, data, size, &again);
    MUST(whole.state == cut.state && whole.status == cut.status);
    MUST(!strcmp(whole.retry_after, cut.retry_after));
    if (whole.state == READ_DONE) {
        MUST(whole.reusable == cut.reusable && body.len == again.len);
        MUST(!body.len || !memcmp(body.data, again.data, body.len));
    }
    MUST(body.len <= BODY_MAX && again.len <= BODY_MAX);
    judge(&whole, &body);
    buf_free(&body);
    buf_free(&again);
    return 0;
}
