#ifndef LIBCOMMON_DOMAIN_RECEIPT_REFERENCE_H
#define LIBCOMMON_DOMAIN_RECEIPT_REFERENCE_H

/*
 * What a submission carries so that its receipts find their recipient:
 * "<message>-<position>.<mac>". The mac is over the operator's name too, so that nobody makes up a
 * reference, and a carrier that has seen its own has none for another one. Letters, digits, dashes
 * and a dot: it stands in an address and in a form as it is. Pure.
 *
 * msg-consumerd writes references, msg-api reads them; both have the same key. A key that is
 * replaced makes the references on their way unreadable, unless it is kept as the former one.
 */

#include <stdbool.h>
#include <stddef.h>

#include "libcommon/domain/message.h"

#define RECEIPT_REFERENCE_MAC 16 /* bytes, of the 32 of an HMAC-SHA256 */
/* The message, a dash, a number, a dot, the mac in hexadecimal, the end. */
#define RECEIPT_REFERENCE_SIZE (MESSAGE_ID_MAX + 1 + 10 + 1 + 2 * RECEIPT_REFERENCE_MAC + 1)

#define RECEIPT_KEY_MIN 16 /* bytes */
#define RECEIPT_KEY_MAX 128

/* False: the message's identifier is no such, or the key is missing (NULL or ""). */
bool receipt_reference_write(char out[RECEIPT_REFERENCE_SIZE], const char *key,
                             const char *operator_name, const char *message_id, unsigned position);

struct receipt_reference {
    char message_id[MESSAGE_ID_MAX + 1];
    unsigned position;
};

/* Whether text is a reference that was written with that key for that operator. */
bool receipt_reference_read(const char *text, size_t n, const char *key, const char *operator_name,
                            struct receipt_reference *out);

#endif
