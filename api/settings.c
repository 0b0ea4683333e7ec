#include "api/settings.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "api/key_text.h"
#include "api/receipt_operators.h"
#include "libcommon/base/buf.h"

struct api_settings api_settings;

static const struct setting listen_rows[] = {HTTPD_LISTEN_ROW(":8080"), SETTINGS_END};

static bool cell_ok(const char *value, char *why, size_t size)
{
    snprintf(why, size, "must be 1 to %d of a-z and 0-9", KEY_CELL_MAX);
    return key_text_cell_ok(value);
}

static bool admin_key_ok(const char *value, char *why, size_t size)
{
    uint8_t hash[KEY_HASH_LEN];

    snprintf(why, size, "must be a whole API key: msg_<cell>_<random>_<checksum>");
    return key_text_read(value, strlen(value), hash);
}

static const struct setting rows[] = {
    SETTING_INT_ROW(api_settings, max_recipients, "MAX_RECIPIENTS", "1000", 1,
                    MESSAGE_RECIPIENTS_MAX, "Most recipients of one send."),
    SETTING_INT_ROW(api_settings, page_default, "PAGE_SIZE_DEFAULT", "100", 1, 10000,
                    "Rows of a history or balance page when limit is absent."),
    SETTING_INT_ROW(api_settings, page_max, "PAGE_SIZE_MAX", "1000", 1, 10000,
                    "Largest limit a page may ask for."),
    SETTING_INT_ROW(api_settings, global_rps, "GLOBAL_RATE_LIMIT_RPS", "1000", 0, 10000000,
                    "Requests a second over all routes but health, metrics and status; 0 switches "
                    "the limit off."),
    SETTING_INT_ROW(api_settings, global_burst, "GLOBAL_RATE_LIMIT_BURST", "1000", 1, 10000000,
                    "Requests the global limit lets through at once."),
    SETTING_INT_ROW(api_settings, user_rps, "USER_RATE_LIMIT_RPS", "20", 0, 10000000,
                    "Sends a second of one customer_id; 0 switches the limit off."),
    SETTING_INT_ROW(api_settings, user_burst, "USER_RATE_LIMIT_BURST", "20", 1, 10000000,
                    "Sends the customer limit lets through at once."),
    SETTING_INT_ROW(api_settings, user_read_rps, "USER_READ_LIMIT_RPS", "50", 0, 10000000,
                    "Reads of history and balance a second of one user_id, with each key; 0 "
                    "switches the limit off."),
    SETTING_INT_ROW(api_settings, user_read_burst, "USER_READ_LIMIT_BURST", "100", 1, 10000000,
                    "Reads that limit lets through at once."),
    SETTING_BOOL_ROW(api_settings, pressure_enabled, "BACKPRESSURE_ENABLED", "true",
                     "Refuse sends with 503 while the outbox is too full."),
    SETTING_INT_ROW(api_settings, pressure_pending, "BACKPRESSURE_OUTBOX_PENDING_THRESHOLD",
                    "10000", 0, 100000000, "Outbox rows above which sends are refused."),
    SETTING_INT_ROW(api_settings, pressure_age_sec, "BACKPRESSURE_OLDEST_AGE_SEC", "0", 0, 86400,
                    "Age of the oldest unpublished outbox row above which sends are refused; 0 "
                    "switches it off."),
    SETTING_INT_ROW(api_settings, pressure_depth, "BACKPRESSURE_QUEUE_DEPTH", "0", 0, 1000000000,
                    "AMQP messages in the broker's queues (each of up to RABBIT_BUNDLE_MAX "
                    "messages) above which "
                    "sends are refused; 0 switches it off."),
    SETTING_INT_ROW(api_settings, pressure_sample_ms, "BACKPRESSURE_SAMPLE_MS", "200", 20, 10000,
                    "How often the outbox is sampled; once a second at most while nothing waits "
                    "and nothing is accepted."),
    SETTING_INT_ROW(api_settings, committers, "COMMITTERS", "2", 1, 64,
                    "Threads that commit sends and top-ups, each with a connection."),
    SETTING_INT_ROW(api_settings, commit_beside_rows, "COMMIT_BESIDE_ROWS", "100", 1, 1000000,
                    "Recipients that must wait before another committer joins those at work."),
    SETTING_INT_ROW(api_settings, commit_max_rows, "COMMIT_MAX_ROWS", "1000", 1, 10000,
                    "Most recipients committed in one transaction."),
    SETTING_INT_ROW(api_settings, commit_max_bytes, "COMMIT_MAX_BYTES", "2097152", 65536, 8388608,
                    "Most bytes of texts and recipients committed in one transaction; keep well "
                    "below max_allowed_packet."),
    SETTING_INT_ROW(api_settings, commit_queue_max, "COMMIT_QUEUE_MAX", "20000", 1, 1000000,
                    "Requests waiting for a committer before 503."),
    SETTING_INT_ROW(api_settings, commit_queue_bytes, "COMMIT_QUEUE_MAX_BYTES", "25165824", 1048576,
                    1073741824, "Bytes of requests waiting for a committer before 503."),
    SETTING_INT_ROW(
        api_settings, request_deadline_ms, "REQUEST_DEADLINE_MS", "5000", 100, 60000,
        "Longest a request waits for the database before it is answered with 503; keep "
        "above DB_STATEMENT_TIMEOUT_MS, so that a statement that hangs is given up while "
        "its requests can be tried again."),
    SETTING_INT_ROW(api_settings, readers, "READ_CONNS", "4", 1, 64,
                    "Threads that answer history and balance, each with a connection."),
    SETTING_INT_ROW(api_settings, read_queue_max, "READ_QUEUE_MAX", "1000", 1, 100000,
                    "Reads waiting for a thread before 503."),
    SETTING_INT_ROW(api_settings, read_queue_user_max, "READ_QUEUE_USER_MAX", "100", 1, 100000,
                    "Of these, those of one customer. Customers take turns, each with half of the "
                    "threads at most."),
    SETTING_INT_ROW(api_settings, read_scan_rows, "READ_SCAN_ROWS", "2000", 1, 1000000,
                    "Recipients that a history page of one status looks at; the cursor goes on "
                    "behind them."),
    SETTING_TEXT_ROW(api_settings, read_host, SETTING_STRING, "DB_READ_HOST", "", 2047,
                     db_hosts_check,
                     "Replicas that histories are read from, as DB_HOST; empty: from the primary, "
                     "as everything else is."),
    SETTING_INT_ROW(api_settings, read_lag_max_sec, "DB_READ_MAX_LAG_SEC", "10", 1, 3600,
                    "How far a replica may be behind, told by the last heartbeat of a "
                    "msg-consumerd that has reached it (WORKER_HEARTBEAT_MS); beyond it the "
                    "primary is read."),
    SETTING_INT_ROW(api_settings, idempotency_ttl_hours, "IDEMPOTENCY_TTL_HOURS", "24", 1, 8760,
                    "How long an Idempotency-Key is remembered."),
    SETTING_INT_ROW(api_settings, audit_load_pct, "AUDIT_LOAD_PCT", "1", 0, 50,
                    "Share of one database connection's time for the running audit, in percent; 0 "
                    "switches it off."),
    SETTING_INT_ROW(api_settings, balance_low, "BALANCE_LOW_DEFAULT", "0", 0, 4503599627370495,
                    "Balance below which a customer's endpoints are told balance.low, once each "
                    "time that it falls below; 0: never."),
    SETTING_INT_ROW(api_settings, webhooks_per_customer, "WEBHOOKS_PER_CUSTOMER", "5", 1, 100,
                    "Endpoints that a customer may have."),
    SETTING_INT_ROW(
        api_settings, webhook_grace_sec, "WEBHOOK_SECRET_GRACE_SEC", "86400", 0, 2592000,
        "How long requests are signed with the old secret, too, after a new one was made."),
    SETTING_BOOL_ROW(api_settings, migrate_on_start, "MIGRATE_ON_START", "true",
                     "Bring the database's schema up to date at start."),
    SETTING_CHOICE_ROW(api_settings, auth, "API_AUTH", "required", "required off",
                       "Whether requests need an API key; off only where LISTEN_ADDR is of the "
                       "loopback, as 127.0.0.1:8080."),
    SETTING_BOOL_ROW(api_settings, auth_off_anywhere, "API_AUTH_OFF_ANYWHERE", "false",
                     "Lets API_AUTH=off hold on any address: whoever reaches it may do anything."),
    SETTING_INT_ROW(api_settings, keys_stale_sec, "API_KEYS_STALE_SEC", "30", 3, 86400,
                    "How long reads go on when the keys can no longer be read; sends and top-ups "
                    "end after 3 seconds."),
    SETTING_INT_ROW(api_settings, auth_failure_rps, "AUTH_FAILURE_RATE_LIMIT_RPS", "5", 0, 10000000,
                    "Requests a second of one address that may fail for their key before they get "
                    "429 instead of an answer; 0 switches the limit off."),
    SETTING_INT_ROW(api_settings, auth_failure_burst, "AUTH_FAILURE_RATE_LIMIT_BURST", "20", 1,
                    10000000, "Such requests that are answered at once."),
    SETTING_CHOICE_ROW(api_settings, metrics_access, "API_METRICS", "open", "open key off",
                       "Who may see /metrics: everybody, a key with the scope metrics, nobody."),
    SETTING_CHOICE_ROW(api_settings, status_access, "API_STATUS", "open", "open key off",
                       "Who may see /status and /status.json."),
    SETTING_CHOICE_ROW(api_settings, swagger_access, "API_SWAGGER", "open", "open key off",
                       "Who may see /swagger/; with key, one of any scope."),
    SETTING_TEXT_ROW(api_settings, admin_listen_addr, SETTING_ADDR, "ADMIN_LISTEN_ADDR", "", 0,
                     NULL,
                     "Address of a second listener, which then has /metrics and /status instead of "
                     "the first; it holds 64 connections at most. Empty: none."),
    SETTING_TEXT_ROW(api_settings, operators_file, SETTING_STRING, "OPERATORS_FILE", "", 1024, NULL,
                     "File, or folder of *.ini files, that describes the operators, as "
                     "msg-consumerd has it: who gives receipts, and how they read."),
    SETTING_TEXT_ROW(api_settings, receipts_listen_addr, SETTING_ADDR, "RECEIPTS_LISTEN_ADDR", "",
                     0, NULL,
                     "Address of a listener of its own for operators' receipts, which the first "
                     "one then goes without. Empty: none."),
    SETTING_INT_ROW(api_settings, receipt_workers, "RECEIPT_WORKERS", "1", 1, 16,
                    "Threads that store receipts, each with a connection; none where no operator "
                    "gives receipts."),
    SETTING_INT_ROW(api_settings, receipt_queue_max, "RECEIPT_QUEUE_MAX", "20000", 500, 1000000,
                    "Receipts waiting to be stored before 503."),
    SETTING_INT_ROW(api_settings, receipt_early_max, "RECEIPT_EARLY_MAX", "100000", 1000, 10000000,
                    "Receipts that may wait for what they are about before more such are refused "
                    "with 503."),
    SETTING_INT_ROW(api_settings, receipt_keep_days, "RECEIPT_KEEP_DAYS", "90", 1, 3650,
                    "How long after RECEIPT_WAIT_HOURS an operator's own code and words are kept; "
                    "the delivery itself stays."),
    SETTING_BOOL_ROW(api_settings, refund_undelivered, "REFUND_UNDELIVERED", "false",
                     "Give back the price of a recipient that each operator that may have it says "
                     "is undelivered."),
    SETTING_TEXT_ROW(api_settings, key_cell, SETTING_STRING, "API_KEY_CELL", "live", KEY_CELL_MAX,
                     cell_ok,
                     "What new API keys have behind msg_, so that one knows which installation a "
                     "key is of; the name of this cell, where there are several."),
    SETTING_TEXT_ROW(api_settings, cells_dir, SETTING_STRING, "CELLS_DIR", "", 1024, NULL,
                     "Folder with a file <cell>.env for each other cell: DB_HOST to DB_PASSWORD of "
                     "its database, for customers who move there and receipts that follow them."),
    SETTING_TEXT_ROW(
        api_settings, admin_key, SETTING_SECRET, "API_ADMIN_KEY", "", KEY_TEXT_MAX - 1,
        admin_key_ok,
        "The first admin key, where it was made beforehand, for msg-api key bootstrap; "
        "empty: that makes one."),
    SETTING_TEXT_ROW(
        api_settings, swagger_dir, SETTING_STRING, "SWAGGER_DIR", "", 1024, NULL,
        "Folder with the files of /swagger/; empty: what was built or installed with the program."),
    SETTINGS_END,
};

