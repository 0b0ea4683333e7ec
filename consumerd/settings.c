#include "consumerd/settings.h"

#include <stdio.h>
#include <string.h>

#include "consumerd/held_watch.h"
#include "consumerd/transport.h"
#include "libcommon/base/buf.h"
#include "libcommon/domain/operator_secret.h"
#include "libcommon/domain/webhook_queue.h"
#include "libcommon/net/address.h"

#define CONNECTIONS (MESSAGE_LANES + 7)

struct settings consumerd_settings;

static bool check_operators(const char *value, char *why, size_t size)
{
    struct operator_set *set = operator_set_of_list(value, why, size);

    operator_set_drop(set);
    return set != NULL;
}

static bool check_management_uri(const char *value, char *why, size_t size)
{
    bool ok = (!strncmp(value, "http://", 7) || !strncmp(value, "https://", 8)) &&
              settings_url_port_ok(value) && !strpbrk(value, "?# \t");

    if (!ok)
        snprintf(why, size, "must look like http://user:password@host:15672 (or https://)");
    return ok;
}

static const struct setting listen_rows[] = {HTTPD_LISTEN_ROW("127.0.0.1:8082"), SETTINGS_END};

static const char *const parts[] = {[PART_LANES] = "lanes", [PART_WEBHOOKS] = "webhooks"};

#define PARTS (sizeof(parts) / sizeof(parts[0]))

/* A bit for each part of the list; 0: it is not one. */
static unsigned read_parts(const char *list)
{
    unsigned set = 0;

    for (;;) {
        size_t n = strcspn(list, ",");
        size_t i = 0;

        while (i < PARTS && (strlen(parts[i]) != n || memcmp(parts[i], list, n) != 0))
            i++;
        if (i == PARTS || set & (1u << i))
            return 0;
        set |= 1u << i;
        if (!list[n])
            return set;
        list += n + 1;
    }
}

static bool check_parts(const char *value, char *why, size_t size)
{
    if (read_parts(value))
        return true;
    snprintf(why, size, "must be lanes, webhooks, or both with a comma");
    return false;
}

bool settings_has_part(const struct settings *s, enum consumerd_part part)
{
    return read_parts(s->parts) & (1u << part);
}

static bool check_schedule(const char *value, char *why, size_t size)
{
    struct webhook_schedule schedule;

    if (webhook_schedule_parse(value, &schedule))
        return true;
    snprintf(why, size, "must be 1 to %d waits of 1 to 604800 seconds, comma-separated",
             WEBHOOK_TRIES_MAX);
    return false;
}

static const struct setting part_rows[] = {
    SETTING_TEXT_ROW(settings, parts, SETTING_STRING, "CONSUMERD_PARTS", "lanes,webhooks", 64,
                     check_parts,
                     "What this process does: lanes delivers messages, webhooks calls customers' "
                     "endpoints; both, or one where the other has replicas of its own."),
    SETTINGS_END,
};

static const struct setting webhook_rows[] = {
    SETTING_TEXT_ROW(webhook_settings, schedule, SETTING_STRING, "WEBHOOK_SCHEDULE_SEC",
                     WEBHOOK_SCHEDULE, 256, check_schedule,
                     "Waits in seconds after each failed try of an event; it is given up after the "
                     "last. The first two are also the least and the longest rest of an endpoint "
                     "that fails three times in a row."),
    SETTING_INT_ROW(webhook_settings, timeout_ms, "WEBHOOK_TIMEOUT_MS", "15000", 100, 60000,
                    "Longest wait for an endpoint's answer."),
    SETTING_INT_ROW(
        webhook_settings, in_flight, "WEBHOOK_MAX_IN_FLIGHT", "256", 1, 4096,
        "Calls of endpoints that are out at a time; of those that take nothing, half of it."),
    SETTING_INT_ROW(webhook_settings, in_flight_each, "WEBHOOK_MAX_IN_FLIGHT_EACH", "16", 1, 256,
                    "Calls of one endpoint that are out at a time; 1 at first and while it fails."),
    SETTING_INT_ROW(webhook_settings, disable_after_sec, "WEBHOOK_DISABLE_AFTER_SEC", "432000", 1,
                    7776000,
                    "How long every call of an endpoint has to fail before it is disabled."),
    SETTING_INT_ROW(webhook_settings, keep_days, "WEBHOOK_KEEP_DAYS", "7", 4, 400,
                    "How long events are kept, delivered or not, to be shown and sent again."),
    SETTING_TEXT_ROW(webhook_settings, allow_private, SETTING_STRING, "WEBHOOK_ALLOW_PRIVATE", "",
                     1024, networks_check,
                     "Networks that endpoints may have addresses in although they are private or "
                     "local, as 10.0.0.0/8,127.0.0.1. Empty: none."),
    SETTING_TEXT_ROW(webhook_settings, tls_ca, SETTING_STRING, "WEBHOOK_TLS_CA", "", 4096, NULL,
                     "PEM file of the authorities that https:// endpoints' certificates are "
                     "verified against; empty: the system's."),
    SETTINGS_END,
};

