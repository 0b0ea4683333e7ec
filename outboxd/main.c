/*
 * msg-outboxd: publishes what the outbox holds and deletes what the broker has confirmed. Reading
 * order: relay.h, lane.h, claim.h, publish.h.
 */

#include <stdlib.h>

#include "libcommon/telemetry/log.h"
#include "outboxd/parked.h"
#include "outboxd/relay.h"
#include "outboxd/sample.h"
#include "outboxd/settings.h"

#define BROKER_DESCRIPTORS 32 /* and what else is no connection of a client or the database */

struct parts {
    struct httpd *httpd;
    struct sampler *sampler;
    struct relay *relay;
};

static int build(struct parts *p, struct err *err)
{
    const struct outboxd_settings *s = &outboxd_settings;

    daemon_depend_on(&s->db, &s->broker);
    p->httpd = daemon_http_start(&s->httpd, s->db.max_open + BROKER_DESCRIPTORS, err);
    if (!p->httpd)
        return -1;
    p->sampler = sampler_start();
    p->relay = relay_start();
    return 0;
}

/* False: threads are left that hold a batch, and all that they use with it. */
static bool drain(struct parts *p)
{
    bool ended;

    ended = relay_stop(p->relay, daemon_drain_left_ms());
    ended = sampler_stop(p->sampler, daemon_drain_left_ms()) && ended;
    httpd_drain(p->httpd);
    httpd_wait_drained(p->httpd, daemon_drain_left_ms());
    if (!ended)
        log_warn(
            "server.drain_cut_short",
            L_MSG("threads were busy at the deadline; a batch in hand will be published again"));
    return ended;
}

static void release(struct parts *p)
{
    httpd_free(p->httpd);
}

static int serve(void)
{
    struct parts parts = {0};
    bool ended = true;
    struct err err;
    int rc;

    daemon_start(&outboxd_program, &outboxd_settings.daemon);
    rc = build(&parts, &err);
    if (rc) {
        log_error("server.start_failed", L_ERR(&err));
    } else {
        daemon_ready();
        daemon_wait();
        ended = drain(&parts);
    }
    release(&parts);
    daemon_stop(ended);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}

static const struct daemon_verb verbs[] = {
    {"parked", "list | show ID | requeue ID...|--all [--dry-run] | drop ID... [--dry-run]",
     parked_main},
    {0},
};

int main(int argc, char **argv)
{
    return daemon_main(&outboxd_program, verbs, serve, argc, argv);
}
