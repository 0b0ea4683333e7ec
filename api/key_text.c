#include "api/key_text.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <zlib.h>

#include "libcommon/base/must.h"

#define PREFIX "msg_"
#define RANDOM_BYTES 24
#define RANDOM_DIGITS 33 /* 62^33 > 2^192 */
#define CHECKSUM_DIGITS 6
#define TAIL (1 + RANDOM_DIGITS + 1 + CHECKSUM_DIGITS) /* behind the cell */

static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

static EVP_MD *sha256;
static pthread_once_t fetched = PTHREAD_ONCE_INIT;

/* Once: looking an algorithm up costs more than a key's hash. */
static void fetch(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    MUST(sha256);
}

static void hash_text(const char *text, size_t n, uint8_t hash[KEY_HASH_LEN])
{
    pthread_once(&fetched, fetch);
    MUST(EVP_Digest(text, n, hash, NULL, sha256, NULL) == 1);
}

/* As a number, its last digit first divided out; number is used up. */
static void put_base62(uint8_t *number, size_t bytes, char *out, size_t count)
{
    for (size_t i = count; i--;) {
        unsigned rest = 0;

        for (size_t k = 0; k < bytes; k++) {
            rest = rest << 8 | number[k];
            number[k] = (uint8_t)(rest / 62);
            rest %= 62;
        }
        out[i] = digits[rest];
    }
}

static void put_checksum(const char *text, size_t n, char out[CHECKSUM_DIGITS])
{
    uint32_t crc = (uint32_t)crc32(0, (const Bytef *)text, (uInt)n);
    uint8_t number[4] = {(uint8_t)(crc >> 24), (uint8_t)(crc >> 16), (uint8_t)(crc >> 8),
                         (uint8_t)crc};

    put_base62(number, sizeof(number), out, CHECKSUM_DIGITS);
}

static bool cell_ok(const char *cell, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(cell[i] >= 'a' && cell[i] <= 'z') && !(cell[i] >= '0' && cell[i] <= '9'))
            return false;
    return n > 0 && n <= KEY_CELL_MAX;
}

bool key_text_cell_ok(const char *cell)
{
    return cell_ok(cell, strlen(cell));
}

static bool is_base62(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!text[i] || !strchr(digits, text[i]))
            return false;
    return true;
}

bool key_text_read(const char *text, size_t n, uint8_t hash[KEY_HASH_LEN])
{
    static const size_t prefix = sizeof(PREFIX) - 1;
    char checksum[CHECKSUM_DIGITS];
    const char *tail;

    if (n <= prefix + TAIL || n > prefix + KEY_CELL_MAX + TAIL || memcmp(text, PREFIX, prefix) != 0)
        return false;
    tail = text + n - TAIL;
    if (!cell_ok(text + prefix, n - TAIL - prefix) || tail[0] != '_' ||
        tail[1 + RANDOM_DIGITS] != '_' || !is_base62(tail + 1, RANDOM_DIGITS))
        return false;
    put_checksum(text, n - 1 - CHECKSUM_DIGITS, checksum);
    if (memcmp(text + n - CHECKSUM_DIGITS, checksum, CHECKSUM_DIGITS) != 0)
        return false;
    hash_text(text, n, hash);
    return true;
}

void key_text_new(char out[KEY_TEXT_MAX], const char *cell, uint8_t hash[KEY_HASH_LEN])
{
    uint8_t bytes[RANDOM_BYTES];
    size_t n;

    MUST(key_text_cell_ok(cell));
    /* Straight from the kernel: what is drawn ahead of need stays in memory. */
    MUST(getrandom(bytes, sizeof(bytes), 0) == (ssize_t)sizeof(bytes));
    n = (size_t)snprintf(out, KEY_TEXT_MAX, PREFIX "%s_", cell);
    put_base62(bytes, sizeof(bytes), out + n, RANDOM_DIGITS);
    OPENSSL_cleanse(bytes, sizeof(bytes));
    n += RANDOM_DIGITS;
    put_checksum(out, n, out + n + 1);
    out[n] = '_';
    n += 1 + CHECKSUM_DIGITS;
    out[n] = '\0';
    hash_text(out, n, hash);
}