static const struct setting rows[] = {
    {.name = "OPERATORS",
     .type = SETTING_STRING,
     .offset = offsetof(struct consumer_settings, operators),
     .initial = "operatorA=http://127.0.0.1:9001,operatorB=http://127.0.0.1:9002",
     .max = 4096,
     .check = check_operators,
     .no_file = true,
     .help = "Operators of kind native in the order of their use, as name=url,name=url. Not looked "
             "at where OPERATORS_FILE is set."},
    SETTING_TEXT_ROW(consumer_settings, operators_file, SETTING_STRING, "OPERATORS_FILE", "", 1024,
                     NULL,
                     "File that describes the operators, in the order of their use, or a folder "
                     "whose *.ini do, in the order of their names (docs/operators.md). SIGHUP has "
                     "it read again. Empty: OPERATORS counts."),
    SETTING_TEXT_ROW(consumer_settings, tls_ca, SETTING_STRING, "OPERATOR_TLS_CA", "", 4096, NULL,
                     "PEM file of the authorities that https:// operators' certificates are "
                     "verified against; empty: the system's."),
    SETTING_INT_ROW(consumer_settings, timeout_ms, "OPERATOR_TIMEOUT_MS", "2000", 50, 60000,
                    "Longest wait for one call to an operator."),
    SETTING_INT_ROW(consumer_settings, tries, "OPERATOR_TRIES", "3", 1, 20,
                    "Tries at one operator before the next one is used."),
    SETTING_INT_ROW(consumer_settings, backoff_ms, "OPERATOR_BACKOFF_MS", "200", 1, 60000,
                    "Wait before the first repeat at an operator; doubles each time."),
    SETTING_INT_ROW(consumer_settings, backoff_max_ms, "OPERATOR_BACKOFF_MAX_MS", "5000", 1, 60000,
                    "Longest wait before a repeat at an operator."),
    SETTING_INT_ROW(consumer_settings, lookup_tries, "OPERATOR_LOOKUP_TRIES", "2", 1, 20,
                    "Tries to learn the fate of a call whose answer was lost."),
    SETTING_INT_ROW(consumer_settings, in_flight_normal, "OPERATOR_MAX_IN_FLIGHT", "512", 1, 20000,
                    "Normal messages on their way to one operator at a time."),
    SETTING_INT_ROW(
        consumer_settings, in_flight_express, "OPERATOR_MAX_IN_FLIGHT_EXPRESS", "128", 1, 20000,
        "Express messages on their way to one operator at a time, beside the normal ones."),
    SETTING_INT_ROW(consumer_settings, lookups_in_flight, "OPERATOR_MAX_LOOKUPS", "256", 1, 20000,
                    "Questions to one operator about lost answers at a time, in each lane."),
    SETTING_INT_ROW(consumer_settings, rest_max_sec, "OPERATOR_REST_MAX_SEC", "60", 1, 3600,
                    "Longest rest that a 429 answer's Retry-After may ask for."),
    SETTING_CHOICE_ROW(consumer_settings, unknown_policy, "OPERATOR_UNKNOWN_POLICY", "failover",
                       "failover hold",
                       "When an operator may have a message and cannot be asked: use the next "
                       "operator, or hold the message until it can be asked, or a person decides."),
    SETTING_INT_ROW(consumer_settings, held_ask_max_sec, "HELD_ASK_MAX_SEC", "600", 1, 86400,
                    "Longest pause between two questions about a message that is held beyond its "
                    "retry window; it begins at DELIVERY_RETRY_BASE_MS and doubles."),
    SETTING_INT_ROW(consumer_settings, lookup_settles_ms, "OPERATOR_LOOKUP_SETTLES_MS", "0", 0,
                    60000,
                    "How long after a submission an operator's \"not found\" means nothing yet: it "
                    "is asked again then, and nothing is submitted before."),
    SETTING_TEXT_ROW(consumer_settings, repeat_unsafe, SETTING_STRING, "OPERATORS_REPEAT_UNSAFE",
                     "", 1024, NULL,
                     "Operators that may deliver a message twice when it is submitted twice, "
                     "comma-separated: they get nothing again after an unknown outcome."),
    SETTING_TEXT_ROW(consumer_settings, without_lookup, SETTING_STRING, "OPERATORS_WITHOUT_LOOKUP",
                     "", 1024, NULL,
                     "Operators that cannot be asked whether they have a message, "
                     "comma-separated."),
    SETTING_INT_ROW(consumer_settings, breaker_failures, "BREAKER_FAILURES", "3", 1, 1000,
                    "Failures in a row that open an operator's breaker."),
    SETTING_INT_ROW(consumer_settings, breaker_open_ms, "BREAKER_OPEN_MS", "5000", 1, 3600000,
                    "How long an open breaker stays open."),
    SETTING_INT_ROW(consumer_settings, breaker_probes, "BREAKER_HALF_OPEN_PROBES", "2", 1, 100,
                    "Calls at a time that a half-open breaker lets through."),
    SETTING_INT_ROW(consumer_settings, breaker_successes, "BREAKER_HALF_OPEN_SUCCESSES", "2", 1,
                    100, "Successes that close a half-open breaker."),
    SETTING_INT_ROW(consumer_settings, breaker_window_ms, "BREAKER_WINDOW_MS", "10000", 100, 600000,
                    "Sliding window of the failure and slow-call rates."),
    SETTING_INT_ROW(consumer_settings, breaker_window_calls, "BREAKER_WINDOW_CALLS", "20", 1,
                    1000000, "Calls in the window below which its rates open nothing."),
    SETTING_INT_ROW(
        consumer_settings, breaker_failure_pct, "BREAKER_FAILURE_PCT", "50", 1, 101,
        "Share of failed calls in the window that opens the breaker; 101 switches it off."),
    SETTING_INT_ROW(consumer_settings, breaker_slow_ms, "BREAKER_SLOW_MS", "1500", 1, 60000,
                    "A call that takes longer counts as slow."),
    SETTING_INT_ROW(
        consumer_settings, breaker_slow_pct, "BREAKER_SLOW_PCT", "80", 1, 101,
        "Share of slow calls in the window that opens the breaker; 101 switches it off."),
    SETTING_INT_ROW(consumer_settings, retry_window_sec, "DELIVERY_RETRY_WINDOW_SEC", "30", 0,
                    604800,
                    "How long after the first try a message that no operator took is tried again; "
                    "0: not at all."),
    SETTING_INT_ROW(consumer_settings, retry_base_ms, "DELIVERY_RETRY_BASE_MS", "1000", 10, 3600000,
                    "Wait before the first such retry; doubles each time."),
    SETTING_INT_ROW(consumer_settings, retry_max_ms, "DELIVERY_RETRY_MAX_MS", "30000", 10, 3600000,
                    "Longest wait before such a retry."),
    SETTING_INT_ROW(consumer_settings, takeovers_max, "DELIVERY_TAKEOVERS_MAX", "5", 1, 1000,
                    "Consumers that may die over a message in a row before it is dead-lettered."),
    SETTING_INT_ROW(consumer_settings, prefetch_normal, "NORMAL_PREFETCH", "1000", 1, 65535,
                    "Messages taken from the normal queue and not yet settled, at a time, of a "
                    "bundle each member; one bundle may exceed it. At most about 8 MiB of them."),
    SETTING_INT_ROW(consumer_settings, prefetch_express, "EXPRESS_PREFETCH", "500", 1, 65535,
                    "The same for the express queue."),
    SETTING_INT_ROW(consumer_settings, recipients_normal, "NORMAL_RECIPIENTS_MAX", "4000", 1,
                    1000000,
                    "Recipients of normal messages in hand at a time; one message may exceed it."),
    SETTING_INT_ROW(consumer_settings, recipients_express, "EXPRESS_RECIPIENTS_MAX", "2000", 1,
                    1000000,
                    "Recipients of express messages in hand at a time; one message may exceed it."),
    SETTING_INT_ROW(consumer_settings, claim_batch, "CLAIM_BATCH", "250", 1, 900,
                    "Most messages claimed in one transaction."),
    SETTING_INT_ROW(consumer_settings, settle_batch, "SETTLE_BATCH", "500", 1, 900,
                    "Most recipients settled in one transaction."),
    SETTING_INT_ROW(consumer_settings, turn_normal_ms, "NORMAL_TURN_MS", "60", 0, 1000,
                    "Longest pause between two turns of claims and settles of normal messages. "
                    "Under load they pause, by what they took, until they are a sixteenth of the "
                    "time: what comes meanwhile shares the next one's transaction, which begins "
                    "early when a quarter of the prefetch, or CLAIM_BATCH, has come or been sent. "
                    "Express messages never wait."),
    SETTING_TEXT_ROW(consumer_settings, management_uri, SETTING_URI, "RABBIT_MANAGEMENT_URI", "", 0,
                     check_management_uri,
                     "RabbitMQ's management API, asked whether policies limit our queues: "
                     "http://user:password@host:15672. Empty: nobody asks."),
    SETTING_INT_ROW(consumer_settings, heartbeat_ms, "WORKER_HEARTBEAT_MS", "2000", 100, 60000,
                    "How often this process shows in the database that it lives."),
    SETTING_INT_ROW(consumer_settings, dead_sec, "WORKER_DEAD_SEC", "10", 2, 3600,
                    "Silence in seconds after which a consumer's work may be taken over. The same "
                    "for all consumers."),
    SETTING_INT_ROW(consumer_settings, repair_after_sec, "REPAIR_AFTER_SEC", "60", 0, 86400,
                    "Time without progress after which a message that nothing holds is put into "
                    "the outbox again; doubles with each repair. 0 switches the repair off."),
    SETTING_INT_ROW(consumer_settings, repair_interval_ms, "REPAIR_INTERVAL_MS", "5000", 100,
                    3600000, "Pause between two searches for such messages, at least."),
    SETTING_INT_ROW(consumer_settings, repair_max, "REPAIR_MAX", "8", 1, 1000,
                    "Repairs of one message after which an alert takes their place."),
    SETTING_INT_ROW(consumer_settings, repair_max_batch, "REPAIR_MAX_BATCH", "2000", 1, 100000,
                    "Messages of a lane repaired after one search, at most."),
    SETTING_INT_ROW(consumer_settings, repair_rate, "REPAIR_RATE", "500", 1, 100000,
                    "Messages repaired a second, at most."),
    SETTINGS_END,
};

