#ifndef LIBCOMMON_DOMAIN_RECIPIENT_INTERNAL_H
#define LIBCOMMON_DOMAIN_RECIPIENT_INTERNAL_H

/* What recipient.c (states, rows), recipient_change.c (transitions) and recipient_restore.c share;
 * nobody else includes this. */

#include "libcommon/domain/recipient.h"

void recipient_change_register(void);
void recipient_restore_register(void);

/* The mark beside the names that are there, which may be of operators that are gone. */
#define RECIPIENT_MARKED                                                   \
    "CASE WHEN FIND_IN_SET('" RECIPIENT_UNKNOWN_ANY "',unknown_operators)" \
    " THEN unknown_operators"                                              \
    " WHEN unknown_operators='' THEN '" RECIPIENT_UNKNOWN_ANY "'"          \
    " WHEN OCTET_LENGTH(unknown_operators)>253"                            \
    " THEN '" RECIPIENT_UNKNOWN_ANY "," RECIPIENT_UNKNOWN_MORE "'"         \
    " ELSE CONCAT(unknown_operators,'," RECIPIENT_UNKNOWN_ANY "') END"

#endif
