#ifndef LIBCOMMON_DOMAIN_LEDGER_INTERNAL_H
#define LIBCOMMON_DOMAIN_LEDGER_INTERNAL_H

/* What ledger.c and ledger_move.c share; nobody else includes this. */

void ledger_move_register(void);

#endif