static const struct settings_group groups[] = {
    {listen_rows, &consumerd_settings.httpd},
    {part_rows, &consumerd_settings},
    {daemon_settings_rows, &consumerd_settings.daemon},
    {httpd_settings_rows, &consumerd_settings.httpd},
    {db_settings_rows, &consumerd_settings.db},
    {broker_settings_rows, &consumerd_settings.broker},
    {topology_settings_rows, &consumerd_settings.broker},
    {receipt_settings_rows, &consumerd_settings.receipts},
    {rows, &consumerd_settings.consumer},
    {webhook_rows, &consumerd_settings.webhooks},
    {otlp_settings_rows, &consumerd_settings.daemon.otlp},
};

size_t settings_addresses(const struct operator_set *set,
                          struct operator_address out[OPERATORS_MAX])
{
    for (size_t i = 0; i < set->n; i++) {
        out[i].transport = transport_of_kind(set->all[i]->kind);
        memcpy(out[i].name, set->all[i]->name, sizeof(out[i].name));
    }
    return set->n;
}

/* One of comma-separated names. */
struct name {
    const char *text;
    size_t len;
};

/* False: the end. */
static bool next_name(const char **names, struct name *out)
{
    *names += strspn(*names, ",");
    *out = (struct name){*names, strcspn(*names, ",")};
    *names += out->len;
    return out->len > 0;
}

