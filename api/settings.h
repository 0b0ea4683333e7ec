#ifndef API_SETTINGS_H
#define API_SETTINGS_H

/* msg-api's own settings, and the groups of the parts it uses. Read-only once loaded. */

#include <stddef.h>

#include "libcommon/daemon/daemon.h"
#include "libcommon/db/db.h"
#include "libcommon/domain/price.h"
#include "libcommon/domain/receipt_address.h"
#include "libcommon/domain/topology.h"
#include "libcommon/net/httpd.h"

struct api_settings {
    struct daemon_settings daemon;
    struct httpd_settings httpd;
    struct db_settings db;
    struct broker_settings broker;
    bool migrate_on_start;
    struct price_settings prices;
    struct receipt_settings receipts;
    char *operators_file;       /* "": there is none */
    char *receipts_listen_addr; /* "": the first listener has the route */
    int64_t receipt_workers, receipt_queue_max, receipt_early_max, receipt_keep_days;
    bool refund_undelivered;
    int64_t max_recipients, page_default, page_max;
    int64_t global_rps, global_burst, user_rps, user_burst, user_read_rps, user_read_burst;
    bool pressure_enabled;
    int64_t pressure_pending, pressure_age_sec, pressure_depth, pressure_sample_ms;
    int64_t committers, commit_beside_rows, commit_max_rows, commit_max_bytes, commit_queue_max,
        commit_queue_bytes;
    int64_t request_deadline_ms;
    int64_t readers, read_queue_max, read_queue_user_max, read_scan_rows;
    char *read_host; /* "": the primary answers everything */
    int64_t read_lag_max_sec;
    int64_t idempotency_ttl_hours;
    int64_t audit_load_pct;
    int64_t balance_low, webhooks_per_customer, webhook_grace_sec;
    char *auth; /* required, off */
    bool auth_off_anywhere;
    int64_t keys_stale_sec, auth_failure_rps, auth_failure_burst;
    char *metrics_access, *status_access, *swagger_access; /* open, key, off */
    char *admin_listen_addr;                               /* "": none */
    char *key_cell, *admin_key;                            /* of verbs alone */
    char *cells_dir;                                       /* "": there are no other cells */
    char *swagger_dir;                                     /* "": beside the program or installed */
};

bool settings_asks_for_keys(const struct api_settings *s);
/* Nobody is asked for a key, and not only this machine reaches LISTEN_ADDR. */
bool settings_keys_off_in_the_open(const struct api_settings *s);

extern struct api_settings api_settings;
extern const struct daemon_program api_program;

#endif
