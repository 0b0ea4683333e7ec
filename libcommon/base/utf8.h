#ifndef LIBCOMMON_BASE_UTF8_H
#define LIBCOMMON_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Whether n bytes are well-formed UTF-8 (RFC 3629 section 4) without a NUL. Pure. */
bool utf8_ok(const char *s, size_t n);
/* The length of the character that n > 0 bytes begin with; 0: that is none, or a NUL. Pure. */
size_t utf8_character(const char *s, size_t n);
/* Whether that character is a control character, one of those beyond ASCII included. Pure. */
bool utf8_is_control(const char *s, size_t length);

#endif
