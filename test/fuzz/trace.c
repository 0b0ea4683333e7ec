/* A line of traceparent, one of tracestate. */

#include "libcommon/base/trace.h"

#include <stdlib.h>

#include "test/fuzz/fuzz.h"

static void try_parent(const char *text)
{
    struct trace_context t;
    struct trace_context again;
    char formatted[TRACE_PARENT_SIZE];

    if (!trace_parse(text, &t))
        return;
    MUST(trace_valid(&t));
    trace_format(&t, formatted);
    MUST(!memcmp(formatted + 2, text + 2, 51)); /* all but version and flags */
    MUST(trace_parse(formatted, &again) && !memcmp(&t, &again, sizeof(t)));
    trace_child(&t, &again);
    MUST(!memcmp(t.trace_id, again.trace_id, sizeof(t.trace_id)) && t.flags == again.flags);
}

static void try_state(const char *text)
{
    size_t members = 1;

    if (!trace_state_ok(text, strlen(text)))
        return;
    MUST(strlen(text) <= TRACE_STATE_MAX);
    for (const char *c = text; *c; c++) {
        MUST((*c >= ' ' && *c <= '~') || *c == '\t');
        members += *c == ',';
    }
    MUST(members <= 32);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_text input = {(const char *)data, size};
    char *parent = fuzz_string(fuzz_line(&input));
    char *state = fuzz_string(fuzz_line(&input));

    try_parent(parent);
    try_state(state);
    free(parent);
    free(state);
    return 0;
}
