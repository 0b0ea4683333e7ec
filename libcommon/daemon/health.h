#ifndef LIBCOMMON_DAEMON_HEALTH_H
#define LIBCOMMON_DAEMON_HEALTH_H

/*
 * What --health does: a program asks the one of its kind that runs here whether it lives, so that
 * an image needs neither a shell nor an HTTP client for its health check.
 */

#include "libcommon/daemon/daemon.h"

/* GET /healthz on LISTEN_ADDR, on the loopback when that names every address, over TLS where
 * HTTP_TLS_CERT_FILE is set, behind a PROXY header where TRUSTED_PROXIES that have to send one
 * include us; at most HEALTH_MS. Prints one sentence. Returns the exit code: 0 for an answer 200,
 * else 1. */
int health_check(const struct daemon_program *program);

#define HEALTH_MS 2000

#endif
