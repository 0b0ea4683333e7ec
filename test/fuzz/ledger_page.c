/* A page of an operator's ledger: it has entries, and what comes next is further on. */

#include "api/ledger_client.h"
#include "test/fuzz/fuzz.h"

#define ASKED 5

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t cursor = ASKED;
    json_t *entries = ledger_page_read((const char *)data, size, &cursor);

    MUST(entries ? json_is_array(entries) && (cursor < 0 || cursor > ASKED) : cursor == ASKED);
    json_decref(entries);
    return 0;
}
