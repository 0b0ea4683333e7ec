#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/migrate.h"
#include "api/server.h"
#include "api/settings.h"
#include "libcommon/log.h"

static int run_migrate(void)
{
    struct db *db = db_new(&api_settings.db);
    struct err err;
    int applied;
    int rc = db_acquire(db, &err);

    if (!rc)
        rc = migrate_run(db, &applied, &err);
    if (rc)
        fprintf(stderr, "msg-api migrate: %s\n", err.msg);
    else
        printf("%d migrations applied, %zu known\n", applied, migration_count);
    db_release(db);
    db_free(db);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int run_server(void)
{
    struct server *server;
    struct err err;

    daemon_start(&api_program, &api_settings.daemon);
    server = server_start(&err);
    if (!server) {
        log_error("server.start_failed", L_ERR(&err));
        daemon_stop();
        return EXIT_FAILURE;
    }
    daemon_ready();
    daemon_wait();
    server_stop(server);
    daemon_stop();
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    int rc = daemon_cli(&api_program, argc, argv);

    if (rc < 0 && argc == 1)
        rc = run_server();
    else if (rc < 0 && argc == 2 && !strcmp(argv[1], "migrate"))
        rc = run_migrate();
    else if (rc < 0) {
        fprintf(stderr, "msg-api: unknown verb; see msg-api --help\n");
        rc = EXIT_SETTINGS;
    }
    settings_free(api_program.groups, api_program.group_count);
    return rc;
}
