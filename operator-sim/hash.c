#include "operator-sim/hash.h"

#include <pthread.h>
#include <string.h>

struct state {
    uint64_t v0, v1, v2, v3;
};

static uint64_t rotate(uint64_t x, unsigned bits)
{
    return x << bits | x >> (64 - bits);
}

static void mix(struct state *s, unsigned rounds)
{
    while (rounds--) {
        s->v0 += s->v1;
        s->v2 += s->v3;
        s->v1 = rotate(s->v1, 13) ^ s->v0;
        s->v3 = rotate(s->v3, 16) ^ s->v2;
        s->v0 = rotate(s->v0, 32);
        s->v2 += s->v1;
        s->v0 += s->v3;
        s->v1 = rotate(s->v1, 17) ^ s->v2;
        s->v3 = rotate(s->v3, 21) ^ s->v0;
        s->v2 = rotate(s->v2, 32);
    }
}

static void absorb(struct state *s, uint64_t word)
{
    s->v3 ^= word;
    mix(s, 2);
    s->v0 ^= word;
}

uint64_t hash_bytes(struct hash_key key, const void *p, size_t n)
{
    const unsigned char *bytes = p;
    struct state s = {key.a ^ 0x736f6d6570736575u, key.b ^ 0x646f72616e646f6du,
                      key.a ^ 0x6c7967656e657261u, key.b ^ 0x7465646279746573u};
    uint64_t last = (uint64_t)n << 56;
    size_t whole = n & ~(size_t)7;

    for (size_t i = 0; i < whole; i += 8) {
        uint64_t word = 0;

        for (unsigned k = 0; k < 8; k++)
            word |= (uint64_t)bytes[i + k] << (8 * k);
        absorb(&s, word);
    }
    for (size_t i = whole; i < n; i++)
        last |= (uint64_t)bytes[i] << (8 * (i - whole));
    absorb(&s, last);
    s.v2 ^= 0xff;
    mix(&s, 4);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

static uint32_t crc_table[256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void build_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;

        for (int bit = 0; bit < 8; bit++)
            c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
        crc_table[i] = c;
    }
}

uint32_t hash_crc32(const void *p, size_t n)
{
    const unsigned char *bytes = p;
    uint32_t crc = 0xffffffffu;

    pthread_once(&crc_once, build_crc_table);
    for (size_t i = 0; i < n; i++)
        crc = crc_table[(crc ^ bytes[i]) & 0xff] ^ crc >> 8;
    return ~crc;
}

double hash_roll(uint64_t seed, unsigned kind, const char *reference, uint32_t attempt)
{
    struct hash_key key = {seed, (uint64_t)kind << 32 | attempt};

    return (double)(hash_bytes(key, reference, strlen(reference)) >> 11) / 9007199254740992.0;
}
