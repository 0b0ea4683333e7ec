#include "libcommon/domain/webhook_sign.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "libcommon/base/random.h"

#define BASE64_LEN(n) (((n) + 2) / 3 * 4)

static void put_base64(struct buf *out, const uint8_t *bytes, size_t n)
{
    if (!buf_reserve(out, BASE64_LEN(n)))
        return;
    EVP_EncodeBlock((unsigned char *)out->data + out->len, bytes, (int)n);
    out->len += BASE64_LEN(n);
}

void webhook_secret_new(struct webhook_secret *secret)
{
    *secret = (struct webhook_secret){.len = WEBHOOK_SECRET_LEN};
    random_bytes(secret->bytes, secret->len);
}

void webhook_secret_put(struct buf *out, const struct webhook_secret *secret)
{
    buf_puts(out, "whsec_");
    put_base64(out, secret->bytes, secret->len);
}

bool webhook_sign(struct buf *out, const struct webhook_secret *secret, const char *id,
                  int64_t timestamp, const char *body, size_t n)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned digest_len = 0;
    struct buf text = {0};
    bool ok;

    buf_printf(&text, "%s.%lld.", id, (long long)timestamp);
    buf_put(&text, body, n);
    ok = !text.failed && HMAC(EVP_sha256(), secret->bytes, (int)secret->len,
                              (const unsigned char *)text.data, text.len, digest, &digest_len);
    buf_free(&text);
    if (!ok)
        return false;
    buf_puts(out, "v1,");
    put_base64(out, digest, digest_len);
    return !out->failed;
}
