/* The text of an API key: what is taken has its shape, and no other text one character away is. */

#include "api/key_text.h"

#include <stdlib.h>

#include "test/fuzz/fuzz.h"

#define DIGITS "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

/* A checksum holds against a slip of the hand. */
static void check_neighbours(const char *text, size_t n, const uint8_t hash[KEY_HASH_LEN])
{
    char *other = malloc(n + 1);

    MUST(other != NULL);
    memcpy(other, text, n);
    for (size_t i = 0; i < n; i++) {
        uint8_t another[KEY_HASH_LEN];

        other[i] = text[i] == 'a' ? 'b' : 'a';
        MUST(!key_text_read(other, n, another));
        other[i] = text[i];
    }
    {
        uint8_t again[KEY_HASH_LEN];

        MUST(key_text_read(other, n, again) && !memcmp(hash, again, KEY_HASH_LEN));
        MUST(!key_text_read(other, n - 1, again));
    }
    free(other);
}

static void check(const char *text, size_t n, const uint8_t hash[KEY_HASH_LEN])
{
    MUST(n < KEY_TEXT_MAX && !memcmp(text, "msg_", 4));
    for (size_t i = 0; i < n; i++)
        MUST(text[i] && strchr(DIGITS "_", text[i]));
    check_neighbours(text, n, hash);
}

/* An input may name the cell of a new key: few would ever find a checksum. */
static void try_new(const char *cell)
{
    char text[KEY_TEXT_MAX];
    uint8_t hash[KEY_HASH_LEN];
    uint8_t again[KEY_HASH_LEN];

    if (!key_text_cell_ok(cell))
        return;
    key_text_new(text, cell, hash);
    MUST(key_text_read(text, strlen(text), again) && !memcmp(hash, again, KEY_HASH_LEN));
    check(text, strlen(text), hash);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_text input = {(const char *)data, size};
    uint8_t hash[KEY_HASH_LEN];
    char *cell = fuzz_string(input);

    if (key_text_read(input.p, input.n, hash))
        check(input.p, input.n, hash);
    try_new(cell);
    free(cell);
    return 0;
}
