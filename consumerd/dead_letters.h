#ifndef CONSUMERD_DEAD_LETTERS_H
#define CONSUMERD_DEAD_LETTERS_H

/*
 * msg-consumerd dead list|show|replay|drop: what a person does about messages in the dead-letter
 * queue. A letter is named by its message id, or by #<place> when it has none. A bundle that went
 * there whole is dealt with whole by its own id, which is its first message's; by another of its
 * messages' id that message alone is, and each other becomes a letter of its own. Letters that are
 * only looked at go back to the queue before the verb ends. Of one message there may be several
 * letters (list says which are copies); whatever is done to both is done once.
 *
 * replay  publishes each message of the letter to its lane again, alone, confirmed, and then takes
 *         the letter off the queue; a message that was given up on because it may have killed
 *         consumers gets a clean record; what a bundle holds that is no message stays, by itself
 * drop    fails and refunds the recipients of its messages that are not final, then takes the
 *         letter off the queue; a message that a living consumer has in hand, or the outbox will
 *         bring, is left, and stays a letter
 *
 * drop --unreadable takes away the letters that the library cannot take in (more headers than a
 * frame may hold). The other verbs step over them, and say how many there are.
 *
 * Every verb sees what is in the queue when it begins, once whoever looked before has given it
 * back, and nothing that comes later; of that as much as its memory may hold, and the next time
 * what is behind. It fails when it was to deal with all and could not see all.
 */

#include "consumerd/settings.h"

/* As a daemon_verb's run. */
int dead_letters_main(const struct settings *settings, int argc, char **argv);

#endif
