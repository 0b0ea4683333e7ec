#ifndef OPERATOR_SIM_SIM_H
#define OPERATOR_SIM_SIM_H

/*
 * An operator to test against. It accepts each reference once, says so again with the same id when
 * a reference is repeated, remembers everything in a ledger, and goes wrong on demand.
 *
 * The operator protocol
 *   POST /messages            {"reference","to","text","type"}, Idempotency-Key: <reference>
 *                             200 {"id","status":"accepted"}; 400 when the body is malformed or the
 *                             key is there and is not the reference
 *   GET /messages/<reference> 200 {"id","status":"accepted"} or 404
 *
 * The ledger
 *   GET /ledger?limit=&cursor=  {"ledger":[entry,...],"next_cursor":text or null}, in order of
 *                               first sight; limit 1,000, at most 5,000
 *   GET /ledger/count           {"accepted","duplicates","requests","lookups","seen"}: duplicates
 *                               are requests for what was accepted already; seen counts references,
 *                               accepted or not
 *   GET /ledger/<reference>     entry, or 404 when it is not accepted
 *   entry: {"reference","id","to","type","text_bytes","text_crc32","accepted_at","requests",
 *          "lookups","idempotency_key":true or false,"traceparent":text or null}
 *
 * Faults: GET, PUT (replaces all of them) and DELETE /faults; at start SIM_FAULTS or --faults.
 *   latency_ms, latency_max_ms  every answer waits; between the two when both are given
 *   status, status_share        that share of requests is answered with this code, accepting
 *                               nothing (share 1 when left out); retry_after adds the header
 *   reset_share                 the connection is reset, nothing accepted
 *   hang_share                  no answer, nothing accepted, cut after SIM_HANG_MS
 *   accept_then_hang_share      accepted, no answer
 *   accept_then_reset_share     accepted, the connection is reset
 *   reject_prefix               recipients that begin so get a final no (reject_status, 422);
 *                               reject_share when only some
 *   lookup_status, lookup_status_share, lookup_hang_share
 *                               the same for GET /messages/<reference>
 *   refuse, refuse_ms           the listener is shut: connections are refused, until lifted through
 *                               CONTROL_ADDR, or for so long
 * Shares are from 0 to 1; <fault>_times beside <fault>_share bounds how often it strikes. The order
 * is hang, reset, status, reject, accept, accept_then_hang, accept_then_reset. SIM_SEED decides who
 * is struck; the same requests under the same seed are struck again.
 *
 * CONTROL_ADDR, when set, carries /faults, /ledger and the health routes too.
 */

#include "libcommon/base/err.h"
#include "operator-sim/settings.h"

struct sim;

struct sim *sim_start(const struct sim_settings *settings, struct err *err);
void sim_drain(struct sim *sim); /* within the drain's time */
void sim_free(struct sim *sim);  /* NULL is fine, half-built too */

#endif
