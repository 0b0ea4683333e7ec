/*
 * Carriers of kind http: what their files word (operator_exchange.h). No trace headers: they are
 * none of a stranger's business.
 */

#include <string.h>

#include "consumerd/transport_http.h"
#include "libcommon/domain/operator_exchange.h"
#include "libcommon/domain/receipt_address.h"

/* Where its receipts go, and what they come back with. */
static void put_receipt(const struct http_said *said, char reference[RECEIPT_REFERENCE_SIZE])
{
    const struct receipt_settings *receipts = said->config->receipts;
    const char *secret = said->op->receipts.secret; /* the end of the path */
    const struct job *job = said->call->job;

    if (!receipts)
        return;
    if (!receipt_reference_write(reference, receipts->reference_key, said->op->name,
                                 job->message->id, job->position))
        reference[0] = '\0';
    if (receipts->public_url && *receipts->public_url)
        receipt_address_put(said->scratch, receipts, said->op->name,
                            secret && said->shown ? "***" : secret, job->message->id,
                            job->position);
}

static bool put(const struct http_said *said, struct buf *out, struct buf *body)
{
    const struct operator_request *request = said->lookup ? &said->op->lookup : &said->op->submit;
    const struct inflight *m = said->call->job->message;
    char reference[TRANSPORT_REFERENCE_MAX];
    char signed_reference[RECEIPT_REFERENCE_SIZE];
    struct operator_values values = {
        .text = m->text,
        .text_len = m->text_len,
        .to = said->call->job->recipient,
        .reference = reference,
        .type = message_type_name(m->type),
        .signed_reference = signed_reference,
    };

    if (!request->method)
        return false;
    transport_reference(said->call->job, reference);
    signed_reference[0] = '\0';
    if (request->asks_for_receipts)
        put_receipt(said, signed_reference);
    values.receipt_url = said->scratch->len ? said->scratch->data : "";
    operator_request_put(said->op, request, &values, said->shown, out, body);
    return !said->scratch->failed;
}

static void judge(const struct http_heard *heard, struct transport_result *r)
{
    struct operator_answer answer;
    struct operator_judgement said;

    operator_answer_begin(&answer, heard->status, heard->body, heard->len, heard->whole);
    if (r->lookup) {
        r->answer = operator_judge_lookup(heard->op, &answer, r->provider_id);
    } else {
        operator_judge(heard->op, &answer, &said);
        r->verdict = said.verdict;
        r->unfit = said.unfit;
        r->rule_line = said.line;
        r->parts = said.parts;
        r->cost_millionths = said.cost_millionths;
        r->remaining = said.remaining;
        memcpy(r->provider_id, said.id, sizeof(r->provider_id));
    }
    operator_answer_end(&answer);
}

static struct transport_link *open_link(const struct transport_config *config)
{
    static const struct http_speech speech = {put, judge};

    return http_open(config, &transport_carrier, &speech);
}

const struct transport transport_carrier = {
    .kind = "http",
    .submit_span = {.name = "submit"},
    .lookup_span = {.name = "lookup"},
    .open = open_link,
    .close = http_close,
    .submit = http_submit,
    .lookup = http_lookup,
    .abort = http_abort,
    .reloaded = http_reloaded,
};
