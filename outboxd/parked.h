#ifndef OUTBOXD_PARKED_H
#define OUTBOXD_PARKED_H

/* msg-outboxd parked list|show|requeue|drop: what a person does about rows that could not be
 * published. Each row is one transaction; what was done is told by log lines. */

/* As a daemon_verb's run. */
int parked_main(int argc, char **argv);

#endif
