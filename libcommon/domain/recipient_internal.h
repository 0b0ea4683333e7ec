#ifndef LIBCOMMON_DOMAIN_RECIPIENT_INTERNAL_H
#define LIBCOMMON_DOMAIN_RECIPIENT_INTERNAL_H

/* What recipient.c (states, rows) and recipient_change.c (transitions) share; nobody else includes
 * this. */

#include "libcommon/domain/recipient.h"

void recipient_change_register(void);

#endif
