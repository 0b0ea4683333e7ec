#ifndef LIBCOMMON_DAEMON_STATUS_PAGE_H
#define LIBCOMMON_DAEMON_STATUS_PAGE_H

/* status.html as bytes; the build makes status_page.c of it. */

#include <stddef.h>

extern const unsigned char status_page[];
extern const size_t status_page_len;

#endif
