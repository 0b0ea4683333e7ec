#include "consumerd/breaker.h"

#include <stdio.h>
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
    b->maybe_unfit = 0;
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

void breaker_look(struct breaker *b, int64_t now_ms)
{
    if (b->state == BREAKER_OPEN && !breaker_blocks(b, now_ms))
        enter(b, BREAKER_HALF_OPEN, "open time over", now_ms);
}

bool breaker_allow(struct breaker *b, int64_t now_ms, uint32_t *permit)
{
    breaker_look(b, now_ms);
    if (breaker_blocks(b, now_ms))
        return false;
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

static void count_closed(struct breaker *b, bool failed, bool slow, int64_t now_ms)
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

/* Whether it is not about one message: the one that comes again counts once. */
static bool is_unfit(struct breaker *b, const char *message_id)
{
    for (unsigned i = 0; i < b->maybe_unfit; i++)
        if (!strcmp(b->maybe_unfit_ids[i], message_id))
            return false;
    snprintf(b->maybe_unfit_ids[b->maybe_unfit++], sizeof(b->maybe_unfit_ids[0]), "%s", message_id);
    return b->maybe_unfit == BREAKER_MAYBE_UNFIT_MAX;
}

static void record_closed(struct breaker *b, enum breaker_result result, const char *message_id,
                          int64_t duration_ms, int64_t now_ms)
{
    switch (result) {
    case BREAKER_SUCCESS:
        b->maybe_unfit = 0;
        count_closed(b, false, duration_ms > b->config->slow_ms, now_ms);
        break;
    case BREAKER_FAILURE:
        count_closed(b, true, false, now_ms);
        break;
    case BREAKER_UNFIT:
        enter(b, BREAKER_OPEN, "unfit", now_ms);
        break;
    case BREAKER_MAYBE_UNFIT:
        if (is_unfit(b, message_id))
            enter(b, BREAKER_OPEN, "unfit", now_ms);
        break;
    case BREAKER_REFUSAL:
    case BREAKER_NEUTRAL:
        break;
    }
}

static void record_half_open(struct breaker *b, enum breaker_result result, int64_t now_ms)
{
    b->probes_out--;
    switch (result) {
    case BREAKER_SUCCESS:
    case BREAKER_REFUSAL:
        if (++b->successes >= b->config->successes)
            enter(b, BREAKER_CLOSED, "probes succeeded", now_ms);
        break;
    case BREAKER_FAILURE:
        enter(b, BREAKER_OPEN, "probe failed", now_ms);
        break;
    case BREAKER_UNFIT:
    case BREAKER_MAYBE_UNFIT:
        enter(b, BREAKER_OPEN, "unfit", now_ms);
        break;
    case BREAKER_NEUTRAL:
        break;
    }
}

void breaker_record(struct breaker *b, uint32_t permit, enum breaker_result result,
                    const char *message_id, int64_t duration_ms, int64_t now_ms)
{
    if (permit != b->era)
        return;
    if (b->state == BREAKER_CLOSED)
        record_closed(b, result, message_id, duration_ms, now_ms);
    else if (b->state == BREAKER_HALF_OPEN)
        record_half_open(b, result, now_ms);
}
