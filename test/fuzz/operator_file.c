/*
 * An operator's file: each fault has its line in the report, and a request that a file words keeps
 * its form whatever stands in the text: no header more, no field more, JSON as before.
 */

#include "libcommon/domain/operator_file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "libcommon/base/buf.h"
#include "libcommon/domain/operator_exchange.h"
#include "test/fuzz/fuzz.h"

static const char *const texts[] = {"a", "\"},{\\\" &=?#%<'>\r\nX: y\r\n\r\n]]>\xc3\xa9"};

static bool secret(const char *name, struct buf *out, char *why, size_t size)
{
    if (*name == 'N') {
        snprintf(why, size, "is set nowhere");
        return false;
    }
    buf_puts(out, *name == 'B' ? "a\r\nb" : "s3cret&\"<");
    return true;
}

static size_t count(const char *s, size_t n, char c)
{
    size_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += s[i] == c;
    return sum;
}

static void word(const struct operator_config *op, const struct operator_request *r,
                 const char *text, struct buf *head, struct buf *body)
{
    const struct operator_values values = {.text = text,
                                           .text_len = strlen(text),
                                           .to = "+4479",
                                           .reference = "018f-1",
                                           .type = "normal",
                                           .receipt_url = "https://x/y?z=1&a",
                                           .signed_reference = "018f-1.ab"};
    struct buf whole = {0};

    operator_request_put(op, r, &values, false, &whole, body);
    MUST(!whole.failed && !memchr(whole.data, '\0', whole.len - body->len));
    buf_put(head, whole.data, whole.len - body->len);
    buf_free(&whole);
}

static bool is_json(const struct buf *body)
{
    json_t *json = json_loadb(body->data ? body->data : "", body->len,
                              JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, NULL);

    json_decref(json);
    return json != NULL;
}

/* Of the lines, but for the length of the body. */
static void check_request(const struct operator_config *op, const struct operator_request *r)
{
    struct buf heads[2] = {{0}}, bodies[2] = {{0}};
    const char *type;

    if (!r->method)
        return;
    for (int i = 0; i < 2; i++)
        word(op, r, texts[i], &heads[i], &bodies[i]);
    MUST(count(heads[0].data, heads[0].len, '\n') == count(heads[1].data, heads[1].len, '\n'));
    MUST(count(heads[0].data, heads[0].len, '\r') == count(heads[1].data, heads[1].len, '\r'));
    MUST(count(heads[1].data, strcspn(heads[1].data, "\r"), ' ') == 2);
    type = strstr(heads[0].data, "\r\nContent-Type: ");
    if (type && bodies[0].len && !strncasecmp(type + 16, "application/json", 16))
        MUST(is_json(&bodies[0]) && is_json(&bodies[1]));
    if (type && !strncasecmp(type + 16, "application/x-www-form-urlencoded", 33))
        MUST(count(bodies[0].data, bodies[0].len, '&') ==
             count(bodies[1].data, bodies[1].len, '&'));
    for (int i = 0; i < 2; i++) {
        buf_free(&heads[i]);
        buf_free(&bodies[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct operator_reading how = {.parts = OPERATOR_SENDING | OPERATOR_RECEIVING,
                                         .secret = secret};
    struct buf errors = {0};
    size_t faults;
    struct operator_set *set =
        operator_set_parse((const char *)data, size, "f", &how, &errors, &faults);

    MUST((set == NULL) == (faults > 0));
    MUST(count(errors.data ? errors.data : "", errors.len, '\n') == faults);
    MUST(!errors.data || !strstr(errors.data, "s3cret") || memmem(data, size, "s3cret", 6));
    for (size_t i = 0; set && i < set->n; i++)
        if (set->all[i]->kind == OPERATOR_HTTP) {
            check_request(set->all[i], &set->all[i]->submit);
            check_request(set->all[i], &set->all[i]->lookup);
        }
    operator_set_drop(set);
    buf_free(&errors);
    return 0;
}
