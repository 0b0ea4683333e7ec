/*
 * A collector's answer: a byte that says how it was spoken to and with which status, a line of
 * grpc-message, one of grpc-status-details-bin, the body.
 */

#include <stdio.h>
#include <stdlib.h>

#include "libcommon/net/otlp_internal.h"
#include "test/fuzz/fuzz.h"

#define WAIT_MAX_MS (INT64_C(86400) * 1000 + 3000)

static const long statuses[] = {200, 202, 400, 404, 429, 500, 502, 503};

static void check(const struct otlp_answer *a)
{
    MUST(a->verdict == OTLP_TAKEN || a->verdict == OTLP_RETRY || a->verdict == OTLP_REFUSED);
    MUST(a->wait_ms >= -1 && a->wait_ms <= WAIT_MAX_MS);
    MUST(memchr(a->why, '\0', sizeof(a->why)) != NULL);
    for (const char *c = a->why; *c; c++)
        MUST(*c >= ' ' && *c <= '~');
}

static void copy(char *to, size_t size, struct fuzz_text from)
{
    char *text = fuzz_string(from);

    snprintf(to, size, "%s", text);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_text input = {(const char *)data + 1, size ? size - 1 : 0};
    struct otlp_grpc_status grpc;
    struct otlp_answer a;
    long status;
    uint8_t *body;

    if (!size)
        return -1;
    status = statuses[data[0] % 8];
    grpc.code = (data[0] >> 3) % 18 - 1;
    copy(grpc.message, sizeof(grpc.message), fuzz_line(&input));
    copy(grpc.details, sizeof(grpc.details), fuzz_line(&input));
    body = malloc(input.n + !input.n);
    MUST(body != NULL);
    if (input.n)
        memcpy(body, input.p, input.n);
    otlp_judge_http(status, body, input.n, &a);
    check(&a);
    otlp_judge_grpc(status, &grpc, body, input.n, &a);
    check(&a);
    free(body);
    return 0;
}
