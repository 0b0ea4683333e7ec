#ifndef API_RECEIPT_ROUTE_H
#define API_RECEIPT_ROUTE_H

/*
 * POST and GET /operators/<name>/receipts[/<secret>]: from an operator's request to receipts in the
 * queue (receipts.h), and from there to the answer. The operator's file says who may bring them and
 * how they read; no API key is asked for. Answered with 200 only once every receipt is stored;
 * whatever else an operator hears makes it come again. Handlers never block.
 */

#include <stdbool.h>

#include "libcommon/base/err.h"
#include "libcommon/net/httpd.h"

#define RECEIPT_PATH "/operators/*"
#define RECEIPT_BODY_BYTES ((size_t)256 << 10) /* some hundred receipts */

/* Reads the operators' files. settings: api_settings */
int receipt_route_open(struct err *err);
/* Whether any operator gives receipts; else the route answers that there is nothing. */
bool receipt_route_is_used(void);
/* Starts what is behind the route where it is used. */
void receipt_route_start(void);
void receipt_route_stop(void); /* after the server has drained */

void receipt_route_handle(struct httpd_request *req, void *arg);

#endif
