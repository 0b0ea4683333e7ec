#ifndef OUTBOXD_SAMPLE_H
#define OUTBOXD_SAMPLE_H

/* A thread that samples how much waits in the outbox and since when, for the metrics: bounded
 * counts every few seconds, nothing at a scrape. */

#include <stdbool.h>

struct sampler;

struct sampler *sampler_start(void);
/* False when the thread is still busy after timeout_ms: it is left alone then. */
bool sampler_stop(struct sampler *s, int timeout_ms);

#endif
