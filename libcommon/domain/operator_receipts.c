#include "libcommon/domain/operator_receipts.h"

#include "libcommon/domain/operator_keys.h"

const struct operator_key operator_receipt_keys[] = {{.name = NULL}};

void operator_receipts_finish(struct operator_draft *draft)
{
    (void)draft;
}

void operator_receipts_free(struct operator_receipts *receipts)
{
    (void)receipts;
}
