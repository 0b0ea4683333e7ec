#include "libcommon/domain/gsm7.h"

#include <string.h>

#include "libcommon/base/utf8.h"

/* Of ASCII: everything but these, and control characters other than LF, CR and FF. */
static const char not_in_it[] = "`";

/* Beyond ASCII. */
static const char beyond[] = "£¥èéùìòÇØøÅåΔΦΓΛΩΠΨΣΘΞÆæßÉ¤¡ÄÖÑÜ§¿äöñüà€";

static bool is_ascii_of_it(char c)
{
    if (c < ' ')
        return c == '\n' || c == '\r' || c == '\f';
    return c != '\x7f' && !strchr(not_in_it, c);
}

static bool is_beyond(const char *s, size_t length)
{
    for (const char *at = beyond; *at; at += utf8_character(at, strlen(at)))
        if (!memcmp(at, s, length))
            return true;
    return false;
}

bool gsm7_holds(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t length = utf8_character(s + i, n - i);

        if (!length || !(length == 1 ? is_ascii_of_it(s[i]) : is_beyond(s + i, length)))
            return false;
        i += length;
    }
    return true;
}
