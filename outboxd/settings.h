#ifndef OUTBOXD_SETTINGS_H
#define OUTBOXD_SETTINGS_H

/* msg-outboxd's own settings, and the groups of the parts it uses. Read-only once loaded. */

#include "libcommon/daemon/daemon.h"
#include "libcommon/db/db.h"
#include "libcommon/domain/topology.h"
#include "libcommon/net/httpd.h"

struct outboxd_settings {
    struct daemon_settings daemon;
    struct httpd_settings httpd;
    struct db_settings db;
    struct broker_settings broker;
    int64_t high_workers, low_workers;
    int64_t batch, batch_bytes;
    int64_t poll_min_ms, poll_max_ms, idle_poll_ms, lag_ms, full_look_ms;
    int64_t confirm_timeout_ms;
    int64_t max_attempts, retry_base_ms, retry_max_ms;
    int64_t sample_ms, sample_limit;
};

extern struct outboxd_settings outboxd_settings;
extern const struct daemon_program outboxd_program;

#endif
