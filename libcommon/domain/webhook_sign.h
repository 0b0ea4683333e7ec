#ifndef LIBCOMMON_DOMAIN_WEBHOOK_SIGN_H
#define LIBCOMMON_DOMAIN_WEBHOOK_SIGN_H

/*
 * Secrets and signatures of the Standard Webhooks specification. A secret is WEBHOOK_SECRET_LEN
 * bytes from the kernel, shown as "whsec_" and base64; a request is signed with HMAC-SHA256 over
 * "<id>.<timestamp>.<body>". Whoever holds a secret clears it when it is done. Pure, but for the
 * random bytes; any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/buf.h"

#define WEBHOOK_SECRET_LEN 32
#define WEBHOOK_SECRET_MAX 64 /* bytes that a secret of ours may ever have */

struct webhook_secret {
    uint8_t bytes[WEBHOOK_SECRET_MAX];
    size_t len; /* 0: none */
};

void webhook_secret_new(struct webhook_secret *secret);
/* As its owner is shown it, once. */
void webhook_secret_put(struct buf *out, const struct webhook_secret *secret);
/* "v1,<base64>": a signature of the header webhook-signature. False: memory is out. */
bool webhook_sign(struct buf *out, const struct webhook_secret *secret, const char *id,
                  int64_t timestamp, const char *body, size_t n);

#endif
