#ifndef OPERATOR_SIM_SIM_INTERNAL_H
#define OPERATOR_SIM_SIM_INTERNAL_H

/* What sim.c (the operator protocol, start and stop) and control.c (ledger and faults over HTTP)
 * share. */

#include <pthread.h>

#include "libcommon/telemetry/metrics.h"
#include "operator-sim/door.h"
#include "operator-sim/fault.h"
#include "operator-sim/hash.h"
#include "operator-sim/ledger.h"
#include "operator-sim/receipts.h"
#include "operator-sim/sim.h"

enum result {
    RESULT_ACCEPTED,
    RESULT_DUPLICATE,
    RESULT_REJECTED,
    RESULT_INVALID,
    RESULT_STATUS,
    RESULT_RESET,
    RESULT_HANG,
    RESULT_FULL,
    RESULT_FOUND,
    RESULT_NOT_FOUND,
    RESULTS
};

struct sim {
    const struct sim_settings *settings;
    pthread_mutex_t lock; /* over ledger and faults */
    struct ledger *ledger;
    struct fault_set faults;
    struct hash_key id_key;
    struct receipts *receipts;
    struct door *door;
    struct httpd *control; /* NULL: none */
    struct httpd_settings control_settings;
    struct metric *sends[RESULTS], *lookups[RESULTS];
    struct metric *references;
};

/* The same reference has the same id at one operator, even when the simulator forgot it between. */
void sim_put_id(const struct sim *sim, const char *reference, char id[RECEIPT_ID_SIZE]);

void control_ledger(struct httpd_request *req, void *arg);
void control_ledger_count(struct httpd_request *req, void *arg);
void control_ledger_find(struct httpd_request *req, void *arg);
void control_ledger_entry(struct httpd_request *req, void *arg);
void control_get_faults(struct httpd_request *req, void *arg);
void control_put_faults(struct httpd_request *req, void *arg);
void control_delete_faults(struct httpd_request *req, void *arg);
void control_get_receipts(struct httpd_request *req, void *arg);
void control_put_receipts(struct httpd_request *req, void *arg);
void control_delete_receipts(struct httpd_request *req, void *arg);
void control_receipts_count(struct httpd_request *req, void *arg);

#endif
