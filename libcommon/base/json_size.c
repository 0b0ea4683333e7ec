#include "libcommon/base/json_size.h"

#include <stdbool.h>

const char *json_surplus(const char *text, size_t n, size_t most)
{
    const char *end = text + n;
    size_t values = 1; /* each other one stands behind a comma or an opening bracket */
    bool quoted = false;

    if (n <= most)
        return NULL;
    for (; text < end; text++) {
        if (quoted && *text == '\\' && text + 1 < end)
            text++;
        else if (*text == '"')
            quoted = !quoted;
        else if (!quoted && (*text == ',' || *text == '[' || *text == '{') && ++values > most)
            return text;
    }
    return NULL;
}
