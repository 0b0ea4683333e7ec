#ifndef LIBCOMMON_DOMAIN_OPERATOR_SECRET_H
#define LIBCOMMON_DOMAIN_OPERATOR_SECRET_H

/*
 * Where the secrets of operators' files come from, the first that there is: the environment's NAME;
 * the file that NAME_FILE names; the file NAME in the service's credentials, or, with secret_
 * before its name, as the units hand them on (CREDENTIALS_DIRECTORY). One newline at a file's end
 * is cut.
 *
 * What came from the environment is wiped there, as settings are, and remembered: a reload finds it
 * again. Files are read anew each time, so that a secret can be replaced. Any thread.
 */

#include <stdbool.h>
#include <stddef.h>

#include "libcommon/base/buf.h"

/* An operator_secret_fn. */
bool operator_secret_get(const char *name, struct buf *out, char *why, size_t size);

#endif
