#ifndef LIBCOMMON_DAEMON_STATUS_H
#define LIBCOMMON_DAEMON_STATUS_H

/*
 * /status: one page for people, the same in every daemon, which reads /metrics and /status.json of
 * its own process every two seconds and shows the groups that it finds there. The page is
 * status.html, compiled in. Its Content-Security-Policy lets run what is in the page and nothing
 * else.
 */

#include <stdbool.h>
#include <stddef.h>

struct buf;
struct httpd_request;

void status_handle_page(struct httpd_request *req, void *arg);

/* Appends 'sha256-...' of what stands between the tags of html's first element of that name, as a
 * browser computes it. False when there is none. */
bool status_put_hash(struct buf *out, const char *html, size_t n, const char *element);

#endif
