#ifndef CONSUMERD_HELD_H
#define CONSUMERD_HELD_H

/*
 * What is held (OPERATOR_UNKNOWN_POLICY=hold): open recipients that an operator may have, and that
 * nobody can find out about. `msg-consumerd held` shows them and takes a person's word for what
 * became of them. How many they are is held_watch.h. Blocks.
 */

#include "consumerd/settings.h"

/* "held": list, done MESSAGE [POSITION...] --operator NAME, fail MESSAGE [POSITION...] or --all.
 * Never prints a recipient or a text. */
int held_main(const struct settings *settings, int argc, char **argv);

#endif
