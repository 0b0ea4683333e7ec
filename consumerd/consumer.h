#ifndef CONSUMERD_CONSUMER_H
#define CONSUMERD_CONSUMER_H

/*
 * The parts that deliver, as one: this process's row among the workers, the dispatcher to the
 * operators, and a lane for each type. Started and stopped by main.
 */

#include "consumerd/settings.h"

struct consumer;
struct doorbell;

struct consumer *consumer_start(const struct settings *settings, struct doorbell *doorbell);
/* Reads OPERATORS_FILE again: from the next call on, operators are as it describes them. A wrong
 * one, or one of which something takes a restart, changes nothing; the log says what came of it.
 * Blocks on files. */
void consumer_reload(struct consumer *c);
/* Takes nothing new and finishes what is in hand, within the drain's time; what is left then is
 * interrupted and put down. Frees it. */
void consumer_stop(struct consumer *c);

#endif
