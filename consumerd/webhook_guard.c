#include "consumerd/webhook_guard.h"

#include <string.h>

struct range {
    unsigned char base[4];
    unsigned bits;
};

/* What IANA's registry of special IPv4 addresses does not call globally reachable; and one that
 * looks public, and is the wire server of Azure's hosts. */
static const struct range inside[] = {
    {{0, 0, 0, 0}, 8},      {{10, 0, 0, 0}, 8},     {{100, 64, 0, 0}, 10}, {{127, 0, 0, 0}, 8},
    {{169, 254, 0, 0}, 16}, {{172, 16, 0, 0}, 12},  {{192, 0, 0, 0}, 24},  {{192, 0, 2, 0}, 24},
    {{192, 88, 99, 0}, 24}, {{192, 168, 0, 0}, 16}, {{198, 18, 0, 0}, 15}, {{198, 51, 100, 0}, 24},
    {{203, 0, 113, 0}, 24}, {{224, 0, 0, 0}, 4},    {{240, 0, 0, 0}, 4},   {{168, 63, 129, 16}, 32},
};

static bool begins_with(const unsigned char *bytes, const unsigned char *base, unsigned bits)
{
    unsigned whole = bits / 8;
    unsigned rest = bits % 8;

    if (memcmp(bytes, base, whole) != 0)
        return false;
    return !rest || !((bytes[whole] ^ base[whole]) >> (8 - rest));
}

static bool is_public_v4(const unsigned char *b)
{
    for (size_t i = 0; i < sizeof(inside) / sizeof(inside[0]); i++)
        if (begins_with(b, inside[i].base, inside[i].bits))
            return false;
    return true;
}

/* Of IPv6 only what is handed out to be reached from everywhere (2000::/3), less what in it has
 * another meaning, and what stands for an IPv4 address, by that one. */
static bool is_public_v6(const unsigned char *b)
{
    static const unsigned char nat64[12] = {0x00, 0x64, 0xff, 0x9b};
    static const unsigned char ietf[3] = {0x20, 0x01, 0x00}; /* with Teredo and ORCHID */
    static const unsigned char documentation[4] = {0x20, 0x01, 0x0d, 0xb8};
    static const unsigned char documentation_too[3] = {0x3f, 0xff, 0x00};
    static const unsigned char six_to_four[2] = {0x20, 0x02};

    if (begins_with(b, nat64, 96))
        return is_public_v4(b + 12);
    if (begins_with(b, six_to_four, 16))
        return is_public_v4(b + 2);
    return b[0] >> 5 == 1 && !begins_with(b, ietf, 23) && !begins_with(b, documentation, 32) &&
           !begins_with(b, documentation_too, 20);
}

bool webhook_guard_allows(const struct webhook_guard *guard, const struct address *address)
{
    if (networks_have(guard->allowed, guard->count, address))
        return true;
    return address_is_v4(address) ? is_public_v4(address->b + 12) : is_public_v6(address->b);
}
