#include "api/key_scope.h"

#include <string.h>

#include "libcommon/base/buf.h"

static const struct {
    enum key_scope scope;
    const char *name;
} names[] = {
    {KEY_SEND, "send"},   {KEY_READ, "read"},       {KEY_TOPUP, "topup"},
    {KEY_ADMIN, "admin"}, {KEY_METRICS, "metrics"}, {KEY_WEBHOOKS, "webhooks"},
};

#define COUNT (sizeof(names) / sizeof(names[0]))

const char *key_scope_name(enum key_scope scope)
{
    for (size_t i = 0; i < COUNT; i++)
        if (names[i].scope == scope)
            return names[i].name;
    return "";
}

/* 0: none. */
static unsigned find(const char *name, size_t n)
{
    for (size_t i = 0; i < COUNT; i++)
        if (strlen(names[i].name) == n && !memcmp(names[i].name, name, n))
            return names[i].scope;
    return 0;
}

bool key_scopes_read(const char *list, unsigned *scopes)
{
    unsigned found = 0;
    bool ok = true;

    for (const char *at = list;; at++) {
        size_t n = strcspn(at, ",");
        unsigned scope = find(at, n);

        ok = ok && scope && !(found & scope);
        found |= scope;
        at += n;
        if (!*at)
            break;
    }
    *scopes = found;
    return ok;
}

void key_scopes_put(struct buf *out, unsigned scopes)
{
    const char *comma = "";

    for (size_t i = 0; i < COUNT; i++) {
        if (!(scopes & names[i].scope))
            continue;
        buf_puts(out, comma);
        buf_puts(out, names[i].name);
        comma = ",";
    }
}
