#ifndef API_VERBS_H
#define API_VERBS_H

/* msg-api's verbs: what a person or a script runs beside the server. Each is a daemon_verb's run,
 * with a database connection of its own. Block. */

/* Brings the schema up to date. */
int verbs_migrate(int argc, char **argv);
/* Checks that money and messages add up; 1 when they do not. */
int verbs_audit(int argc, char **argv);
/* Makes, lists, replaces and revokes API keys (key_store.h). A new key is all that stands on
 * stdout, once. */
int verbs_key(int argc, char **argv);
/* Moves a customer to another cell, takes that back, and says who has moved (move.h). */
int verbs_customer(int argc, char **argv);
/* Holds deliveries back after a backup was loaded, and says what becomes of them (restore.h). */
int verbs_restore_mode(int argc, char **argv);

#endif
