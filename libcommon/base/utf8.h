#ifndef LIBCOMMON_BASE_UTF8_H
#define LIBCOMMON_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Whether n bytes are well-formed UTF-8 (RFC 3629 section 4) without a NUL. Pure. */
bool utf8_ok(const char *s, size_t n);

#endif
