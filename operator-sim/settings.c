#include "operator-sim/settings.h"

#include <stdio.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "operator-sim/fault.h"
#include "operator-sim/receipt_plan.h"

struct sim_settings sim_settings;

static bool check_faults(const char *value, char *why, size_t size)
{
    struct fault_set set;

    return fault_parse(value, strlen(value), &set, why, size);
}

static bool check_receipts(const char *value, char *why, size_t size)
{
    struct receipt_plan plan;

    return receipt_plan_parse(value, strlen(value), &plan, why, size);
}

static bool check_addr(const char *value, char *why, size_t size)
{
    char host[256];
    uint16_t port;

    if (settings_split_addr(value, host, sizeof(host), &port))
        return true;
    snprintf(why, size, "must be host:port or :port");
    return false;
}

static const struct setting listen_rows[] = {HTTPD_LISTEN_ROW("127.0.0.1:9001"), SETTINGS_END};

static const struct setting rows[] = {
    SETTING_TEXT_ROW(sim_settings, control_addr, SETTING_STRING, "CONTROL_ADDR", "", 300,
                     check_addr,
                     "A second address for faults and ledger, which stays open while the first is "
                     "told to refuse; empty: none."),
    SETTING_TEXT_ROW(sim_settings, name, SETTING_STRING, "SIM_NAME", "operator", 32, NULL,
                     "The operator's name; its identifiers begin with it."),
    SETTING_TEXT_ROW(sim_settings, faults, SETTING_STRING, "SIM_FAULTS", "{}", 4096, check_faults,
                     "Faults from the start, as PUT /faults takes them; also --faults."),
    SETTING_INT_ROW(sim_settings, seed, "SIM_SEED", "1", 0, INT64_MAX,
                    "Seed of all that is random."),
    SETTING_INT_ROW(sim_settings, hang_ms, "SIM_HANG_MS", "30000", 100, 600000,
                    "How long a hanging request is held before its connection is cut."),
    SETTING_INT_ROW(sim_settings, ledger_max, "SIM_LEDGER_MAX", "5000000", 1000, 100000000,
                    "Most references remembered; beyond it requests are answered with 503."),
    SETTING_TEXT_ROW(sim_settings, ledger_file, SETTING_STRING, "SIM_LEDGER_FILE", "", 4096, NULL,
                     "File that keeps what was accepted over a restart; empty: memory only."),
    SETTING_TEXT_ROW(sim_settings, receipts, SETTING_STRING, "SIM_RECEIPTS", "{}", 4096,
                     check_receipts, "Receipts from the start, as PUT /receipts takes them."),
    SETTING_TEXT_ROW(sim_settings, receipt_key, SETTING_SECRET, "SIM_RECEIPT_KEY", "", 256, NULL,
                     "Key that receipts are signed with; empty: they are not."),
    SETTING_INT_ROW(sim_settings, receipts_max, "SIM_RECEIPTS_MAX", "1000000", 1, 100000000,
                    "Most receipts that wait; beyond it they are dropped, and counted."),
    SETTING_INT_ROW(sim_settings, receipts_in_flight, "SIM_RECEIPTS_IN_FLIGHT", "32", 1, 1000,
                    "Requests with receipts at a time."),
    SETTINGS_END};

static const struct settings_group groups[] = {
    {listen_rows, &sim_settings.http},
    {rows, &sim_settings},
    {httpd_settings_rows, &sim_settings.http},
    {httpd_body_rows, &sim_settings.http},
    {daemon_settings_rows, &sim_settings.daemon},
};

static size_t check(struct buf *errors)
{
    const struct sim_settings *s = &sim_settings;
    size_t faults = daemon_settings_check(&s->daemon, &s->http, NULL, errors);
    struct fault_set set;
    char why[200];

    if (*s->control_addr && !strcmp(s->control_addr, s->http.listen_addr)) {
        buf_puts(errors, "CONTROL_ADDR and LISTEN_ADDR must differ\n");
        faults++;
    }
    if (fault_parse(s->faults, strlen(s->faults), &set, why, sizeof(why)) && set.refuse &&
        !set.refuse_ms && !*s->control_addr) {
        buf_puts(errors, "SIM_FAULTS: refuse needs CONTROL_ADDR, or refuse_ms in its place\n");
        faults++;
    }
    return faults;
}

const struct daemon_program sim_program = {
    .name = "operator-sim",
    .summary = "plays an operator that accepts messages, with faults on demand",
    .verbs = "  --faults JSON        as SIM_FAULTS, before it\n",
    .groups = groups,
    .group_count = sizeof(groups) / sizeof(groups[0]),
    .check = check,
};
