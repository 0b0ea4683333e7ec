/*
 * The headers that a key comes in: a line of Authorization, one of X-Api-Key, a '*' in them being a
 * key that the ring knows. No other text is let in.
 */

#include "api/auth.h"

#include <stdlib.h>
#include <strings.h>

#include "libcommon/base/buf.h"
#include "test/fuzz/fuzz.h"

#define KEY "msg_eu1_0010000000000000000000000000003D7_1tGGGx"
#define SCHEME "Bearer"

struct key_ring {
    uint8_t hash[KEY_HASH_LEN];
};

enum key_answer key_ring_ask(struct key_ring *ring, const uint8_t hash[KEY_HASH_LEN],
                             const char *peer, struct key_grant *grant)
{
    (void)peer;
    if (memcmp(hash, ring->hash, KEY_HASH_LEN) != 0)
        return KEY_UNKNOWN;
    *grant = (struct key_grant){5, 7, KEY_SEND};
    return KEY_OK;
}

int64_t key_ring_age_ms(struct key_ring *ring)
{
    (void)ring;
    return 0;
}

/* The line as a header's value; NULL: an empty one, the header is absent. */
static char *header(struct fuzz_text line)
{
    struct buf value = {0};

    for (size_t i = 0; i < line.n && line.p[i]; i++) {
        if (line.p[i] == '*')
            buf_puts(&value, KEY);
        else
            buf_putc(&value, line.p[i]);
    }
    if (value.len)
        buf_putc(&value, '\0');
    MUST(!value.failed);
    return value.data;
}

/* The key of the scheme; NULL: it is another one's. */
static const char *key_of(const char *authorization)
{
    const char *key = authorization ? strrchr(authorization, ' ') : NULL;

    if (!key || strncasecmp(authorization, SCHEME " ", sizeof(SCHEME)) != 0)
        return NULL;
    for (const char *c = authorization + sizeof(SCHEME); c < key; c++)
        if (*c != ' ')
            return NULL; /* not all of it would be the key */
    return key + 1;
}

static void check(enum auth_verdict verdict, const char *authorization, const char *x_api_key)
{
    const char *key = key_of(authorization);
    bool bears = key && !strcmp(key, KEY);
    bool holds = x_api_key && !strcmp(x_api_key, KEY);

    MUST(verdict == AUTH_OK || verdict == AUTH_MISSING || verdict == AUTH_CONFLICTING ||
         verdict == AUTH_MALFORMED || verdict == AUTH_UNKNOWN);
    MUST(verdict != AUTH_OK || bears || holds);
    MUST(verdict != AUTH_OK || !key || !x_api_key || !strcmp(key, x_api_key));
    MUST(verdict != AUTH_MISSING || (!bears && !x_api_key));
    if (bears && (!x_api_key || holds))
        MUST(verdict == AUTH_OK);
    if (holds && !authorization)
        MUST(verdict == AUTH_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct key_ring ring;
    static struct auth *auth;
    struct fuzz_text input = {(const char *)data, size};
    char *authorization = header(fuzz_line(&input));
    char *x_api_key = header(fuzz_line(&input));
    struct key_grant grant;

    if (!auth) {
        MUST(key_text_read(KEY, sizeof(KEY) - 1, ring.hash));
        auth = auth_new(&(struct auth_config){.ring = &ring});
    }
    check(auth_judge(auth, authorization, x_api_key, "192.0.2.7", KEY_SEND, &grant), authorization,
          x_api_key);
    free(authorization);
    free(x_api_key);
    return 0;
}
