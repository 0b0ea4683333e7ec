#ifndef LIBCOMMON_NET_ADDRESS_H
#define LIBCOMMON_NET_ADDRESS_H

/*
 * Addresses and networks of IPv4 and IPv6. An IPv4 address is the same one wherever it comes from,
 * an IPv6 socket included (::ffff:192.0.2.1). Pure.
 */

#include <stdbool.h>
#include <stddef.h>

#define ADDRESS_TEXT_SIZE 46

struct address {
    unsigned char b[16]; /* in network order; IPv4 behind ::ffff: */
};

struct network {
    struct address base;
    unsigned bits; /* of 128 */
};

/* n characters without port, brackets and zone. False: none; *out is untouched. */
bool address_parse(const char *s, size_t n, struct address *out);
bool address_is_v4(const struct address *a);
/* The one of that network to which the address belongs: its first bits, then zeros. */
struct address address_cut(const struct address *a, unsigned bits);
void address_format(const struct address *a, char out[ADDRESS_TEXT_SIZE]);

/* "10.0.0.0/8,2001:db8::/32,192.0.2.1": for the check of a setting. */
bool networks_check(const char *list, char *why, size_t size);
/* Of a list that networks_check takes; NULL when there are none. The caller frees. */
struct network *networks_parse(const char *list, size_t *count);
bool networks_have(const struct network *networks, size_t count, const struct address *a);

#endif
