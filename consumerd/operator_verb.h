#ifndef CONSUMERD_OPERATOR_VERB_H
#define CONSUMERD_OPERATOR_VERB_H

/*
 * msg-consumerd operator list|test|check|keys: what a person does who writes an operator's file.
 *
 * list   the operators, in their order
 * test   sends one message through one of them, as a delivery would, and shows the request, with
 *        secrets as ***, the answer and the verdict; with --dry-run the request alone
 * check  says the verdict on an answer that was recorded: as it came over the wire, with or without
 *        a length; where it has one that is more than there is, it was cut off
 * keys   the keys of a section, as a table
 *
 * All but test need no secret, and none a database or a broker.
 */

#include "consumerd/settings.h"

/* As a daemon_verb's run. */
int operator_main(const struct settings *settings, int argc, char **argv);

#endif
