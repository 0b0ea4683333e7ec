#include "libcommon/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base/utf8.h"

static void end_with_a_word(char *text, size_t size)
{
    static const char dots[] = " ...";
    size_t n = size - sizeof(dots);

    while (n && text[n] != ' ')
        n--;
    if (n)
        memcpy(text + n, dots, sizeof(dots));
}

/* Peers' own words are in it, and it may be shown on a terminal. */
static void make_plain(char *text)
{
    size_t len;

    for (char *end = text + strlen(text); text < end; text += len) {
        len = utf8_character(text, (size_t)(end - text));
        if (len && !utf8_is_control(text, len))
            continue;
        len = len ? len : 1;
        memset(text, '?', len);
    }
}

int err_set(struct err *e, enum err_kind kind, unsigned code, const char *fmt, ...)
{
    va_list ap;
    int n;

    e->kind = kind;
    e->code = code;
    va_start(ap, fmt);
    n = vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
    va_end(ap);
    if (n >= (int)sizeof(e->msg))
        end_with_a_word(e->msg, sizeof(e->msg));
    make_plain(e->msg);
    return -1;
}

const char *err_kind_name(enum err_kind kind)
{
    static const char *const names[] = {
        [ERR_NONE] = "none",       [ERR_RETRY] = "retry", [ERR_PERMANENT] = "permanent",
        [ERR_UNKNOWN] = "unknown", [ERR_BUG] = "bug",
    };

    return names[kind];
}
