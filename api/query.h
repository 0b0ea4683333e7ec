#ifndef API_QUERY_H
#define API_QUERY_H

/* Parameters of a request's query. What is wrong with one is answered with 400 on the spot. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/net/httpd.h"

/* A whole number from min to max; an absent one is initial, or required when initial is below min.
 * False: answered. */
bool query_number(struct httpd_request *req, const char *name, int64_t min, int64_t max,
                  int64_t initial, int64_t *out);

/* A text of at most size - 1 printable ASCII characters, as columns of identifiers hold them; ""
 * when it is absent or empty. False: answered. */
bool query_ascii(struct httpd_request *req, const char *name, char *out, size_t size);

#endif
