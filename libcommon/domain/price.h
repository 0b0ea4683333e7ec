#ifndef LIBCOMMON_DOMAIN_PRICE_H
#define LIBCOMMON_DOMAIN_PRICE_H

/*
 * What a recipient costs, decided once, when the message is accepted: the price then stays on the
 * recipient's row, and what is refunded is what stands there. Always the price of one recipient,
 * never one of a message. Pure.
 */

#include "libcommon/base/settings.h"
#include "libcommon/domain/message.h"

#define PRICE_MAX 1000000 /* of a recipient */

struct price_settings {
    int64_t of[MESSAGE_LANES]; /* by enum message_type */
};

extern const struct setting price_settings_rows[];

/* In whole units, at least 0. */
int64_t price_of_recipient(const struct price_settings *settings, enum message_type type,
                           const char *recipient);

#endif
