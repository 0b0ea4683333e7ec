#ifndef CONSUMERD_HOUSEKEEPING_H
#define CONSUMERD_HOUSEKEEPING_H

/* What msg-consumerd's janitor cleans. */

#include "consumerd/settings.h"
#include "libcommon/daemon/janitor.h"

struct janitor *housekeeping_start(const struct settings *settings); /* once a process */

#endif