static bool name_is(const struct name *name, const char *text)
{
    return strlen(text) == name->len && !memcmp(name->text, text, name->len);
}

/* 0: no operator of that name. */
static uint32_t operator_bit(const struct operator_address *operators, size_t n,
                             const struct name *name)
{
    for (size_t i = 0; i < n; i++)
        if (name_is(name, operators[i].name))
            return UINT32_C(1) << i;
    return 0;
}

uint32_t settings_operator_mask(const struct operator_address *operators, size_t n,
                                const char *names)
{
    struct name name;
    uint32_t mask = 0;

    while (next_name(&names, &name))
        mask |= operator_bit(operators, n, &name);
    return mask;
}

void settings_read_noted(const struct operator_address *operators, size_t n, const char *names,
                         struct operators_noted *out)
{
    size_t used = 0;
    struct name name;

    out->mask = 0;
    out->any = false;
    while (next_name(&names, &name)) {
        uint32_t bit = operator_bit(operators, n, &name);

        out->mask |= bit;
        if (name_is(&name, RECIPIENT_UNKNOWN_ANY))
            out->any = true;
        else if (!bit && used + 1 + name.len < sizeof(out->gone))
            used += (size_t)snprintf(out->gone + used, sizeof(out->gone) - used, "%s%.*s",
                                     used ? "," : "", (int)name.len, name.text);
    }
    out->gone[used] = '\0';
}

