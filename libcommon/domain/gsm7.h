#ifndef LIBCOMMON_DOMAIN_GSM7_H
#define LIBCOMMON_DOMAIN_GSM7_H

/*
 * The 7-bit default alphabet of GSM 03.38, with its extension table: what is written in it alone
 * takes seven bits a character on the air, everything else sixteen. Pure.
 */

#include <stdbool.h>
#include <stddef.h>

/* Whether n bytes of UTF-8 hold no other character. */
bool gsm7_holds(const char *s, size_t n);

#endif
