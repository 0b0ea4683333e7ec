#ifndef LIBCOMMON_BROKER_BROKER_REFUSAL_H
#define LIBCOMMON_BROKER_BROKER_REFUSAL_H

/*
 * What the broker's refusals mean, in words that say what to do. Pure. text is the broker's own; it
 * cuts it at 255 bytes, so a clash is told from what stands at its beginning.
 */

#include "libcommon/base/err.h"

/* what: "queue message_normal", what was being done or declared. ERR_PERMANENT when a person must
 * mend something, else ERR_RETRY. Returns -1. */
int broker_refused(unsigned code, const char *what, const char *text, struct err *err);

#endif
