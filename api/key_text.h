#ifndef API_KEY_TEXT_H
#define API_KEY_TEXT_H

/*
 * What a key looks like: msg_<cell>_<random>_<checksum>. The cell ([a-z0-9], 1 to 16 characters)
 * says which installation it is of; the random part is 24 bytes from the kernel in base 62; the
 * checksum is the CRC-32 of all that stands before it (without the last underscore), in base 62. So
 * a scanner knows a key that leaked, and one that was mistyped is refused without a look at any
 * table: no change of a single character keeps the checksum. Pure, but for the random bytes; any
 * thread.
 *
 * A key's text is a secret: whoever holds one clears it when it is done (OPENSSL_cleanse). Its hash
 * is none.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KEY_TEXT_MAX 128 /* with a NUL; a key is shorter */
#define KEY_HASH_LEN 32
#define KEY_CELL_MAX 16

/* Whether the shape and the checksum hold, and then hash: the SHA-256 of all n bytes. */
bool key_text_read(const char *text, size_t n, uint8_t hash[KEY_HASH_LEN]);

/* A key that nobody has, and its hash. cell: key_text_cell_ok. */
void key_text_new(char out[KEY_TEXT_MAX], const char *cell, uint8_t hash[KEY_HASH_LEN]);

bool key_text_cell_ok(const char *cell);

#endif