/* INVARIANT: what is put leaves room for the sign that something did not fit. */
static bool put_name(struct buf *out, size_t from, const struct name *name)
{
    size_t room = RECIPIENT_UNKNOWN_MAX - strlen("," RECIPIENT_UNKNOWN_MORE);

    if (out->len - from + 1 + name->len > room)
        return false;
    if (out->len > from)
        buf_putc(out, ',');
    buf_put(out, name->text, name->len);
    return true;
}

void settings_put_noted(struct buf *out, const struct operator_address *operators, uint32_t mask,
                        const char *gone)
{
    size_t from = out->len;
    struct name name;
    bool all = true;

    for (; mask; mask &= mask - 1) {
        const char *text = operators[__builtin_ctz(mask)].name;

        name = (struct name){text, strlen(text)};
        all &= put_name(out, from, &name);
    }
    while (gone && next_name(&gone, &name))
        all &= !name_is(&name, RECIPIENT_UNKNOWN_MORE) && put_name(out, from, &name);
    if (!all)
        buf_puts(out, out->len > from ? "," RECIPIENT_UNKNOWN_MORE : RECIPIENT_UNKNOWN_MORE);
}

int64_t settings_longest_timeout_ms(const struct consumer_settings *s)
{
    return s->timeout_ms > s->timeout_of_files_ms ? s->timeout_ms : s->timeout_of_files_ms;
}

int64_t settings_longest_settling_ms(const struct consumer_settings *s)
{
    return s->lookup_settles_ms > s->settles_of_files_ms ? s->lookup_settles_ms
                                                         : s->settles_of_files_ms;
}

int64_t settings_stop_after_ms(const struct consumer_settings *s)
{
    return (s->dead_sec * 1000 - settings_longest_timeout_ms(s)) * 3 / 4;
}

void settings_breaker(const struct consumer_settings *s, struct breaker_config *out)
{
    *out = (struct breaker_config){
        .failures = (unsigned)s->breaker_failures,
        .open_ms = s->breaker_open_ms,
        .probes = (unsigned)s->breaker_probes,
        .successes = (unsigned)s->breaker_successes,
        .window_ms = s->breaker_window_ms,
        .window_calls = (unsigned)s->breaker_window_calls,
        .failure_pct = (unsigned)s->breaker_failure_pct,
        .slow_pct = (unsigned)s->breaker_slow_pct,
        .slow_ms = s->breaker_slow_ms,
    };
}

