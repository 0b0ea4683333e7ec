/*
 * Our own protocol, spoken to operators of kind native:
 *
 *   POST {base}/messages {"reference","to","text","type"}, Idempotency-Key: <reference>
 *   GET  {base}/messages/{reference}
 *
 * What an answer means: a 2xx that says it (transport_http_answer.h): accepted, or found; any other
 * 2xx: unknown; 5xx, 408, 421, 425: transient; 429: throttled; 400, 413, 422 and 451, which speak
 * of the message: rejected; redirects, and what speaks of us, of the address or of the form of our
 * requests: unfit; other 4xx: unknown. A status that has come counts, whatever becomes of the rest
 * of the answer. Without one: unknown, or transient when nothing of the request has left. "Not
 * found" is a 404.
 */

#include <string.h>

#include "consumerd/transport_http.h"
#include "consumerd/transport_http_answer.h"

static void put_body(struct buf *b, const struct job *job, const char *reference)
{
    const struct inflight *m = job->message;

    buf_puts(b, "{\"reference\":\"");
    buf_puts(b, reference);
    buf_puts(b, "\",\"to\":\"");
    buf_puts(b, job->recipient);
    buf_puts(b, "\",\"text\":");
    buf_put_json(b, m->text, m->text_len);
    buf_puts(b, ",\"type\":\"");
    buf_puts(b, message_type_name(m->type));
    buf_puts(b, "\"}");
}

static void put_target(struct buf *b, const struct http_said *said, const char *reference)
{
    const char *host = strstr(said->op->url, "://") + 3;
    size_t host_len = strcspn(host, "/");

    buf_puts(b, said->lookup ? "GET " : "POST ");
    buf_puts(b, host + host_len);
    buf_puts(b, "/messages");
    if (said->lookup) {
        buf_putc(b, '/');
        buf_puts(b, reference);
    }
    buf_puts(b, " HTTP/1.1\r\nHost: ");
    buf_put(b, host, host_len);
    buf_puts(b, "\r\nUser-Agent: msg-consumerd/" PROJECT_VERSION "\r\nAccept: */*\r\n");
}

static void put_trace(struct buf *b, const struct transport_call *call)
{
    const struct inflight *m = call->job->message;
    char traced[TRACE_PARENT_SIZE];

    if (!*m->traceparent)
        return;
    if (tracer_wants(&m->process))
        trace_format(&call->trace, traced);
    buf_puts(b, "traceparent: ");
    buf_puts(b, tracer_wants(&m->process) ? traced : m->traceparent);
    buf_puts(b, "\r\n");
    if (m->tracestate) {
        buf_puts(b, "tracestate: ");
        buf_puts(b, m->tracestate);
        buf_puts(b, "\r\n");
    }
}

static bool put(const struct http_said *said, struct buf *out, struct buf *body)
{
    char reference[TRANSPORT_REFERENCE_MAX];

    transport_reference(said->call->job, reference);
    put_target(out, said, reference);
    put_trace(out, said->call);
    if (!said->lookup) {
        put_body(body, said->call->job, reference);
        buf_puts(out, "Content-Type: application/json\r\nIdempotency-Key: ");
        buf_puts(out, reference);
        buf_puts(out, "\r\nContent-Length: ");
        buf_put_uint(out, body->len);
        buf_puts(out, "\r\n");
    }
    buf_puts(out, "\r\n");
    buf_put(out, body->data, body->len);
    return true;
}

static void judge(const struct http_heard *heard, struct transport_result *r)
{
    const char *body = heard->whole ? heard->body : NULL;

    if (r->lookup)
        r->answer = http_answer_to_get(heard->status, body, heard->len, r->provider_id);
    else
        r->verdict =
            http_answer_to_post(heard->status, body, heard->len, r->provider_id, &r->unfit);
}

static struct transport_link *open_link(const struct transport_config *config)
{
    static const struct http_speech speech = {put, judge};

    return http_open(config, &transport_native, &speech);
}

const struct transport transport_native = {
    .kind = "native",
    .submit_span = {.name = "POST",
                    .attrs = {T_STR("http.request.method", "POST"),
                              T_STR("url.template", "/messages")},
                    .attr_count = 2},
    .lookup_span = {.name = "GET",
                    .attrs = {T_STR("http.request.method", "GET"),
                              T_STR("url.template", "/messages/{reference}")},
                    .attr_count = 2},
    .open = open_link,
    .close = http_close,
    .submit = http_submit,
    .lookup = http_lookup,
    .abort = http_abort,
    .reloaded = http_reloaded,
};
