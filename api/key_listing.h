#ifndef API_KEY_LISTING_H
#define API_KEY_LISTING_H

/* What `msg-api key list` prints: every key there is or was, without hash or secret. Blocks. */

#include <stdbool.h>

#include "libcommon/db/db.h"

/* On stdout: a line each, or a JSON array. db is acquired. */
int key_listing_print(struct db *db, bool json, struct err *err);

#endif
