#ifndef LIBCOMMON_DOMAIN_RECIPIENT_INTERNAL_H
#define LIBCOMMON_DOMAIN_RECIPIENT_INTERNAL_H

/* What recipient.c (states, rows), recipient_change.c (transitions) and recipient_restore.c share;
 * nobody else includes this. */

#include "libcommon/domain/recipient.h"

void recipient_change_register(void);
void recipient_restore_register(void);

#endif
