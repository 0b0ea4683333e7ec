#ifndef OPERATOR_SIM_SIM_H
#define OPERATOR_SIM_SIM_H

/*
 * An operator to test against. It accepts each reference once, says so again with the same id when
 * a reference is repeated, remembers everything in a ledger, and goes wrong on demand.
 *
 * The operator protocol
 *   POST /messages            {"reference","to","text","type"}, Idempotency-Key: <reference>
 *                             200 {"id","status":"accepted"}, and "parts" when it is several; 400
 *                             when the body is malformed or the key is there and is not the
 *                             reference
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
 *          "lookups","receipt":text or null,"idempotency_key":true or false,
 *          "traceparent":text or null}
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
 * Receipts: GET, PUT (replaces all) and DELETE /receipts; at start SIM_RECEIPTS. What is accepted
 * is reported to the url that POST /messages has brought as "receipt_url", or else to the one here;
 * where it has brought a "receipt_reference", that stands in for its reference.
 *   url                         where to; none: only to those that messages bring
 *   form                        json, form (both POST) or query (GET). Fields: id, reference,
 *                               status (sent, delivered, undelivered, expired), code, words, at;
 *                               with several parts part and parts
 *   batch                       json: up to so many in one request, {"receipts":[...]}
 *   answer_id, receipt_id       how ids are written in answers and in receipts: text, decimal,
 *                               hex, decimal_zeros, hex_zeros; receipts as answers when left out
 *   echo                        whether the reference is in it (true)
 *   signature_header            X-Signature; it is there with SIM_RECEIPT_KEY (receipts.h)
 *   delivered_share             the others are undelivered or expired (1)
 *   silent_share                no receipt at all
 *   delay_ms, delay_max_ms      after the message; between the two when both are given
 *   parts                       so many final receipts for a message, one a part; of an
 *                               undelivered message one says so
 *   sent_share, reorder_share   one on the way ("sent") before the final ones; of these, that
 *                               share comes behind instead
 *   duplicate_share             of the receipts, each once more
 *   before_answer_share         sent at once, and the message answered answer_after_ms (100) later
 *   forged_share                one more that says the opposite, signed with a wrong key
 *   tries, retry_ms             until it is answered with 2xx (20; 500, doubling to 30 s)
 *   hold, per_second            none is sent; at most so many receipts a second (0: any)
 * GET /receipts/count: {"waiting","in_flight","taken","given_up","again","forged_taken",
 * "forged_refused","dropped"}. "receipt" in an entry of the ledger is what the last final one that
 * was taken says of the message: "delivered", "undelivered" or null.
 *
 * CONTROL_ADDR, when set, carries /faults, /ledger, /receipts and the health routes too.
 */

#include "libcommon/base/err.h"
#include "operator-sim/settings.h"

struct sim;

struct sim *sim_start(const struct sim_settings *settings, struct err *err);
void sim_drain(struct sim *sim); /* within the drain's time */
void sim_free(struct sim *sim);  /* NULL is fine, half-built too */

#endif