/* The names in another setting must be those of operators. */
static size_t check_names(const struct operator_set *set, const char *setting, const char *names,
                          struct buf *errors)
{
    struct name name;

    while (next_name(&names, &name))
        if (!operator_set_find(set, name.text, name.len)) {
            buf_printf(errors, "%s names %.*s, which is no operator\n", setting, (int)name.len,
                       name.text);
            return 1;
        }
    return 0;
}

/* Who is asked for receipts must know where to bring them. */
static size_t check_receipts(const struct settings *s, const struct operator_set *set,
                             struct buf *errors)
{
    size_t faults = 0;

    for (size_t i = 0; i < set->n; i++) {
        const struct operator_config *op = set->all[i];

        if (op->submit.asks_for_receipts &&
            (!*s->receipts.public_url || !*s->receipts.reference_key)) {
            buf_printf(errors,
                       "%s:%u: [%s] asks for receipts: that needs RECEIPTS_PUBLIC_URL and "
                       "RECEIPT_REFERENCE_KEY\n",
                       op->file, op->line, op->name);
            faults++;
        }
    }
    return faults;
}

static struct operator_set *read_set(const struct consumer_settings *c, struct buf *errors,
                                     size_t *faults)
{
    static const struct operator_reading how = {.parts = OPERATOR_SENDING,
                                                .secret = operator_secret_get};
    struct operator_set *set;
    char why[128];

    *faults = 0;
    if (*c->operators_file)
        return operator_set_read(c->operators_file, &how, errors, faults);
    set = operator_set_of_list(c->operators, why, sizeof(why)); /* it was checked by itself */
    *faults = !set;
    return set;
}

struct operator_set *settings_read_operators(const struct settings *s, struct buf *errors,
                                             size_t *faults)
{
    const struct consumer_settings *c = &s->consumer;
    struct operator_set *set = read_set(c, errors, faults);

    if (!set)
        return NULL;
    *faults = check_receipts(s, set, errors) +
              check_names(set, "OPERATORS_REPEAT_UNSAFE", c->repeat_unsafe, errors) +
              check_names(set, "OPERATORS_WITHOUT_LOOKUP", c->without_lookup, errors);
    if (!*faults)
        return set;
    operator_set_drop(set);
    return NULL;
}

void settings_longest(const struct operator_set *set, int64_t *timeout_ms, int64_t *settles_ms)
{
    *timeout_ms = *settles_ms = 0;
    for (size_t i = 0; i < set->n; i++) {
        const struct operator_properties *p = &set->all[i]->properties;

        *timeout_ms = p->timeout_ms > *timeout_ms ? p->timeout_ms : *timeout_ms;
        *settles_ms = p->lookup_settles_ms > *settles_ms ? p->lookup_settles_ms : *settles_ms;
    }
}

static size_t check_operator_files(struct settings *s, struct buf *errors)
{
    struct consumer_settings *c = &s->consumer;
    size_t faults = 0;

    operator_set_drop(s->operators); /* of an earlier check */
    s->operators = NULL;
    if (settings_has_part(s, PART_LANES)) /* who calls no operator needs none of their secrets */
        s->operators = settings_read_operators(s, errors, &faults);
    if (s->operators)
        settings_longest(s->operators, &c->timeout_of_files_ms, &c->settles_of_files_ms);
    return faults;
}

/* Who delivers nothing needs no broker. */
static const char *spared_by_parts(void)
{
    const char *list = getenv("CONSUMERD_PARTS");

    return list && read_parts(list) == 1u << PART_WEBHOOKS ? "RABBIT_URI" : NULL;
}

