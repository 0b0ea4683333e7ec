#include "libcommon/base/err.h"

#include <stdarg.h>
#include <stdio.h>

int err_set(struct err *e, enum err_kind kind, unsigned code, const char *fmt, ...)
{
    va_list ap;

    e->kind = kind;
    e->code = code;
    va_start(ap, fmt);
    vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
    va_end(ap);
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
