#include "consumerd/webhook_spans.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/settings.h"
#include "libcommon/telemetry/tracer.h"

#define HOST_MAX 256

struct server {
    char host[HOST_MAX];
    uint16_t port;
};

/* Of a URL that webhook_url_fault has let pass. */
static void read_server(const char *url, struct server *out)
{
    const char *at = strstr(url, "://");
    char text[HOST_MAX];

    at = at ? at + 3 : url;
    snprintf(text, sizeof(text), "%.*s", (int)strcspn(at, "/?"), at);
    if (settings_split_addr(text, out->host, sizeof(out->host), &out->port))
        return;
    snprintf(out->host, sizeof(out->host), "%s", text);
    out->port = strncasecmp(url, "https:", 6) ? 80 : 443;
}

static void record(const struct webhook_posted *p, const struct webhook_event *e,
                   const struct server *server, int64_t end_us)
{
    const char *dash = strrchr(e->subject, '-');
    const char *result = webhook_result_name(p->result);
    bool good = p->result == WEBHOOK_OK;
    char message[WEBHOOK_SUBJECT_MAX + 1];
    char webhook[24];
    char status[16] = "";
    struct trace_context own;

    snprintf(message, sizeof(message), "%.*s", dash ? (int)(dash - e->subject) : 0, e->subject);
    snprintf(webhook, sizeof(webhook), "%" PRIu64, p->round->page.id);
    if (p->status)
        snprintf(status, sizeof(status), "%u", p->status);
    trace_child(&e->trace, &own);
    tracer_span(&(struct tracer_span){
        .context = &own,
        .parent = &e->trace,
        .parent_remote = true,
        .state = e->tracestate,
        .kind = TRACER_CLIENT,
        .name = "POST webhook",
        .start_us = end_us - p->took_us,
        .end_us = end_us,
        .status = good ? TRACER_UNSET : TRACER_ERROR,
        .message = good ? NULL : result,
        .attrs =
            (const struct tracer_attr[]){
                T_STR("http.request.method", "POST"), T_STR("server.address", server->host),
                T_INT("server.port", server->port), T_STR("messaging.message.id", message),
                T_INT("msg.position", dash ? strtoll(dash + 1, NULL, 10) : 0),
                T_STR("msg.event", webhook_kind_name(e->kind)), T_STR("msg.webhook", webhook),
                T_INT("msg.attempt", e->attempts + 1), T_STR("msg.result", result),
                T_STR("error.type", good      ? NULL
                                    : *status ? status
                                              : result),
                T_INT("messaging.batch.message_count", p->n),
                T_INT("http.response.status_code", p->status), /* the last: there may be none */
            },
        .attr_count = p->status ? 12 : 11,
    });
}

void webhook_spans_called(const struct webhook_posted *p)
{
    const struct webhook_event *events = p->round->page.events + p->first;
    struct server server;
    int64_t end_us;

    if (!tracer_on())
        return;
    end_us = clock_wall_us() - (clock_mono_ms() - p->ended_ms) * 1000;
    read_server(p->round->page.url, &server);
    for (size_t i = 0; i < p->n; i++)
        if (tracer_wants(&events[i].trace))
            record(p, &events[i], &server, end_us);
}