static const struct settings_group groups[] = {
    {listen_rows, &api_settings.httpd},
    {price_settings_rows, &api_settings.prices},
    {rows, &api_settings},
    {receipt_settings_rows, &api_settings.receipts},
    {daemon_settings_rows, &api_settings.daemon},
    {httpd_settings_rows, &api_settings.httpd},
    {httpd_body_rows, &api_settings.httpd},
    {db_settings_rows, &api_settings.db},
    {broker_settings_rows, &api_settings.broker},
    {topology_settings_rows, &api_settings.broker},
    {otlp_settings_rows, &api_settings.daemon.otlp},
};

bool settings_asks_for_keys(const struct api_settings *s)
{
    return !strcmp(s->auth, "required");
}

static bool is_loopback(const char *addr)
{
    unsigned char bytes[sizeof(struct in6_addr)];
    char host[256];
    uint16_t port;

    if (!settings_split_addr(addr, host, sizeof(host), &port))
        return false;
    if (inet_pton(AF_INET, host, bytes) == 1)
        return bytes[0] == 127;
    return !strcmp(host, "::1") || !strcmp(host, "localhost");
}

bool settings_keys_off_in_the_open(const struct api_settings *s)
{
    return !settings_asks_for_keys(s) && !is_loopback(s->httpd.listen_addr);
}

