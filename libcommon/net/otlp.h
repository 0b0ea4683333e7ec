#ifndef LIBCOMMON_NET_OTLP_H
#define LIBCOMMON_NET_OTLP_H

/*
 * Sends the tracer's spans to an OpenTelemetry collector: OTLP over HTTP with protobuf, or over
 * gRPC. One thread of its own takes batches out of the tracer's queue, encodes and posts them; a
 * collector that is away, slow or talks nonsense costs dropped spans, which are counted, and
 * nothing else. Off until an endpoint is set. The settings are the OpenTelemetry specification's.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base/settings.h"

struct buf;

/* Settings that exist for all signals and for traces alone; those for traces win. */
struct otlp_exporter_settings {
    char *endpoint, *protocol, *headers, *compression, *insecure;
    char *certificate, *client_certificate, *client_key;
    int64_t timeout_ms;
};

struct otlp_settings {
    bool disabled;
    char *exporter, *service_name, *resource_attributes;
    char *sampler, *sampler_arg;
    int64_t schedule_delay_ms, export_timeout_ms, queue_max, batch_max;
    struct otlp_exporter_settings all, traces;
};

extern const struct setting otlp_settings_rows[];

/* What no single row can tell: appends a line to errors for each fault, returns their number. */
size_t otlp_settings_check(const struct otlp_settings *s, struct buf *errors);

/* service: the name when no setting has one. Settings that were never loaded mean off, as do those
 * without an endpoint. Before other threads. */
void otlp_start(const struct otlp_settings *s, const char *service);
/* No spans from now on; delivers what the queue holds, one try a batch, at most timeout_ms. */
void otlp_stop(int timeout_ms);

#endif
