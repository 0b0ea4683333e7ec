#include "libcommon/domain/receipt_reference.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POSITION_DIGITS 10
#define MAC_DIGITS ((size_t)2 * RECEIPT_REFERENCE_MAC)

static bool is_message_id(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'z') ||
              (s[i] >= 'A' && s[i] <= 'Z') || s[i] == '-' || s[i] == '_'))
            return false;
    return n > 0 && n <= MESSAGE_ID_MAX;
}

/* A name has no line end: what is signed can be read one way only. */
static bool sign(const char *key, const char *operator_name, const char *what, size_t n,
                 char mac[MAC_DIGITS + 1])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    struct buf text = {0};
    unsigned len = 0;
    bool ok;

    buf_printf(&text, "receipt\n%s\n", operator_name);
    buf_put(&text, what, n);
    ok = !text.failed && HMAC(EVP_sha256(), key, (int)strlen(key), (unsigned char *)text.data,
                              text.len, digest, &len);
    buf_free(&text);
    for (size_t i = 0; ok && i < RECEIPT_REFERENCE_MAC; i++)
        snprintf(mac + 2 * i, 3, "%02x", digest[i]);
    return ok;
}

bool receipt_reference_write(char out[RECEIPT_REFERENCE_SIZE], const char *key,
                             const char *operator_name, const char *message_id, unsigned position)
{
    char mac[MAC_DIGITS + 1];
    int n;

    if (!key || !*key || !is_message_id(message_id, strlen(message_id)))
        return false;
    n = snprintf(out, RECEIPT_REFERENCE_SIZE, "%s-%u", message_id, position);
    if (!sign(key, operator_name, out, (size_t)n, mac))
        return false;
    snprintf(out + n, RECEIPT_REFERENCE_SIZE - (size_t)n, ".%s", mac);
    return true;
}

/* Digits, and as they are written: no other text has the same meaning. */
static bool read_position(const char *s, size_t n, unsigned *position)
{
    char digits[POSITION_DIGITS + 1];
    unsigned long long value;

    if (!n || n > POSITION_DIGITS || (n > 1 && *s == '0') || strspn(s, "0123456789") < n)
        return false;
    memcpy(digits, s, n);
    digits[n] = '\0';
    value = strtoull(digits, NULL, 10);
    *position = (unsigned)value;
    return value <= UINT32_MAX;
}

static const char *last_dash(const char *s, size_t n)
{
    while (n && s[n - 1] != '-')
        n--;
    return n ? s + n - 1 : NULL;
}

bool receipt_reference_read(const char *text, size_t n, const char *key, const char *operator_name,
                            struct receipt_reference *out)
{
    char mac[MAC_DIGITS + 1];
    const char *dash;
    size_t signed_len;

    if (!key || !*key || n < MAC_DIGITS + 4 || n >= RECEIPT_REFERENCE_SIZE)
        return false;
    signed_len = n - MAC_DIGITS - 1;
    dash = last_dash(text, signed_len);
    if (text[signed_len] != '.' || !dash || !is_message_id(text, (size_t)(dash - text)) ||
        !read_position(dash + 1, (size_t)(text + signed_len - dash - 1), &out->position))
        return false;
    if (!sign(key, operator_name, text, signed_len, mac) ||
        CRYPTO_memcmp(mac, text + signed_len + 1, MAC_DIGITS) != 0)
        return false;
    memcpy(out->message_id, text, (size_t)(dash - text));
    out->message_id[dash - text] = '\0';
    return true;
}
