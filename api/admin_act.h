#ifndef API_ADMIN_ACT_H
#define API_ADMIN_ACT_H

/*
 * The audit line of an administrative act at the command line: who (the user, and who logged in
 * where that is another), what, from where (the terminal, or the address an ssh session comes
 * from). It goes to the log of this process and to the system's (facility auth), because what a
 * shell shows is not kept. Never a key.
 */

#include <stdint.h>

/* act: "key.create"; what: further words, NULL for none; key_id 0: of none. */
void admin_act_log(const char *act, uint64_t key_id, const char *what);
/* The same of a customer: act: "move.begin". */
void admin_act_log_customer(const char *act, int64_t customer_id, const char *what);

#endif