static size_t check(struct buf *errors)
{
    struct settings *s = &consumerd_settings;
    const struct consumer_settings *c = &s->consumer;
    size_t faults = daemon_settings_check(&s->daemon, &s->httpd, &s->db, errors);
    int64_t timeout_ms, settles_ms;

    faults += check_operator_files(s, errors);
    timeout_ms = settings_longest_timeout_ms(c);
    settles_ms = settings_longest_settling_ms(c);
    faults += settings_check_order("OPERATOR_BACKOFF_MS", c->backoff_ms, "OPERATOR_BACKOFF_MAX_MS",
                                   c->backoff_max_ms, errors);
    faults += settings_check_order("DELIVERY_RETRY_BASE_MS", c->retry_base_ms,
                                   "DELIVERY_RETRY_MAX_MS", c->retry_max_ms, errors);
    if (c->held_ask_max_sec * 1000 < c->retry_base_ms) {
        buf_printf(errors, "HELD_ASK_MAX_SEC=%lld is below DELIVERY_RETRY_BASE_MS=%lld\n",
                   (long long)c->held_ask_max_sec, (long long)c->retry_base_ms);
        faults++;
    }
    /* Holding, what is asked about after the window is submitted no more: a message whose first
     * question has to wait that long would have had one try, or none. */
    if (!strcmp(c->unknown_policy, "hold") && settles_ms > DELIVERY_SETTLE_WAIT_MAX_MS &&
        c->dead_sec * 1000 + settles_ms + timeout_ms >= c->retry_window_sec * 1000) {
        buf_printf(
            errors,
            "OPERATOR_LOOKUP_SETTLES_MS=%lld, WORKER_DEAD_SEC and OPERATOR_TIMEOUT_MS leave no "
            "time for another try in DELIVERY_RETRY_WINDOW_SEC=%lld with "
            "OPERATOR_UNKNOWN_POLICY=hold\n",
            (long long)settles_ms, (long long)c->retry_window_sec);
        faults++;
    }
    if (settings_stop_after_ms(c) < 2 * c->heartbeat_ms) {
        buf_printf(
            errors,
            "WORKER_DEAD_SEC=%lld leaves too little time: less OPERATOR_TIMEOUT_MS or the "
            "longest timeout_ms in OPERATORS_FILE, here %lld, three quarters of it must hold "
            "two heartbeats of WORKER_HEARTBEAT_MS\n",
            (long long)c->dead_sec, (long long)timeout_ms);
        faults++;
    }
    if (CONNECTIONS > s->db.max_open) {
        buf_printf(errors,
                   "DB_MAX_OPEN_CONNS=%lld is too low: the lanes, the heartbeat, the repair, the "
                   "janitor, the look at what is held, webhooks (two) and the readiness probe "
                   "need %d\n",
                   (long long)s->db.max_open, CONNECTIONS);
        faults++;
    }
    return faults + topology_check(&s->broker, errors);
}

static void look(void)
{
    held_check(&consumerd_settings);
}

const struct daemon_program consumerd_program = {
    .name = "msg-consumerd",
    .summary = "Delivers messages from the broker through the operators.",
    .verbs =
        "  msg-consumerd dead list                              letters in the dead-letter queue\n"
        "  msg-consumerd dead show ID                           one of them with its body\n"
        "  msg-consumerd dead replay ID...|--all [--dry-run]    to its lane again\n"
        "  msg-consumerd dead drop ID...|--all [--dry-run]      fails and refunds what is open\n"
        "  msg-consumerd dead drop --unreadable [--dry-run]     letters that nobody can read\n"
        "  msg-consumerd held list                              recipients that an operator may "
        "have and does not answer for\n"
        "  msg-consumerd held done MESSAGE [POSITION...] --operator NAME [--dry-run]\n"
        "                                                       that one has them: done\n"
        "  msg-consumerd held fail MESSAGE [POSITION...]|--all [--dry-run]\n"
        "                                                       given up: fails and refunds them\n"
        "  msg-consumerd operator list                          the operators, in their order\n"
        "  msg-consumerd operator test NAME --to +NUMBER [--text TEXT] [--dry-run]\n"
        "                                                       one message through one of them\n"
        "  msg-consumerd operator check NAME --answer FILE      what a recorded answer means\n"
        "  msg-consumerd operator keys                          the keys of an operator's file\n",
    .spared_in_service = spared_by_parts,
    .plain_verb = "operator",
    .groups = groups,
    .group_count = sizeof(groups) / sizeof(groups[0]),
    .check = check,
    .look = look,
};
