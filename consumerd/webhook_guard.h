#ifndef CONSUMERD_WEBHOOK_GUARD_H
#define CONSUMERD_WEBHOOK_GUARD_H

/*
 * Which addresses a customer's endpoint may have: those of the internet, and none inside (loopback,
 * private, link-local with the metadata services of clouds, shared, multicast, reserved), however
 * they are written down: an IPv4 address within an IPv6 one (mapped, NAT64, 6to4) is judged by what
 * it stands for. Networks that an operator names are allowed all the same. Pure.
 */

#include <stdbool.h>

#include "libcommon/net/address.h"

struct webhook_guard {
    struct network *allowed;
    size_t count;
};

bool webhook_guard_allows(const struct webhook_guard *guard, const struct address *address);

#endif
