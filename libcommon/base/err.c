#include "libcommon/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void end_with_a_word(char *text, size_t size)
{
    static const char dots[] = " ...";
    size_t n = size - sizeof(dots);

    while (n && text[n] != ' ')
        n--;
    if (n)
        memcpy(text + n, dots, sizeof(dots));
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
