#ifndef LIBCOMMON_TELEMETRY_METRICS_H
#define LIBCOMMON_TELEMETRY_METRICS_H

/*
 * The process's metrics, in Prometheus' text format 0.0.4 or in OpenMetrics 1.0. Each thread adds
 * to a block of its own (single writer, relaxed atomics); a scrape sums the blocks and counts
 * nothing else, so it costs the same however much there is. Registering the same family and labels
 * again returns the same metric; register at start, so that every label set exists at 0. Labels are
 * bounded: never a customer, a number or an identifier. Any thread may call anything here.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;
struct metric;
struct trace_context;

enum metrics_format { METRICS_PLAIN, METRICS_OPENMETRICS };

/* A configured name as the value of a label: to has room for METRICS_ESCAPED of its length. Returns
 * to. */
#define METRICS_ESCAPED(n) (2 * (n) + 1)
const char *metrics_escape(char *to, size_t size, const char *value);
/* labels as they appear between the braces: `type="normal",result="ok"`, or "". A counter's family
 * ends in _total. */
struct metric *metrics_counter(const char *family, const char *help, const char *labels);
struct metric *metrics_gauge(const char *family, const char *help, const char *labels);
/* Seconds, from 250 microseconds to 30 s. */
struct metric *metrics_latency(const char *family, const char *help, const char *labels);
/* Counts (batch sizes), from 1 to 10,000. */
struct metric *metrics_sizes(const char *family, const char *help, const char *labels);

void metrics_add(struct metric *counter, uint64_t n);
void metrics_set(struct metric *gauge, int64_t value);
/* As a gauge's value: it has none at present, and no sample is given. */
#define METRICS_ABSENT INT64_MIN
void metrics_observe(struct metric *histogram, int64_t value); /* microseconds, or a count */
/* The same, of a latency. The last observation of each bucket whose trace is exported
 * (tracer_wants) is its exemplar in OpenMetrics. NULL: of no trace. Takes no lock. */
void metrics_observe_traced(struct metric *latency, int64_t value,
                            const struct trace_context *trace);
uint64_t metrics_value(const struct metric *counter); /* counter's sum, or gauge's value */

/* Appends the exposition of everything registered, with the process_* family. */
void metrics_render(struct buf *out, enum metrics_format format);
/* What an Accept header (NULL: there is none) asks for: OpenMetrics when it is named and not less
 * wanted than plain text. */
enum metrics_format metrics_format_for(const char *accept);
const char *metrics_content_type(enum metrics_format format);

#endif