static size_t check_group(const char *name, const char *access, struct buf *errors)
{
    if (strcmp(access, "key") != 0)
        return 0;
    buf_printf(errors, "%s=key needs API_AUTH=required\n", name);
    return 1;
}

static size_t check_auth(const struct api_settings *s, struct buf *errors)
{
    size_t faults = 0;

    if (settings_asks_for_keys(s))
        return 0;
    if (settings_keys_off_in_the_open(s) && !s->auth_off_anywhere) {
        buf_printf(
            errors,
            "API_AUTH=off lets whoever reaches LISTEN_ADDR=%s spend and read for anybody: use "
            "an address of the loopback, as 127.0.0.1:8080, or API_AUTH=required, or set "
            "API_AUTH_OFF_ANYWHERE=true if something else keeps strangers away\n",
            s->httpd.listen_addr);
        faults++;
    }
    return faults + check_group("API_METRICS", s->metrics_access, errors) +
           check_group("API_STATUS", s->status_access, errors) +
           check_group("API_SWAGGER", s->swagger_access, errors);
}

static size_t check(struct buf *errors)
{
    const struct api_settings *s = &api_settings;
    size_t faults = daemon_settings_check(&s->daemon, &s->httpd, &s->db, errors);

    int64_t read_conns = *s->read_host ? 2 * s->readers : s->readers;

    if (s->committers + read_conns + s->receipt_workers + 10 > s->db.max_open) {
        buf_printf(errors,
                   "DB_MAX_OPEN_CONNS=%lld is too low for COMMITTERS=%lld, READ_CONNS=%lld "
                   "(twice with DB_READ_HOST), RECEIPT_WORKERS=%lld, the migration, the samplers, "
                   "the audit, the janitor, the API keys, who has webhooks, who has moved, their "
                   "receipts and the readiness probe\n",
                   (long long)s->db.max_open, (long long)s->committers, (long long)s->readers,
                   (long long)s->receipt_workers);
        faults++;
    }
    faults += settings_check_order("MAX_RECIPIENTS", s->max_recipients, "COMMIT_MAX_ROWS",
                                   s->commit_max_rows, errors);
    faults += settings_check_order("PAGE_SIZE_DEFAULT", s->page_default, "PAGE_SIZE_MAX",
                                   s->page_max, errors);
    faults += check_auth(s, errors);
    faults += receipt_operators_check(errors);
    return faults + topology_check(&s->broker, errors);
}

