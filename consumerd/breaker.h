#ifndef CONSUMERD_BREAKER_H
#define CONSUMERD_BREAKER_H

/*
 * Circuit breaker of one operator. Pure: the clock is passed in, nothing is logged, nothing blocks;
 * one thread at a time.
 *
 * closed: every call may go out. Opens after so many failures in a row, when the share of failed or
 * of slow calls over a sliding window is reached, at once when the operator cannot serve us, or
 * when several messages in a row are told so. open: no call for open_ms. half-open: a few calls at
 * a time as probes; closes after so many successes, opens again at the first failure.
 *
 * A call takes a permit (breaker_allow) and gives it back with its result (breaker_record). A
 * result whose permit is from before the last change of state says nothing about the state now and
 * is ignored.
 */

#include <stdbool.h>
#include <stdint.h>

#include "libcommon/domain/message.h"

#define BREAKER_BUCKETS 10
#define BREAKER_MAYBE_UNFIT_MAX 3 /* messages in a row that open it */

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN };
#define BREAKER_STATES 3

enum breaker_result {
    BREAKER_SUCCESS,
    BREAKER_FAILURE,     /* it could not serve us, or may not have */
    BREAKER_UNFIT,       /* it cannot serve us */
    BREAKER_MAYBE_UNFIT, /* it cannot serve us, or will not take this one message */
    BREAKER_REFUSAL,     /* a final no: counts for nothing, but shows a half-open operator well */
    BREAKER_NEUTRAL,     /* throttled, a call we gave up ourselves: says nothing */
};

struct breaker_config {
    unsigned failures; /* in a row */
    int64_t open_ms;
    unsigned probes;    /* calls at a time while half-open */
    unsigned successes; /* that close it again */
    int64_t window_ms;
    unsigned window_calls; /* below it the rates mean nothing */
    unsigned failure_pct, slow_pct;
    int64_t slow_ms; /* a success that took longer is slow */
};

struct breaker {
    const struct breaker_config *config;
    enum breaker_state state;
    const char *reason; /* of the last change; static text */
    uint32_t era;       /* grows with every change of state; permits carry it */
    unsigned failures_in_a_row;
    unsigned maybe_unfit; /* different messages since the last success, named below */
    char maybe_unfit_ids[BREAKER_MAYBE_UNFIT_MAX][MESSAGE_ID_MAX + 1];
    unsigned probes_out;
    unsigned successes;
    int64_t opened_at_ms;
    struct {
        int64_t number; /* which slice of time this is, -1: none */
        unsigned calls, failures, slow;
    } buckets[BREAKER_BUCKETS];
};

/* config must outlive the breaker. */
void breaker_init(struct breaker *b, const struct breaker_config *config);

/* An open breaker whose time is over becomes half-open, whether or not anybody wants to call. */
void breaker_look(struct breaker *b, int64_t now_ms);

/* Whether a call may go out now; *permit goes with its result. Looks first. */
bool breaker_allow(struct breaker *b, int64_t now_ms, uint32_t *permit);

/* Whether breaker_allow would refuse; changes nothing. */
bool breaker_blocks(const struct breaker *b, int64_t now_ms);

/* The result of an allowed call, which was about that message; exactly one for each permit. */
void breaker_record(struct breaker *b, uint32_t permit, enum breaker_result result,
                    const char *message_id, int64_t duration_ms, int64_t now_ms);

const char *breaker_state_name(enum breaker_state state);

#endif
