#include "consumerd/breaker.h"

#include <string.h>

const char *breaker_state_name(enum breaker_state state)
{
    static const char *const names[] = {
        [BREAKER_CLOSED] = "closed", [BREAKER_OPEN] = "open", [BREAKER_HALF_OPEN] = "half_open"};

    return names[state];
}

static void clear_window(struct breaker *b)
{
    memset(b->buckets, 0, sizeof(b->buckets));
    for (int i = 0; i < BREAKER_BUCKETS; i++)
        b->buckets[i].number = -1;
}

/* The only place where the state changes. */
static void enter(struct breaker *b, enum breaker_state state, const char *reason, int64_t now_ms)
{
    b->state = state;
    b->reason = reason;
    b->era++;
    b->failures_in_a_row = 0;
    b->probes_out = 0;
    b->successes = 0;
    if (state == BREAKER_OPEN)
        b->opened_at_ms = now_ms;
    if (state == BREAKER_CLOSED)
        clear_window(b);
}

void breaker_init(struct breaker *b, const struct breaker_config *config)
{
    memset(b, 0, sizeof(*b));
    b->config = config;
    enter(b, BREAKER_CLOSED, "start", 0);
}

bool breaker_blocks(const struct breaker *b, int64_t now_ms)
{
    switch (b->state) {
    case BREAKER_CLOSED:
        return false;
    case BREAKER_OPEN:
        return now_ms - b->opened_at_ms < b->config->open_ms;
    case BREAKER_HALF_OPEN:
        return b->probes_out >= b->config->probes;
    }
    return true;
}

bool breaker_allow(struct breaker *b, int64_t now_ms, uint32_t *permit)
{
    if (breaker_blocks(b, now_ms))
        return false;
    if (b->state == BREAKER_OPEN)
        enter(b, BREAKER_HALF_OPEN, "open time over", now_ms);
    if (b->state == BREAKER_HALF_OPEN)
        b->probes_out++;
    *permit = b->era;
    return true;
}

static void count(struct breaker *b, bool failed, bool slow, int64_t now_ms)
{
    int64_t slice_ms = b->config->window_ms / BREAKER_BUCKETS;
    int64_t number = now_ms / (slice_ms > 0 ? slice_ms : 1);
    unsigned i = (unsigned)(number % BREAKER_BUCKETS);

    if (b->buckets[i].number != number) {
        memset(&b->buckets[i], 0, sizeof(b->buckets[i]));
        b->buckets[i].number = number;
    }
    b->buckets[i].calls++;
    b->buckets[i].failures += failed;
    b->buckets[i].slow += slow;
}

/* NULL, or why the window says that the breaker must open. */
static const char *window_verdict(const struct breaker *b, int64_t now_ms)
{
    const struct breaker_config *c = b->config;
    int64_t slice_ms = c->window_ms / BREAKER_BUCKETS;
    int64_t oldest = now_ms / (slice_ms > 0 ? slice_ms : 1) - BREAKER_BUCKETS + 1;
    uint64_t calls = 0;
    uint64_t failures = 0;
    uint64_t slow = 0;

    for (int i = 0; i < BREAKER_BUCKETS; i++) {
        if (b->buckets[i].number < oldest)
            continue;
        calls += b->buckets[i].calls;
        failures += b->buckets[i].failures;
        slow += b->buckets[i].slow;
    }
    if (calls < c->window_calls || calls == 0)
        return NULL;
    if (failures * 100 >= calls * c->failure_pct)
        return "failure rate";
    if (slow * 100 >= calls * c->slow_pct)
        return "slow call rate";
    return NULL;
}

static void record_closed(struct breaker *b, bool failed, bool slow, int64_t now_ms)
{
    const char *verdict;

    count(b, failed, slow, now_ms);
    b->failures_in_a_row = failed ? b->failures_in_a_row + 1 : 0;
    if (b->failures_in_a_row >= b->config->failures) {
        enter(b, BREAKER_OPEN, "failures in a row", now_ms);
        return;
    }
    verdict = failed || slow ? window_verdict(b, now_ms) : NULL;
    if (verdict)
        enter(b, BREAKER_OPEN, verdict, now_ms);
}

void breaker_record(struct breaker *b, uint32_t permit, enum breaker_result result,
                    int64_t duration_ms, int64_t now_ms)
{
    if (permit != b->era)
        return;
    if (b->state == BREAKER_HALF_OPEN)
        b->probes_out--;
    if (result == BREAKER_NEUTRAL || (result == BREAKER_REFUSAL && b->state == BREAKER_CLOSED))
        return;
    if (b->state == BREAKER_CLOSED) {
        record_closed(b, result == BREAKER_FAILURE,
                      result == BREAKER_SUCCESS && duration_ms > b->config->slow_ms, now_ms);
    } else if (b->state == BREAKER_HALF_OPEN) {
        if (result == BREAKER_FAILURE)
            enter(b, BREAKER_OPEN, "probe failed", now_ms);
        else if (++b->successes >= b->config->successes)
            enter(b, BREAKER_CLOSED, "probes succeeded", now_ms);
    }
}
