#ifndef API_WEBHOOK_ROUTES_H
#define API_WEBHOOK_ROUTES_H

/*
 * The routes of a customer's endpoints. A handler reads and checks what is asked, finds out whom it
 * is about, and passes it on to the reading threads.
 *
 *   POST   /webhooks               an endpoint more; the answer has its secret, once
 *   GET    /webhooks               all of the customer
 *   GET    /webhooks/{id}          one
 *   DELETE /webhooks/{id}
 *   GET    /webhooks/{id}/attempts what the last calls came to
 *   POST   /webhooks/{id}/replay   what happened since ?from= is told again
 *   POST   /webhooks/{id}/rotate   another secret
 *   POST   /webhooks/{id}/enable   after it was disabled
 */

#include "api/admission.h"
#include "api/reads.h"
#include "libcommon/net/httpd.h"

/* submit: gives job, which is of READ_WEBHOOK, to the threads, or answers; the task is its own. */
void webhook_routes_open(struct admission *admission,
                         void (*submit)(struct httpd_request *req, struct read_job *job));

void webhook_handle_create(struct httpd_request *req, void *arg);
void webhook_handle_list(struct httpd_request *req, void *arg);
void webhook_handle_get(struct httpd_request *req, void *arg);
void webhook_handle_post(struct httpd_request *req, void *arg);
void webhook_handle_delete(struct httpd_request *req, void *arg);

#endif
