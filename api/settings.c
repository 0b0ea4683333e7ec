#include "api/settings.h"

#include "libcommon/base/buf.h"

struct api_settings api_settings;

#define INT(name, field, initial, min, max, help)                                               \
    {                                                                                           \
        name, SETTING_INT, offsetof(struct api_settings, field), initial, min, max, NULL, help, \
            NULL                                                                                \
    }
#define BOOL(name, field, initial, help)                                                          \
    {                                                                                             \
        name, SETTING_BOOL, offsetof(struct api_settings, field), initial, 0, 0, NULL, help, NULL \
    }

static const struct setting listen_rows[] = {HTTPD_LISTEN_ROW(":8080"), SETTINGS_END};

static const struct setting rows[] = {
    INT("MAX_RECIPIENTS", max_recipients, "1000", 1, 10000, "Most recipients of one send."),
    INT("PAGE_SIZE_DEFAULT", page_default, "100", 1, 10000,
        "Rows of a history or balance page when limit is absent."),
    INT("PAGE_SIZE_MAX", page_max, "1000", 1, 10000, "Largest limit a page may ask for."),
    INT("GLOBAL_RATE_LIMIT_RPS", global_rps, "1000", 0, 10000000,
        "Requests a second over all routes but health, metrics and status; 0 switches the limit "
        "off."),
    INT("GLOBAL_RATE_LIMIT_BURST", global_burst, "1000", 1, 10000000,
        "Requests the global limit lets through at once."),
    INT("USER_RATE_LIMIT_RPS", user_rps, "20", 0, 10000000,
        "Sends a second of one customer_id; 0 switches the limit off."),
    INT("USER_RATE_LIMIT_BURST", user_burst, "20", 1, 10000000,
        "Sends the customer limit lets through at once."),
    BOOL("BACKPRESSURE_ENABLED", pressure_enabled, "true",
         "Refuse sends with 503 while the outbox is too full."),
    INT("BACKPRESSURE_OUTBOX_PENDING_THRESHOLD", pressure_pending, "10000", 0, 100000000,
        "Outbox rows above which sends are refused."),
    INT("BACKPRESSURE_OLDEST_AGE_SEC", pressure_age_sec, "0", 0, 86400,
        "Age of the oldest unpublished outbox row above which sends are refused; 0 switches it "
        "off."),
    INT("BACKPRESSURE_QUEUE_DEPTH", pressure_depth, "0", 0, 1000000000,
        "Messages in the broker's queues above which sends are refused; 0 switches it off."),
    INT("BACKPRESSURE_SAMPLE_MS", pressure_sample_ms, "200", 20, 10000,
        "How often the outbox is sampled."),
    INT("COMMITTERS", committers, "2", 1, 64,
        "Threads that commit sends and top-ups, each with a connection."),
    INT("COMMIT_BESIDE_ROWS", commit_beside_rows, "100", 1, 1000000,
        "Recipients that must wait before another committer joins those at work."),
    INT("COMMIT_MAX_ROWS", commit_max_rows, "1000", 1, 10000,
        "Most recipients committed in one transaction."),
    INT("COMMIT_MAX_BYTES", commit_max_bytes, "2097152", 65536, 8388608,
        "Most bytes of texts and recipients committed in one transaction; keep well below "
        "max_allowed_packet."),
    INT("COMMIT_QUEUE_MAX", commit_queue_max, "20000", 1, 1000000,
        "Requests waiting for a committer before 503."),
    INT("COMMIT_QUEUE_MAX_BYTES", commit_queue_bytes, "25165824", 1048576, 1073741824,
        "Bytes of requests waiting for a committer before 503."),
    INT("REQUEST_DEADLINE_MS", request_deadline_ms, "5000", 100, 60000,
        "Longest a request waits for the database before it is answered with 503."),
    INT("READ_CONNS", readers, "4", 1, 64,
        "Threads that answer history and balance, each with a connection."),
    INT("READ_QUEUE_MAX", read_queue_max, "1000", 1, 100000,
        "Reads waiting for a thread before 503."),
    INT("IDEMPOTENCY_TTL_HOURS", idempotency_ttl_hours, "24", 1, 8760,
        "How long an Idempotency-Key is remembered."),
    INT("AUDIT_LOAD_PCT", audit_load_pct, "1", 0, 50,
        "Share of one database connection's time for the running audit, in percent; 0 switches it "
        "off."),
    BOOL("MIGRATE_ON_START", migrate_on_start, "true",
         "Bring the database's schema up to date at start."),
    {"SWAGGER_DIR", SETTING_STRING, offsetof(struct api_settings, swagger_dir), "", 0, 1024, NULL,
     "Folder with the files of /swagger/; empty: what was built or installed with the program.",
     NULL},
    SETTINGS_END,
};

static const struct settings_group groups[] = {
    {listen_rows, &api_settings.httpd},
    {price_settings_rows, &api_settings.prices},
    {rows, &api_settings},
    {daemon_settings_rows, &api_settings.daemon},
    {httpd_settings_rows, &api_settings.httpd},
    {db_settings_rows, &api_settings.db},
    {broker_settings_rows, &api_settings.broker},
    {topology_settings_rows, &api_settings.broker},
    {otlp_settings_rows, &api_settings.daemon.otlp},
};

static size_t check(struct buf *errors)
{
    const struct api_settings *s = &api_settings;
    size_t faults = otlp_settings_check(&s->daemon.otlp, errors);

    if (s->committers + s->readers + 5 > s->db.max_open) {
        buf_printf(errors,
                   "DB_MAX_OPEN_CONNS=%lld is too low for COMMITTERS=%lld, READ_CONNS=%lld, the "
                   "migration, the sampler, the audit, the janitor and the readiness probe\n",
                   (long long)s->db.max_open, (long long)s->committers, (long long)s->readers);
        faults++;
    }
    if (s->max_recipients > s->commit_max_rows) {
        buf_printf(errors, "MAX_RECIPIENTS=%lld is above COMMIT_MAX_ROWS=%lld\n",
                   (long long)s->max_recipients, (long long)s->commit_max_rows);
        faults++;
    }
    if (s->page_default > s->page_max) {
        buf_printf(errors, "PAGE_SIZE_DEFAULT=%lld is above PAGE_SIZE_MAX=%lld\n",
                   (long long)s->page_default, (long long)s->page_max);
        faults++;
    }
    return faults + topology_check(&s->broker, errors);
}

const struct daemon_program api_program = {
    .name = "msg-api",
    .summary = "accepts paid messages over HTTP and stores them with their charge",
    .verbs = "  msg-api migrate      brings the database's schema up to date\n"
             "  msg-api audit [--quiesced] [--json] [--stuck-after=SECONDS] [--operators URL,URL]\n"
             "                       checks that money and messages add up; exit 1 if not;\n"
             "                       with --operators, against the ledgers of simulators too\n",
    .groups = groups,
    .group_count = sizeof(groups) / sizeof(groups[0]),
    .check = check,
};
