#ifndef API_ENTRANCE_H
#define API_ENTRANCE_H

/*
 * Where requests come in: the listener, where ADMIN_LISTEN_ADDR is set a second one for those who
 * watch the service, where RECEIPTS_LISTEN_ADDR is set one for operators' receipts, the keys in
 * memory, and admission before every route that states its needs. All of it is as api_settings say.
 */

#include <stdbool.h>
#include <stddef.h>

#include "api/admission.h"
#include "libcommon/base/err.h"
#include "libcommon/net/httpd.h"

struct entrance;

struct moves;

struct entrance_config {
    const struct httpd_route *routes;
    size_t count;
    size_t receipts;  /* the first of them: what that listener has, and the first goes without */
    size_t operation; /* the last of them: what a second listener has */
    size_t watch;     /* ... and what the first one then goes without */
    int64_t beside;   /* as in httpd_config */
    size_t body_bytes;
    struct moves *moves;  /* outlives it */
    size_t receipt_bytes; /* likewise, of a listener for receipts alone */
};

/* Binds; the keys begin to be read. NULL when an address cannot be had. */
struct entrance *entrance_open(const struct entrance_config *config, struct err *err);
struct admission *entrance_admission(struct entrance *e);
/* Waits for the keys first, for two seconds at most: a database that is away does not keep it. */
int entrance_start(struct entrance *e, struct err *err);
/* No new connections, and what is in hand is answered within the drain's time; the second listener
 * is the last to go. False: not all was. */
bool entrance_drain(struct entrance *e);
void entrance_free(struct entrance *e); /* ends the threads; NULL is fine */

#endif
