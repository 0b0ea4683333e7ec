#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/net/otlp_internal.h"
#include "libcommon/otlp.pb-c.h"

#define WAIT_MAX_SEC 86400
#define FRAME_HEAD 5 /* of a gRPC message: compressed or not, and its length */

enum { GRPC_OK = 0, GRPC_UNKNOWN = 2, GRPC_RESOURCE_EXHAUSTED = 8, GRPC_UNAVAILABLE = 14 };

/* A stranger's words: only what is safe to log. */
static void put_words(struct otlp_answer *out, const char *words)
{
    size_t at = strlen(out->why);

    if (at && *words)
        at += (size_t)snprintf(out->why + at, sizeof(out->why) - at, ": ");
    for (; *words && at + 1 < sizeof(out->why); words++)
        out->why[at++] = *words >= ' ' && *words <= '~' ? *words : '?';
    out->why[at] = '\0';
}

static void read_taken(const void *body, size_t n, struct otlp_answer *out)
{
    Otlp__ExportTraceServiceResponse *r =
        otlp__export_trace_service_response__unpack(NULL, n, body);

    out->verdict = OTLP_TAKEN;
    if (r && r->partial_success) {
        if (r->partial_success->rejected_spans > 0)
            out->rejected = (uint64_t)r->partial_success->rejected_spans;
        put_words(out, r->partial_success->error_message);
    }
    if (r)
        otlp__export_trace_service_response__free_unpacked(r, NULL);
}

void otlp_judge_http(long status, const void *body, size_t n, struct otlp_answer *out)
{
    Otlp__RpcStatus *r;

    *out = (struct otlp_answer){.wait_ms = -1};
    if (status >= 200 && status < 300) {
        read_taken(body, n, out);
        return;
    }
    out->verdict = status == 429 || status == 502 || status == 503 || status == 504 ? OTLP_RETRY
                                                                                    : OTLP_REFUSED;
    snprintf(out->why, sizeof(out->why), "HTTP status %ld", status);
    r = otlp__rpc_status__unpack(NULL, n, body);
    if (r) {
        put_words(out, r->message);
        otlp__rpc_status__free_unpacked(r, NULL);
    }
}

/* ---- gRPC ---- */

/* Headers that end in -bin may lack their padding. How many bytes, 0 when it is no base64. */
static size_t decode_base64(const char *text, uint8_t *out, size_t size)
{
    char padded[sizeof(((struct otlp_grpc_status *)0)->details) + 4];
    size_t n = strcspn(text, "=");
    int len;

    if (!n || n + 4 > sizeof(padded) || n / 4 * 3 + 3 > size)
        return 0;
    memcpy(padded, text, n);
    memset(padded + n, '=', 4);
    len = EVP_DecodeBlock(out, (const unsigned char *)padded, (int)((n + 3) / 4 * 4));
    return len < 0 || n % 4 == 1 ? 0 : (size_t)len - (4 - n % 4) % 4;
}

static int64_t read_delay(const ProtobufCBinaryData *value)
{
    Otlp__RetryInfo *info = otlp__retry_info__unpack(NULL, value->len, value->data);
    int64_t wait_ms = 0;

    if (!info)
        return -1;
    if (info->retry_delay && info->retry_delay->seconds >= 0) {
        int64_t sec = info->retry_delay->seconds;

        wait_ms = sec >= WAIT_MAX_SEC ? WAIT_MAX_SEC * INT64_C(1000)
                                      : sec * 1000 + info->retry_delay->nanos / 1000000;
    }
    otlp__retry_info__free_unpacked(info, NULL);
    return wait_ms < 0 ? 0 : wait_ms;
}

/* The wait that a google.rpc.RetryInfo among the details asks for, -1: there is none. */
static int64_t find_retry_info(const char *details)
{
    uint8_t raw[sizeof(((struct otlp_grpc_status *)0)->details)];
    size_t n = decode_base64(details, raw, sizeof(raw));
    Otlp__RpcStatus *status = n ? otlp__rpc_status__unpack(NULL, n, raw) : NULL;
    int64_t wait_ms = -1;

    for (size_t i = 0; status && i < status->n_details; i++) {
        const Otlp__RpcDetail *d = status->details[i];
        const char *name = strrchr(d->type_url, '/');

        if (wait_ms < 0 && name && !strcmp(name, "/google.rpc.RetryInfo"))
            wait_ms = read_delay(&d->value);
    }
    if (status)
        otlp__rpc_status__free_unpacked(status, NULL);
    return wait_ms;
}

static int code_of_http(long status)
{
    return status == 429 || status == 502 || status == 503 || status == 504 ? GRPC_UNAVAILABLE
                                                                            : GRPC_UNKNOWN;
}

static bool may_repeat(int code)
{
    switch (code) {
    case 1:  /* CANCELLED */
    case 4:  /* DEADLINE_EXCEEDED */
    case 10: /* ABORTED */
    case 11: /* OUT_OF_RANGE */
    case GRPC_UNAVAILABLE:
    case 15: /* DATA_LOSS */
        return true;
    default:
        return false;
    }
}

void otlp_judge_grpc(long status, const struct otlp_grpc_status *grpc, const void *body, size_t n,
                     struct otlp_answer *out)
{
    int code = grpc->code >= 0 ? grpc->code : code_of_http(status);
    const uint8_t *frame = body;

    *out = (struct otlp_answer){.wait_ms = -1};
    if (code == GRPC_OK) {
        bool plain = n >= FRAME_HEAD && !frame[0];

        read_taken(plain ? frame + FRAME_HEAD : frame, plain ? n - FRAME_HEAD : 0, out);
        return;
    }
    out->wait_ms = find_retry_info(grpc->details);
    out->verdict = may_repeat(code) || (code == GRPC_RESOURCE_EXHAUSTED && out->wait_ms >= 0)
                       ? OTLP_RETRY
                       : OTLP_REFUSED;
    if (grpc->code >= 0)
        snprintf(out->why, sizeof(out->why), "gRPC status %d", code);
    else
        snprintf(out->why, sizeof(out->why), "no gRPC status, HTTP status %ld", status);
    put_words(out, grpc->message);
}
