#include "outboxd/settings.h"

#include "libcommon/base/buf.h"
#include "outboxd/claim.h"

struct outboxd_settings outboxd_settings;

static const struct setting listen_rows[] = {HTTPD_LISTEN_ROW("127.0.0.1:8081"), SETTINGS_END};

static const struct setting rows[] = {
    SETTING_INT_ROW(outboxd_settings, high_workers, "OUTBOX_HIGH_WORKERS", "4", 1, 16,
                    "Threads that publish rows of priority 5 and above (express)."),
    SETTING_INT_ROW(outboxd_settings, low_workers, "OUTBOX_LOW_WORKERS", "2", 1, 16,
                    "Threads that publish the other rows."),
    SETTING_INT_ROW(outboxd_settings, batch, "OUTBOX_BATCH", "200", 1, CLAIM_MAX,
                    "Most rows claimed and published at once."),
    SETTING_INT_ROW(outboxd_settings, batch_bytes, "OUTBOX_BATCH_BYTES", "2097152", 65536, 67108864,
                    "Payload bytes of a batch above which the next ones get smaller."),
    SETTING_INT_ROW(outboxd_settings, poll_min_ms, "OUTBOX_POLL_MIN_MS", "50", 1, 1000,
                    "Pause between two looks for new rows while some come, at most; all of it only "
                    "while the doorbell cannot be heard."),
    SETTING_INT_ROW(outboxd_settings, poll_max_ms, "OUTBOX_POLL_MAX_MS", "150", 1, 10000,
                    "Pause it grows to while none come and the doorbell cannot be heard."),
    SETTING_INT_ROW(outboxd_settings, idle_poll_ms, "OUTBOX_IDLE_POLL_MS", "1000", 10, 60000,
                    "Pause between two looks while the doorbell can be heard and does not ring; a "
                    "row whose ring was lost waits that long."),
    SETTING_INT_ROW(outboxd_settings, lag_ms, "OUTBOX_LAG_MS", "1000", 10, 60000,
                    "Longest that a transaction of msg-api may take to commit a row that newer "
                    "rows have passed; slower ones wait for a full look."),
    SETTING_INT_ROW(outboxd_settings, full_look_ms, "OUTBOX_FULL_LOOK_MS", "2000", 100, 600000,
                    "Pause between two looks at the whole outbox, at least; longer when such a "
                    "look costs much."),
    SETTING_INT_ROW(
        outboxd_settings, confirm_timeout_ms, "OUTBOX_CONFIRM_TIMEOUT_MS", "3000", 100, 4500,
        "Longest a batch waits for the broker's confirms. Row locks are held that long."),
    SETTING_INT_ROW(outboxd_settings, max_attempts, "OUTBOX_MAX_ATTEMPTS", "10", 1, 1000,
                    "Attempts after which a row that cannot be published is parked."),
    SETTING_INT_ROW(outboxd_settings, retry_base_ms, "OUTBOX_RETRY_BASE_MS", "1000", 10, 60000,
                    "Pause after a row's first failed attempt; doubles with each."),
    SETTING_INT_ROW(outboxd_settings, retry_max_ms, "OUTBOX_RETRY_MAX_MS", "60000", 10, 3600000,
                    "Longest such pause."),
    SETTING_INT_ROW(outboxd_settings, sample_ms, "OUTBOX_SAMPLE_MS", "2000", 100, 600000,
                    "Pause between two samples of the outbox for the metrics."),
    SETTING_INT_ROW(outboxd_settings, sample_limit, "OUTBOX_SAMPLE_LIMIT", "20000", 1, 10000000,
                    "Rows of a lane that a sample counts at most."),
    SETTINGS_END,
};

static const struct settings_group groups[] = {
    {listen_rows, &outboxd_settings.httpd},
    {rows, &outboxd_settings},
    {daemon_settings_rows, &outboxd_settings.daemon},
    {httpd_settings_rows, &outboxd_settings.httpd},
    {db_settings_rows, &outboxd_settings.db},
    {broker_settings_rows, &outboxd_settings.broker},
    {topology_settings_rows, &outboxd_settings.broker},
    {otlp_settings_rows, &outboxd_settings.daemon.otlp},
};

static size_t check(struct buf *errors)
{
    const struct outboxd_settings *s = &outboxd_settings;
    size_t faults = daemon_settings_check(&s->daemon, &s->httpd, &s->db, errors);

    if (s->high_workers + s->low_workers + 2 > s->db.max_open) {
        buf_printf(errors,
                   "DB_MAX_OPEN_CONNS=%lld is too low for OUTBOX_HIGH_WORKERS=%lld, "
                   "OUTBOX_LOW_WORKERS=%lld, the sampler and the readiness probe\n",
                   (long long)s->db.max_open, (long long)s->high_workers,
                   (long long)s->low_workers);
        faults++;
    }
    faults += settings_check_order("OUTBOX_POLL_MIN_MS", s->poll_min_ms, "OUTBOX_POLL_MAX_MS",
                                   s->poll_max_ms, errors);
    faults += settings_check_order("OUTBOX_RETRY_BASE_MS", s->retry_base_ms, "OUTBOX_RETRY_MAX_MS",
                                   s->retry_max_ms, errors);
    return faults + topology_check(&s->broker, errors);
}

const struct daemon_program outboxd_program = {
    .name = "msg-outboxd",
    .summary = "publishes outbox rows to RabbitMQ and deletes what the broker confirmed",
    .verbs =
        "  msg-outboxd parked list                              rows that could not be published\n"
        "  msg-outboxd parked show ID                           one of them with its payload\n"
        "  msg-outboxd parked requeue ID...|--all [--dry-run]   back into the outbox\n"
        "  msg-outboxd parked drop ID... [--dry-run]            give up: fails and refunds what is "
        "still pending\n",
    .groups = groups,
    .group_count = sizeof(groups) / sizeof(groups[0]),
    .check = check,
};
