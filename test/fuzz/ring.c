/* What a ring of the doorbell says: only what there is, and the same when it is said again. */

#include "libcommon/domain/doorbell.h"
#include "test/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned what = doorbell_parse(data, size);
    struct buf again = {0};

    MUST(what < 1u << 2 * MESSAGE_LANES);
    doorbell_put(&again, what);
    MUST(!again.failed && again.len <= size);
    MUST(!what || doorbell_parse(again.data, again.len) == what);
    buf_free(&again);
    return 0;
}
