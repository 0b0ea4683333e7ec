#include "libcommon/base/json_path.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/must.h"

#define INTEGER_DIGITS 19 /* fewer fit 63 bits */

struct reader {
    const char *at, *end;
};

/* The next name, to where there is room for what is left of the text. False: it cannot be one. */
static bool take_name(struct reader *r, char **to)
{
    bool quoted = r->at < r->end && *r->at == '"';

    r->at += quoted;
    while (r->at < r->end && *r->at != (quoted ? '"' : '.')) {
        if (!*r->at || (!quoted && strchr(" \t\"", *r->at)))
            return false;
        *(*to)++ = *r->at++;
    }
    *(*to)++ = '\0';
    return !quoted || r->at++ < r->end;
}

bool json_path_compile(struct json_path *path, const char *text, size_t n, char *why, size_t size)
{
    struct reader r = {text, text + n};
    char names[JSON_PATH_MAX + JSON_PATH_STEPS];
    char *to = names;
    size_t steps = 0;

    *path = (struct json_path){0};
    if (n > JSON_PATH_MAX) {
        snprintf(why, size, "has a path of more than %d bytes", JSON_PATH_MAX);
        return false;
    }
    while (n) {
        const char *from = r.at;

        if (steps == JSON_PATH_STEPS) {
            snprintf(why, size, "has a path of more than %d steps", JSON_PATH_STEPS);
            return false;
        }
        if (!take_name(&r, &to) || r.at == from || (r.at < r.end && *r.at != '.')) {
            snprintf(why, size, "has a path that is not names with dots between them");
            return false;
        }
        steps++;
        if (r.at == r.end)
            break;
        r.at++;
    }
    path->names = must_alloc(1, (size_t)(to - names) + 1);
    memcpy(path->names, names, (size_t)(to - names));
    path->steps = steps;
    return true;
}

void json_path_free(struct json_path *path)
{
    free(path->names);
    *path = (struct json_path){0};
}

/* The place that a name is in an array; SIZE_MAX: none. */
static size_t place_of(const char *name)
{
    size_t n = strlen(name);

    if (!n || n > 6 || strspn(name, "0123456789") != n)
        return SIZE_MAX;
    return (size_t)strtoul(name, NULL, 10);
}

/* The length of a string that begins there, with its quotes; of one without an end, the rest. */
static size_t string_length(const char *s, size_t n)
{
    size_t i = 1;

    while (i < n && s[i] != '"')
        i += s[i] == '\\' && i + 1 < n ? 2 : 1;
    return i < n ? i + 1 : n;
}

static size_t number_length(const char *s, size_t n)
{
    size_t i = 0;

    while (i < n && s[i] && strchr("+-.0123456789Ee", s[i]))
        i++;
    return i;
}

static bool is_large_integer(const char *s, size_t n)
{
    size_t sign = n > 0 && *s == '-';

    if (n < sign + INTEGER_DIGITS || s[sign] == '0')
        return false;
    for (size_t i = sign; i < n; i++)
        if (s[i] < '0' || s[i] > '9')
            return false;
    return true;
}

/* Else a number would become a member's name. */
static bool ends_value(const char *s, size_t n)
{
    size_t blanks = 0;

    while (blanks < n && s[blanks] && strchr(" \t\r\n", s[blanks]))
        blanks++;
    return blanks == n || s[blanks] != ':';
}

/* Outside of strings a digit or a minus begins a number, or the text is no JSON and stays none. */
static void put_large_quoted(const char *text, size_t n, struct buf *out)
{
    for (size_t i = 0, len; i < n; i += len) {
        bool large;

        len = text[i] == '"' ? string_length(text + i, n - i) : number_length(text + i, n - i);
        large = text[i] != '"' && is_large_integer(text + i, len) &&
                ends_value(text + i + len, n - i - len);
        len += !len;
        if (large)
            buf_putc(out, '"');
        buf_put(out, text + i, len);
        if (large)
            buf_putc(out, '"');
    }
}

static bool is_for_memory(const json_t *json, const json_error_t *error)
{
    return !json && json_error_code(error) == json_error_out_of_memory;
}

json_t *json_read(const char *text, size_t n, size_t flags, bool *no_memory)
{
    struct buf quoted = {0};
    json_error_t error;
    json_t *json = json_loadb(text, n, flags, &error);
    bool failed = is_for_memory(json, &error);

    if (!json && json_error_code(&error) == json_error_numeric_overflow) {
        put_large_quoted(text, n, &quoted);
        if (!quoted.failed)
            json = json_loadb(quoted.data, quoted.len, flags, &error);
        failed = quoted.failed || is_for_memory(json, &error);
        buf_free(&quoted);
    }
    if (no_memory)
        *no_memory = failed;
    return json;
}

const json_t *json_path_get(const struct json_path *path, const json_t *root)
{
    const char *name = path->names;

    for (size_t i = 0; root && i < path->steps; i++, name += strlen(name) + 1)
        root = json_is_array(root) ? json_array_get(root, place_of(name))
                                   : json_object_get(root, name);
    return root;
}

const char *json_scalar(const json_t *value, char out[JSON_SCALAR_MAX])
{
    size_t n;

    switch (value ? json_typeof(value) : JSON_OBJECT) {
    case JSON_STRING:
        n = json_string_length(value);
        if (n >= JSON_SCALAR_MAX || memchr(json_string_value(value), '\0', n))
            return NULL;
        memcpy(out, json_string_value(value), n + 1);
        return out;
    case JSON_INTEGER:
        snprintf(out, JSON_SCALAR_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return out;
    case JSON_REAL:
        snprintf(out, JSON_SCALAR_MAX, "%.15g", json_real_value(value));
        return out;
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    default:
        return NULL;
    }
}
