#ifndef CONSUMERD_SETTINGS_H
#define CONSUMERD_SETTINGS_H

/*
 * Everything msg-consumerd can be told: one row a setting in settings.c. Loaded once by main,
 * read-only afterwards.
 */

#include "consumerd/breaker.h"
#include "libcommon/base/settings.h"
#include "libcommon/daemon/daemon.h"
#include "libcommon/db/db.h"
#include "libcommon/domain/operator_file.h"
#include "libcommon/domain/receipt_address.h"
#include "libcommon/domain/recipient.h"
#include "libcommon/domain/topology.h"
#include "libcommon/net/httpd.h"

struct transport;

struct operator_address {
    const struct transport *transport; /* how it is called (transport.h) */
    char name[OPERATOR_NAME_MAX + 1];
};

struct consumer_settings {
    char *operators, *operators_file, *tls_ca, *unknown_policy, *repeat_unsafe, *without_lookup;
    char *management_uri;
    int64_t lookup_settles_ms, held_ask_max_sec;
    int64_t timeout_ms, tries, backoff_ms, backoff_max_ms, lookup_tries, rest_max_sec;
    int64_t in_flight_normal, in_flight_express, lookups_in_flight;
    int64_t breaker_failures, breaker_open_ms, breaker_probes, breaker_successes;
    int64_t breaker_window_ms, breaker_window_calls, breaker_failure_pct;
    int64_t breaker_slow_ms, breaker_slow_pct;
    int64_t retry_window_sec, retry_base_ms, retry_max_ms, takeovers_max;
    int64_t prefetch_normal, prefetch_express, recipients_normal, recipients_express;
    int64_t claim_batch, settle_batch;
    int64_t turn_normal_ms;
    int64_t heartbeat_ms, dead_sec;
    int64_t timeout_of_files_ms, settles_of_files_ms; /* the longest there are at the start */
    int64_t repair_after_sec, repair_interval_ms, repair_max, repair_max_batch, repair_rate;
};

struct webhook_settings {
    char *schedule, *allow_private, *tls_ca;
    int64_t timeout_ms, in_flight, in_flight_each, disable_after_sec, keep_days;
};

/* What a process does, of CONSUMERD_PARTS. */
enum consumerd_part { PART_LANES, PART_WEBHOOKS };

struct settings {
    char *parts;
    struct daemon_settings daemon;
    struct httpd_settings httpd;
    struct db_settings db;
    struct broker_settings broker;
    struct receipt_settings receipts;
    struct consumer_settings consumer;
    /* As they were at the start; those that take their place may follow them (operator_file.h). The
     * dispatch hears of others. NULL: the process has no lanes. */
    struct operator_set *operators;
    struct webhook_settings webhooks;
};

extern struct settings consumerd_settings;
extern const struct daemon_program consumerd_program;

/* The operators that OPERATORS_FILE or OPERATORS says; NULL with faults, and a line for each. */
struct operator_set *settings_read_operators(const struct settings *s, struct buf *errors,
                                             size_t *faults);
/* The longest timeout and settling that files say; 0: they say none. */
void settings_longest(const struct operator_set *set, int64_t *timeout_ms, int64_t *settles_ms);
/* How many there are. */
size_t settings_addresses(const struct operator_set *set,
                          struct operator_address out[OPERATORS_MAX]);
bool settings_has_part(const struct settings *s, enum consumerd_part part);

bool settings_is_operator_name(const char *s, size_t n);
/* "name=url,name=url": how many there are (1 to OPERATORS_MAX), or 0 with the end of a sentence. */
size_t settings_parse_operators(const char *text, struct operator_address out[OPERATORS_MAX],
                                char *why, size_t size);

/* The set of those among comma-separated names that are operators'. */
uint32_t settings_operator_mask(const struct operator_address *operators, size_t n,
                                const char *names);

/* What message_status.unknown_operators says. */
struct operators_noted {
    uint32_t mask;
    bool any;                             /* marked: any operator may have it */
    char gone[RECIPIENT_UNKNOWN_MAX + 1]; /* names that are not configured (any more) */
};
void settings_read_noted(const struct operator_address *operators, size_t n, const char *names,
                         struct operators_noted *out);
/* The other way; gone: NULL is none. A name that does not fit the column is never dropped: it shows
 * as RECIPIENT_UNKNOWN_MORE, which is gone, too. */
void settings_put_noted(struct buf *out, const struct operator_address *operators, uint32_t mask,
                        const char *gone);

/* Of all operators, as the process began with them. */
int64_t settings_longest_timeout_ms(const struct consumer_settings *s);
int64_t settings_longest_settling_ms(const struct consumer_settings *s);

/* How long after its last heartbeat a worker still trusts itself: well before others may take its
 * work, with room for an operator call that was already on its way. */
int64_t settings_stop_after_ms(const struct consumer_settings *s);

void settings_breaker(const struct consumer_settings *s, struct breaker_config *out);

#endif