const struct daemon_program api_program = {
    .name = "msg-api",
    .summary = "accepts paid messages over HTTP and stores them with their charge",
    .verbs =
        "  msg-api migrate      brings the database's schema up to date\n"
        "  msg-api audit [--quiesced] [--json] [--stuck-after=SECONDS] [--operators URL,URL]\n"
        "                [--operator-names NAME,NAME]\n"
        "                       checks that money and messages add up; exit 1 if not;\n"
        "                       with --operators, against the ledgers of simulators too;\n"
        "                       with --operator-names, lists what waits for any other\n"
        "  msg-api key create --label=TEXT --scopes=SCOPE,... [--customer=N]\n"
        "                [--expires=AGE] [--from=NETWORK,...]\n"
        "                       makes an API key and prints it, once; scopes are send, read,\n"
        "                       topup, admin, metrics and webhooks\n"
        "  msg-api key list [--json]\n"
        "                       shows what keys there are, without a secret\n"
        "  msg-api key revoke ID\n"
        "                       ends a key for good\n"
        "  msg-api key rotate ID [--grace=AGE]\n"
        "                       prints another in its place; the old one goes on for a\n"
        "                       while with --grace\n"
        "  msg-api key bootstrap\n"
        "                       makes the first admin key, once: API_ADMIN_KEY, or a new\n"
        "                       one, which it prints\n"
        "  msg-api key generate prints a key that is stored nowhere, for API_ADMIN_KEY\n"
        "  msg-api customer move CUSTOMER --to=CELL [--drain=SECONDS] [--dry-run]\n"
        "                       moves a customer to another cell, of CELLS_DIR, and proves it;\n"
        "                       the same again goes on with one that was cut off; what\n"
        "                       consumers have in hand may take 60 s, or so long, to be settled\n"
        "  msg-api customer abort CUSTOMER\n"
        "                       takes a move back that has not come to its end\n"
        "  msg-api customer status [CUSTOMER]\n"
        "                       shows who leaves, has left, or comes\n"
        "  msg-api customer map keys|customers\n"
        "                       lines for a proxy's map: who has moved away, and where\n"
        "  msg-api restore-mode on|status|off\n"
        "                       after a backup was loaded, before the daemons start: nothing\n"
        "                       is delivered until one of these\n"
        "  msg-api restore-mode fail --older-than=AGE [--dry-run]\n"
        "                       fails and refunds what is open of messages older than that\n"
        "                       (90s, 15m, 36h, 7d)\n"
        "  msg-api restore-mode resume\n"
        "                       delivers what is open; operators are asked about it first\n",
    .spared = "RABBIT_URI",
    .groups = groups,
    .group_count = sizeof(groups) / sizeof(groups[0]),
    .check = check,
};
