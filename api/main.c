/*
 * msg-api: takes sends and top-ups over HTTP and stores them with their charge; answers history and
 * balance. Reading order: server.h, admission.h, commit.h, batch.h.
 */

#include <stdlib.h>

#include "api/receipt_operators.h"
#include "api/server.h"
#include "api/settings.h"
#include "api/verbs.h"
#include "libcommon/telemetry/log.h"

struct parts {
    struct server *server;
};

static int build(struct parts *p, struct err *err)
{
    const struct api_settings *s = &api_settings;

    daemon_depend_on(&s->db, &s->broker);
    p->server = server_start(err);
    return p->server ? 0 : -1;
}

static void drain(struct parts *p)
{
    server_drain(p->server);
}

static void release(struct parts *p)
{
    server_free(p->server);
}

static void reload(void *arg)
{
    (void)arg;
    receipt_operators_reload();
}

static int serve(void)
{
    struct parts parts = {0};
    struct err err;
    int rc;

    daemon_start(&api_program, &api_settings.daemon);
    rc = build(&parts, &err);
    if (rc) {
        log_error("server.start_failed", L_ERR(&err));
    } else {
        daemon_on_reload(reload, NULL);
        daemon_ready();
        daemon_wait();
        drain(&parts);
    }
    release(&parts);
    daemon_stop(true);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}

static const struct daemon_verb verbs[] = {
    {"migrate", "", verbs_migrate},
    {"audit",
     "[--quiesced] [--json] [--stuck-after=SECONDS] [--operators URL,URL] "
     "[--operator-names NAME,NAME]",
     verbs_audit},
    {"key",
     "create --label=TEXT --scopes=SCOPE,... [--customer=N] [--expires=AGE] [--from=NETWORK,...]\n"
     "       msg-api key list [--json] | revoke ID | rotate ID [--grace=AGE] | bootstrap | "
     "generate",
     verbs_key},
    {"customer",
     "move CUSTOMER --to=CELL [--drain=SECONDS] [--dry-run]\n"
     "       msg-api customer abort CUSTOMER | status [CUSTOMER] | map keys|customers",
     verbs_customer},
    {"restore-mode", "on|off|status|resume|fail --older-than=AGE [--dry-run]", verbs_restore_mode},
    {0},
};

int main(int argc, char **argv)
{
    return daemon_main(&api_program, verbs, serve, argc, argv);
}
