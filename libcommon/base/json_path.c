#include "libcommon/base/json_path.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"

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
