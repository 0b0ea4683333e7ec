#include "libcommon/net/address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base/must.h"

#define BITS 128
#define V4_AT 12 /* where the bytes of an IPv4 address begin */

static const unsigned char v4_prefix[V4_AT] = {[10] = 0xff, [11] = 0xff};

bool address_is_v4(const struct address *a)
{
    return !memcmp(a->b, v4_prefix, V4_AT);
}

bool address_parse(const char *s, size_t n, struct address *out)
{
    struct address read;
    char text[ADDRESS_TEXT_SIZE];
    bool v6;

    if (n >= sizeof(text) || memchr(s, '\0', n))
        return false;
    memcpy(text, s, n);
    text[n] = '\0';
    v6 = strchr(text, ':') != NULL;
    memcpy(read.b, v4_prefix, V4_AT);
    if (inet_pton(v6 ? AF_INET6 : AF_INET, text, v6 ? read.b : read.b + V4_AT) != 1)
        return false;
    *out = read;
    return true;
}

struct address address_cut(const struct address *a, unsigned bits)
{
    struct address cut = *a;

    for (unsigned i = 0; i < sizeof(cut.b); i++, bits -= bits < 8 ? bits : 8)
        cut.b[i] &= (unsigned char)(bits < 8 ? 0xff00 >> bits : 0xff);
    return cut;
}

void address_format(const struct address *a, char out[ADDRESS_TEXT_SIZE])
{
    bool v4 = address_is_v4(a);

    if (!inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? a->b + V4_AT : a->b, out, ADDRESS_TEXT_SIZE))
        *out = '\0';
}

/* One, two or three digits behind the slash. */
static bool parse_bits(const char *s, size_t n, unsigned *bits)
{
    *bits = 0;
    if (!n || n > 3)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        *bits = *bits * 10 + (unsigned)(s[i] - '0');
    }
    return true;
}

/* An address alone is a network of one. Bits behind the prefix are a slip of the pen. */
static bool parse_network(const char *s, size_t n, struct network *out)
{
    const char *slash = memchr(s, '/', n);
    size_t len = slash ? (size_t)(slash - s) : n;
    unsigned above; /* of an IPv4 network, the bits that all of IPv4 share */
    struct address cut;

    if (!address_parse(s, len, &out->base))
        return false;
    above = memchr(s, ':', len) ? 0 : V4_AT * 8;
    out->bits = BITS - above;
    if (slash && !parse_bits(slash + 1, n - len - 1, &out->bits))
        return false;
    out->bits += above;
    if (out->bits > BITS)
        return false;
    cut = address_cut(&out->base, out->bits);
    return !memcmp(&cut, &out->base, sizeof(cut));
}

bool networks_check(const char *list, char *why, size_t size)
{
    for (;;) {
        size_t n = strcspn(list, ",");
        struct network network;

        if (!parse_network(list, n, &network)) {
            snprintf(why, size,
                     "must be networks (10.0.0.0/8) or addresses, comma-separated, without bits "
                     "behind a network's prefix");
            return false;
        }
        if (!list[n])
            return true;
        list += n + 1;
    }
}

struct network *networks_parse(const char *list, size_t *count)
{
    struct network *networks;
    size_t most = *list != '\0';

    for (const char *at = list; *at; at++)
        most += *at == ',';
    *count = 0;
    networks = most ? must_alloc(most, sizeof(*networks)) : NULL;
    while (*list) {
        size_t n = strcspn(list, ",");

        *count += parse_network(list, n, &networks[*count]);
        list += n + (list[n] == ',');
    }
    return networks;
}

bool networks_have(const struct network *networks, size_t count, const struct address *a)
{
    for (size_t i = 0; i < count; i++) {
        struct address cut = address_cut(a, networks[i].bits);

        if (!memcmp(&cut, &networks[i].base, sizeof(cut)))
            return true;
    }
    return false;
}
