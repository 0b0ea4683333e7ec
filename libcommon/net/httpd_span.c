#include <event2/keyvalq_struct.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/net/httpd_internal.h"
#include "libcommon/telemetry/tracer.h"

/* What the client called us by. */
static void read_host(const struct httpd_request *req, char *host, size_t size, int64_t *port)
{
    const char *value = httpd_header(req, "Host");
    uint16_t number;

    *port = 0;
    *host = '\0';
    if (!value)
        return;
    if (settings_split_addr(value, host, size, &number))
        *port = number;
    else
        snprintf(host, size, "%s", value);
}

bool http_span_wanted(const struct httpd_request *req)
{
    const struct httpd_route *route = http_route(req);

    return route && !(route->words & HTTPD_NO_SPAN) && tracer_wants(&req->trace);
}

void http_span_answer(const struct httpd_request *req)
{
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req->ev);
    int64_t end_us = clock_wall_us();
    char name[TRACER_NAME_MAX];
    char host[256];
    char status[16];
    char user[24] = "";
    int64_t host_port;
    bool failed = req->status >= 500;

    snprintf(name, sizeof(name), "%s %s", http_method_name(req->method), req->path->pattern);
    snprintf(status, sizeof(status), "%d", req->status);
    if (req->user_id)
        snprintf(user, sizeof(user), "%" PRId64, req->user_id);
    read_host(req, host, sizeof(host), &host_port);
    {
        const struct tracer_attr attrs[] = {
            T_STR("http.request.method", http_method_name(req->method)),
            T_STR("http.route", req->path->pattern),
            T_STR("url.scheme", req->conn->ssl ? "https" : "http"),
            T_STR("url.path", evhttp_uri_get_path(uri)),
            T_INT("http.response.status_code", req->status),
            T_STR("error.type", failed ? status : NULL),
            T_STR("client.address", httpd_peer(req)),
            T_INT("client.port", req->peer == req->conn->peer ? req->conn->peer_port : 0),
            T_STR("user.id", user),
            T_STR("http.request.header.x-request-id", req->id == req->own_id ? NULL : req->id),
            T_STR("server.address", host),
            T_INT("server.port", host_port), /* the last: left out when there is none */
        };

        tracer_span(&(struct tracer_span){
            .context = &req->trace,
            .parent = req->has_parent ? &req->parent : NULL,
            .parent_remote = true,
            .state = req->tracestate,
            .kind = TRACER_SERVER,
            .name = name,
            .start_us = end_us - (clock_mono_us() - req->start_us),
            .end_us = end_us,
            .status = failed ? TRACER_ERROR : TRACER_UNSET,
            .attrs = attrs,
            .attr_count = sizeof(attrs) / sizeof(attrs[0]) - (host_port ? 0 : 1),
        });
    }
}
