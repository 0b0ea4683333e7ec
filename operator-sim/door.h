#ifndef OPERATOR_SIM_DOOR_H
#define OPERATOR_SIM_DOOR_H

/*
 * The simulator's main listener, which can be shut so that connections are refused, and opened
 * again on the same port. A thread of its own does both, since a server cannot end itself from one
 * of its handlers: door_refuse only says what is wanted. Shutting lets answers under way be
 * written, and ends whatever is held back.
 */

#include <stdbool.h>
#include <stdint.h>

#include "libcommon/net/httpd.h"

struct door;

/* Opens unless it is to refuse from the start. config's parts outlive the door. */
struct door *door_new(const struct httpd_config *config, bool refuse, int64_t refuse_ms,
                      struct err *err);
/* refuse_ms: opens by itself after that; 0: stays shut until told. Any thread. */
void door_refuse(struct door *door, bool refuse, int64_t refuse_ms);
bool door_is_refusing(struct door *door);
void door_drain(struct door *door, int timeout_ms); /* shuts for good */
void door_free(struct door *door);                  /* NULL is fine */

#endif
