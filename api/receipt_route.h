#ifndef API_RECEIPT_ROUTE_H
#define API_RECEIPT_ROUTE_H

/*
 * POST and GET /operators/<name>/receipts[/<secret>]: from an operator's request to receipts in the
 * queue (receipts.h), and from there to the answer. The operator's file says who may bring them and
 * how they read; no API key is asked for. Answered with 200 only once every receipt is stored;
 * whatever else an operator hears makes it come again. Handlers never block.
 */

#include "libcommon/base/err.h"
#include "libcommon/net/httpd.h"

#define RECEIPT_PATH "/operators/*"
#define RECEIPT_BODY_BYTES (1 << 20)

/* Starts what is behind the route where an operator gives receipts; else nothing, and the route
 * answers that there is nothing. settings: api_settings */
int receipt_route_start(struct err *err);
void receipt_route_stop(void); /* after the server has drained */

void receipt_route_handle(struct httpd_request *req, void *arg);

#endif
