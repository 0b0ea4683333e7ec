#include "api/receipt_operators.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "api/settings.h"
#include "libcommon/domain/operator_secret.h"
#include "libcommon/telemetry/log.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct operator_set *present; /* under lock */

static struct operator_set *read_files(struct buf *errors, size_t *faults)
{
    static const struct operator_reading how = {.parts = OPERATOR_RECEIVING,
                                                .secret = operator_secret_get};

    return operator_set_read(api_settings.operators_file, &how, errors, faults);
}

static bool is_set(void)
{
    return api_settings.operators_file && *api_settings.operators_file;
}

static bool gives_receipts(const struct operator_set *set)
{
    for (size_t i = 0; set && i < set->n; i++)
        if (set->all[i]->receipts.given)
            return true;
    return false;
}

size_t receipt_operators_check(struct buf *errors)
{
    size_t faults = 0;
    struct operator_set *set = is_set() ? read_files(errors, &faults) : NULL;

    if (gives_receipts(set) && !*api_settings.receipts.reference_key) {
        buf_puts(errors,
                 "RECEIPT_REFERENCE_KEY is missing, and an operator in OPERATORS_FILE gives "
                 "receipts\n");
        faults++;
    }
    operator_set_drop(set);
    return faults;
}

int receipt_operators_open(struct err *err)
{
    struct buf errors = {0};
    size_t faults = 0;

    if (!is_set())
        return 0;
    present = read_files(&errors, &faults);
    if (!present)
        err_set(err, ERR_PERMANENT, 0, "OPERATORS_FILE: %s",
                errors.len ? errors.data : "cannot be read");
    buf_free(&errors);
    return present ? 0 : -1;
}

void receipt_operators_close(void)
{
    operator_set_drop(present);
    present = NULL;
}

bool receipt_operators_any(void)
{
    return gives_receipts(present);
}

struct operator_set *receipt_operators_keep(void)
{
    struct operator_set *set;

    pthread_mutex_lock(&lock);
    set = present ? operator_set_keep(present) : NULL;
    pthread_mutex_unlock(&lock);
    return set;
}

static void take(struct operator_set *set)
{
    struct operator_set *old;

    pthread_mutex_lock(&lock);
    old = present;
    present = set;
    pthread_mutex_unlock(&lock);
    operator_set_drop(old);
}

/* Which operators there are, and which of them give receipts, is counted and shown from the start.
 */
void receipt_operators_reload(void)
{
    struct buf errors = {0};
    char why[OPERATOR_WHY_SIZE];
    size_t faults = 0;
    struct operator_set *set;

    if (!is_set())
        return;
    set = read_files(&errors, &faults);
    if (!set) {
        log_error("operators.reload_failed", L_INT("faults", faults),
                  L_MSG(errors.len ? errors.data : "cannot be read"));
    } else if (!operator_set_may_follow(present, set, why, sizeof(why))) {
        log_error("operators.reload_failed", L_MSG(why));
        operator_set_drop(set);
    } else {
        log_info("operators.reloaded", L_INT("operators", set->n));
        take(set);
    }
    buf_free(&errors);
}
