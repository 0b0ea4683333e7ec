#include "consumerd/webhook_body.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"

#define BATCH_ID_BYTES 16

static void put_time(struct buf *body, int64_t us)
{
    buf_puts(body, "\"timestamp\":\"");
    clock_put_rfc3339(body, us);
    buf_puts(body, "\",\"data\":");
}

static void put_event(struct buf *body, const struct webhook_event *e)
{
    buf_puts(body, "{\"id\":\"");
    webhook_put_id(body, e->subject, e->kind);
    buf_printf(body, "\",\"type\":\"%s\",", webhook_kind_name(e->kind));
    put_time(body, e->created_us);
    buf_puts(body, e->data);
    buf_putc(body, '}');
}

bool webhook_body_put(struct buf *body, unsigned batch, const struct webhook_event *events,
                      size_t n)
{
    if (batch <= 1) {
        put_event(body, events);
        return !body->failed;
    }
    buf_puts(body, "{\"type\":\"batch\",");
    put_time(body, events->created_us);
    for (size_t i = 0; i < n; i++) {
        buf_putc(body, i ? ',' : '[');
        put_event(body, &events[i]);
    }
    buf_puts(body, "]}");
    return !body->failed;
}

bool webhook_body_id(char id[WEBHOOK_REQUEST_ID_SIZE], unsigned batch,
                     const struct webhook_event *events, size_t n)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    struct buf ids = {0};
    bool ok;

    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(&ids, ' ');
        webhook_put_id(&ids, events[i].subject, events[i].kind);
    }
    ok = !ids.failed;
    if (ok && batch > 1) {
        ok = EVP_Digest(ids.data, ids.len, digest, NULL, EVP_sha256(), NULL);
        buf_reset(&ids);
        buf_puts(&ids, "batch-");
        buf_put_hex(&ids, digest, BATCH_ID_BYTES);
        ok = ok && !ids.failed;
    }
    if (ok)
        snprintf(id, WEBHOOK_REQUEST_ID_SIZE, "%s", ids.data);
    buf_free(&ids);
    return ok;
}

bool webhook_body_sign(struct buf *out, const struct webhook_secret secrets[2], const char *id,
                       int64_t timestamp, const struct buf *body)
{
    for (int i = 0; i < 2; i++) {
        if (!secrets[i].len)
            continue;
        if (i)
            buf_putc(out, ' ');
        if (!webhook_sign(out, &secrets[i], id, timestamp, body->data, body->len))
            return false;
    }
    return !out->failed;
}
