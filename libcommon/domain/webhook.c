#include "libcommon/domain/webhook.h"

#include <string.h>
#include <strings.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/settings.h"

static const struct {
    const char *name;
    const char *word; /* of ids */
} kinds[WEBHOOK_KINDS] = {
    [WEBHOOK_DONE] = {"message.done", "done"},
    [WEBHOOK_FAILED] = {"message.failed", "failed"},
    [WEBHOOK_DELIVERED] = {"message.delivered", "delivered"},
    [WEBHOOK_UNDELIVERED] = {"message.undelivered", "undelivered"},
    [WEBHOOK_BALANCE_LOW] = {"balance.low", "low"},
    [WEBHOOK_DISABLED] = {"webhook.disabled", "disabled"},
};

const char *webhook_kind_name(enum webhook_kind kind)
{
    return kinds[kind].name;
}

bool webhook_kind_parse(const char *name, enum webhook_kind *kind)
{
    for (int i = 0; i < WEBHOOK_KINDS; i++)
        if ((WEBHOOK_CHOICES & WEBHOOK_BIT(i)) && strcmp(name, kinds[i].name) == 0)
            return *kind = (enum webhook_kind)i, true;
    return false;
}

void webhook_put_kinds(struct buf *json, unsigned set)
{
    const char *comma = "";

    for (int i = 0; i < WEBHOOK_KINDS; i++) {
        if (!(set & WEBHOOK_CHOICES & WEBHOOK_BIT(i)))
            continue;
        buf_printf(json, "%s\"%s\"", comma, kinds[i].name);
        comma = ",";
    }
}

void webhook_put_id(struct buf *out, const char *subject, enum webhook_kind kind)
{
    buf_puts(out, subject);
    buf_putc(out, '-');
    buf_puts(out, kinds[kind].word);
}

/* The characters of host and port: up to the path or the query. */
static size_t authority(const char *s)
{
    return strcspn(s, "/?");
}

const char *webhook_url_fault(const char *url)
{
    size_t scheme = strncasecmp(url, "https://", 8) == 0  ? 8
                    : strncasecmp(url, "http://", 7) == 0 ? 7
                                                          : 0;
    size_t n = strlen(url);

    if (n > WEBHOOK_URL_MAX)
        return "A URL has at most 1,000 characters.";
    if (!scheme)
        return "A URL begins with https:// or http://.";
    for (size_t i = 0; i < n; i++)
        if (url[i] <= ' ' || url[i] > '~' || strchr("\"\\<>^`{|}", url[i]))
            return "A URL has only characters that need no escape; others are written as %XX.";
    if (strchr(url, '#'))
        return "A URL that is called has no fragment.";
    if (memchr(url + scheme, '@', authority(url + scheme)))
        return "A URL has no user and no password.";
    if (!authority(url + scheme) || url[scheme] == ':')
        return "A URL names a host.";
    return settings_url_port_ok(url) ? NULL : "A port is a number from 1 to 65535.";
}
