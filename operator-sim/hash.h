#ifndef OPERATOR_SIM_HASH_H
#define OPERATOR_SIM_HASH_H

/* SipHash-2-4 (Aumasson, Bernstein 2012): a keyed hash, so that clients cannot choose references
 * that collide. Pure. */

#include <stddef.h>
#include <stdint.h>

struct hash_key {
    uint64_t a, b;
};

uint64_t hash_bytes(struct hash_key key, const void *p, size_t n);
/* CRC-32 as of zlib and Ethernet: what tests compare texts by. */
uint32_t hash_crc32(const void *p, size_t n);

/* What chance is here: 0 <= roll < 1, always the same for the same four. kind: what is decided, so
 * that decisions do not depend on each other. */
double hash_roll(uint64_t seed, unsigned kind, const char *reference, uint32_t attempt);

#endif
