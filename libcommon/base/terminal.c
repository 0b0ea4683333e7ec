#include "libcommon/base/terminal.h"

#include <string.h>

#include "libcommon/base/utf8.h"

void terminal_put(FILE *to, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t len = utf8_character(s + i, n - i);
        size_t end = i + (len ? len : 1);

        if (len && !utf8_is_control(s + i, len))
            fwrite(s + i, 1, len, to);
        else
            for (size_t k = i; k < end; k++)
                fprintf(to, "\\x%02x", (unsigned char)s[k]);
        i = end;
    }
}

void terminal_puts(FILE *to, const char *s)
{
    if (s)
        terminal_put(to, s, strlen(s));
}
