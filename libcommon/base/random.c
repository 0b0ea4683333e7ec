#include "libcommon/base/random.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"

static _Thread_local unsigned char pool[1024];
static _Thread_local size_t pool_left;

static void refill(void)
{
    size_t got = 0;

    while (got < sizeof(pool)) {
        ssize_t n = getrandom(pool + got, sizeof(pool) - got, 0);

        if (n < 0)
            MUST(errno == EINTR);
        else
            got += (size_t)n;
    }
    pool_left = sizeof(pool);
}

void random_bytes(void *p, size_t n)
{
    unsigned char *out = p;

    while (n) {
        size_t take;

        if (!pool_left)
            refill();
        take = n < pool_left ? n : pool_left;
        memcpy(out, pool + sizeof(pool) - pool_left, take);
        pool_left -= take;
        out += take;
        n -= take;
    }
}

uint64_t random_u64(void)
{
    uint64_t v;

    random_bytes(&v, sizeof(v));
    return v;
}

/* 48 bits of milliseconds, then 12 bits that count within a millisecond, so that a batch of one
 * thread is in order (RFC 9562 section 6.2, method 1); a clock that steps back keeps the last time.
 */
void random_uuid7(char out[UUID_TEXT_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    static _Thread_local uint64_t last_ms;
    static _Thread_local unsigned counter;
    unsigned char id[16];
    uint64_t now_ms = (uint64_t)clock_wall_us() / 1000;
    size_t at = 0;

    random_bytes(id, sizeof(id));
    if (now_ms > last_ms) {
        last_ms = now_ms;
        counter = id[6] & 0x07u; /* starts low: room for the rest of this millisecond */
    } else if (++counter > 0xfff) {
        last_ms++;
        counter = 0;
    }
    for (int i = 0; i < 6; i++)
        id[i] = (unsigned char)(last_ms >> (40 - 8 * i));
    id[6] = (unsigned char)(0x70 | counter >> 8);
    id[7] = (unsigned char)counter;
    id[8] = (unsigned char)(0x80 | (id[8] & 0x3f));
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            out[at++] = '-';
        out[at++] = digits[id[i] >> 4];
        out[at++] = digits[id[i] & 15];
    }
    out[at] = '\0';
}
