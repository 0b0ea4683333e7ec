/*
 * What a customer says of an endpoint, the path of one, and the time that a replay begins at. What
 * is taken holds to its limits, and a URL that is taken is taken again.
 */

#include "api/webhook_task.h"

#include <stdlib.h>

#include "libcommon/base/clock.h"
#include "test/fuzz/fuzz.h"

static void try_body(const char *body, size_t n)
{
    struct webhook_task task = {0};
    struct webhook_fault fault;

    if (!webhook_task_parse(&task, body, n, 0, &fault)) {
        MUST(fault.code && fault.message);
        return;
    }
    MUST(task.customer_id > 0 && task.batch >= 1 && task.batch <= WEBHOOK_BATCH_MAX);
    MUST(task.kinds && !(task.kinds & ~(unsigned)WEBHOOK_CHOICES));
    MUST(memchr(task.url, '\0', sizeof(task.url)) && !webhook_url_fault(task.url));
}

static void try_time(const char *text)
{
    struct buf out = {0};
    int64_t us, again;

    if (!clock_read_rfc3339(text, &us))
        return;
    MUST(us >= 0);
    clock_put_rfc3339(&out, us);
    MUST(!out.failed && clock_read_rfc3339(out.data, &again) && again == us);
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_string((struct fuzz_text){(const char *)data, size});
    const char *word;
    uint64_t id;

    try_body((const char *)data, size);
    try_time(text);
    if (webhook_task_path(text, &id, &word))
        MUST(id > 0 && word > text && word <= text + strlen(text));
    free(text);
    return 0;
}
