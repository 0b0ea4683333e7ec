#ifndef LIBCOMMON_BASE_JSON_PATH_H
#define LIBCOMMON_BASE_JSON_PATH_H

/*
 * Where a value stands in a JSON text: names of members and places in arrays, with dots between
 * them: messages.0.message-id. A name that holds a dot or a blank, or nothing, is in quotes:
 * a."b.c". In an array a number is a place, in an object it is a name. The empty path is the text's
 * own value. Pure; a compiled path is read-only, for any thread.
 */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#define JSON_PATH_MAX 200 /* bytes */
#define JSON_PATH_STEPS 16
#define JSON_SCALAR_MAX 512 /* bytes of a value's text, with its NUL */

struct json_path {
    char *names; /* of its steps, each ends with a NUL; NULL: there is none */
    size_t steps;
};

/* From n bytes. False with the end of a sentence in why. */
bool json_path_compile(struct json_path *path, const char *text, size_t n, char *why, size_t size);
void json_path_free(struct json_path *path);

/* As json_loadb, but that an integer of more than 63 bits, which that refuses with all around it,
 * is read as the text of its digits: an identifier loses none. NULL: it is no JSON, or *no_memory
 * (may be NULL). */
json_t *json_read(const char *text, size_t n, size_t flags, bool *no_memory);

/* NULL: nothing is there. */
const json_t *json_path_get(const struct json_path *path, const json_t *root);

/* The text of a string, a number, true, false or null; of a fraction, 15 digits. NULL: it is an
 * object, an array or nothing; a text is never cut, one that does not fit, or holds a NUL, is none.
 */
const char *json_scalar(const json_t *value, char out[JSON_SCALAR_MAX]);

#endif
