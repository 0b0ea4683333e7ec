#ifndef OPERATOR_SIM_SETTINGS_H
#define OPERATOR_SIM_SETTINGS_H

/* The simulator's settings: one table, loaded once. */

#include "libcommon/daemon/daemon.h"
#include "libcommon/net/httpd.h"

struct sim_settings {
    char *name, *control_addr, *faults, *ledger_file, *receipts, *receipt_key;
    int64_t seed, ledger_max, hang_ms, receipts_max, receipts_in_flight;
    struct httpd_settings http;
    struct daemon_settings daemon;
};

extern struct sim_settings sim_settings;
extern const struct daemon_program sim_program;

#endif
