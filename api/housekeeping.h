#ifndef API_HOUSEKEEPING_H
#define API_HOUSEKEEPING_H

/* What msg-api's janitor cleans. */

#include "libcommon/daemon/janitor.h"

struct janitor *housekeeping_start(void); /* settings: api_settings; once a process */

#endif
