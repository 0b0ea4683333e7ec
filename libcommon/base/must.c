#include "libcommon/base/must.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Written past the log's ring: its writer thread may be what is broken. */
void must_fail(const char *what, const char *file, int line)
{
    char text[512];
    int n = snprintf(text, sizeof(text),
                     "{\"level\":\"fatal\",\"event\":\"must.failed\",\"msg\":\"%s:%d\"}\n"
                     "impossible state: %s at %s:%d\n",
                     file, line, what, file, line);

    if (n > 0 &&
        write(STDERR_FILENO, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text)) < 0)
        abort();
    abort();
}

void *must_alloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);

    MUST(p != NULL);
    return p;
}

char *must_strdup(const char *s)
{
    char *p = strdup(s);

    MUST(p != NULL);
    return p;
}
