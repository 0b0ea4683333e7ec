#ifndef API_RESTORE_H
#define API_RESTORE_H

/*
 * What a person decides after a backup was loaded (docs/backup.md): the verbs of msg-api
 * restore-mode. The mode itself is libcommon/db/restore_mode.h.
 *
 *   on      nothing is delivered from now on; waits until everybody who runs has seen it
 *   resume  what the backup has open is delivered: whoever gets it next first asks all operators
 *           whether they have it; then the mode is off
 *   fail    what is open of messages older than that fails and is refunded; the rest stays
 *   off     plainly off
 *   status  what there is
 *
 * Each may be repeated, after a failure in its middle too. Results are printed. All of them block,
 * on a connection that is acquired; they return 0, 1 when not all could be done or confirmed, or
 * -1.
 */

#include "libcommon/db/db.h"

void restore_register(void);

int restore_on(struct db *db, struct err *err);
int restore_resume(struct db *db, struct err *err);
int restore_fail(struct db *db, int64_t older_than_sec, bool dry_run, struct err *err);
int restore_off(struct db *db, struct err *err);
int restore_status(struct db *db, struct err *err);

/* "90", "90s", "15m", "36h" or "7d", in seconds; false: none of these, or over ten years. */
bool restore_parse_age(const char *text, int64_t *sec);

#endif
