#include "libcommon/base/utf8.h"

#include <stdint.h>
#include <string.h>

size_t utf8_character(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t len = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : 4;

    if (len == 1)
        return s[0] != '\0';
    if (s[0] < 0xc2 || s[0] > 0xf4 || len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return len;
}

bool utf8_is_control(const char *text, size_t length)
{
    const unsigned char *s = (const unsigned char *)text;

    return (length == 1 && (s[0] < 0x20 || s[0] == 0x7f)) ||
           (length == 2 && s[0] == 0xc2 && s[1] < 0xa0);
}

/* Eight characters of ASCII, none of them NUL: most texts are nothing else. */
static bool is_plain(const char *s)
{
    const uint64_t each = UINT64_MAX / 255;
    uint64_t eight;

    memcpy(&eight, s, sizeof(eight));
    return !((eight | (eight - each)) & each * 0x80);
}

bool utf8_ok(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        if (n - i >= 8 && is_plain(s + i)) {
            i += 8;
            continue;
        }
        size_t len = utf8_character(s + i, n - i);

        if (!len)
            return false;
        i += len;
    }
    return true;
}
