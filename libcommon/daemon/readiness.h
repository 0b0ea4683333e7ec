#ifndef LIBCOMMON_DAEMON_READINESS_H
#define LIBCOMMON_DAEMON_READINESS_H

/*
 * What /readyz says beside the dependencies: lanes, each at work or with a sentence why not, and
 * warnings, which make nothing unready. A daemon with a lane that does not work is not ready; what
 * is asked for traffic is not concerned. Lanes are made at start; any thread sets and reads them.
 */

#include <stdbool.h>

struct buf;
struct readiness_lane;

/* Not at work until it is said to be. name is copied; never freed. */
struct readiness_lane *readiness_lane_new(const char *name);
/* NULL: it is at work. True: that is news (it worked before and does not any more, or the other way
 * round, or the reason is another one), so that whoever logs it does so once. */
bool readiness_lane_is(struct readiness_lane *lane, const char *trouble);

/* Keeps one warning for a topic, up to READINESS_WARNINGS of them; "" takes it back. True: news. */
bool readiness_warn(const char *topic, const char *warning);

/* Whether all lanes are at work. */
bool readiness_of_lanes(void);
/* Appends ,"lanes":{…} and ,"warnings":[…], each only if there are any. */
void readiness_put(struct buf *out);

#define READINESS_WARNINGS 8

#endif
