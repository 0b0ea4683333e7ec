#ifndef CONSUMERD_WEBHOOK_BODY_H
#define CONSUMERD_WEBHOOK_BODY_H

/*
 * What an endpoint is sent: the body of one event, or of several for an endpoint that asks for
 * them, and the id that the request has every time. Pure.
 *
 *   {"id":"…","type":"message.done","timestamp":"2026-01-02T03:04:05.678901Z","data":{…}}
 *   {"type":"batch","timestamp":"…","data":[{…},{…}]}
 */

#include "libcommon/domain/webhook_queue.h"

#define WEBHOOK_REQUEST_ID_SIZE (WEBHOOK_ID_MAX + 1)

/* batch: of the endpoint. n is 1 where it is 1. False: memory is out. */
bool webhook_body_put(struct buf *body, unsigned batch, const struct webhook_event *events,
                      size_t n);
/* An event's own; of a batch, one that the same events have again. False: memory is out. */
bool webhook_body_id(char id[WEBHOOK_REQUEST_ID_SIZE], unsigned batch,
                     const struct webhook_event *events, size_t n);
/* "webhook-signature": of each secret that there is. False: memory is out. */
bool webhook_body_sign(struct buf *out, const struct webhook_secret secrets[2], const char *id,
                       int64_t timestamp, const struct buf *body);

#endif
