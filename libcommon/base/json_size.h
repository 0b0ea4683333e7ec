#ifndef LIBCOMMON_BASE_JSON_SIZE_H
#define LIBCOMMON_BASE_JSON_SIZE_H

#include <stddef.h>

/* Where n bytes of JSON go on to more than most values; NULL: nowhere. A parsed document takes up
 * to a hundred times the bytes of its text, by its values: what comes from outside is asked before
 * it is parsed. Of what is no JSON the answer is of no matter. Pure; costs nothing for a text of at
 * most most bytes. */
const char *json_surplus(const char *text, size_t n, size_t most);

#endif
