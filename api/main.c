#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/audit.h"
#include "api/migrate.h"
#include "api/server.h"
#include "api/settings.h"
#include "libcommon/telemetry/log.h"

typedef int verb_fn(struct db *db, int argc, char **argv, struct err *err);

static int run_migrate(struct db *db, int argc, char **argv, struct err *err)
{
    int applied;

    (void)argv;
    if (argc > 0)
        return err_set(err, ERR_PERMANENT, 0, "migrate takes no options");
    if (migrate_run(db, &applied, err))
        return -1;
    printf("%d migrations applied, %zu known\n", applied, migration_count);
    return EXIT_SUCCESS;
}

static int run_audit(struct db *db, int argc, char **argv, struct err *err)
{
    struct audit_options options = {.stuck_after_sec = 3600};
    struct audit_report report;
    int rc;

    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--quiesced"))
            options.quiesced = true;
        else if (!strcmp(argv[i], "--json"))
            options.json = true;
        else if (!strncmp(argv[i], "--stuck-after=", 14) && atoi(argv[i] + 14) > 0)
            options.stuck_after_sec = atoi(argv[i] + 14);
        else if (!strcmp(argv[i], "--operators") && i + 1 < argc)
            options.operators = argv[++i];
        else if (!strncmp(argv[i], "--operators=", 12))
            options.operators = argv[i] + 12;
        else
            return err_set(err, ERR_PERMANENT, 0, "audit: unknown option; see msg-api --help");
    }
    if (audit_run(db, &options, &report, err))
        return -1;
    audit_print(&report, &options, stdout);
    rc = report.violations ? EXIT_FAILURE : EXIT_SUCCESS;
    audit_report_free(&report);
    return rc;
}

static int run_verb(int argc, char **argv)
{
    static const struct {
        const char *name;
        verb_fn *run;
    } verbs[] = {{"migrate", run_migrate}, {"audit", run_audit}};
    struct db_settings patient = migrate_settings(&api_settings.db);
    struct db *db;
    struct err err;
    int rc = -1;

    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        if (strcmp(argv[1], verbs[i].name) != 0)
            continue;
        db = db_new(&patient);
        if (db_acquire(db, &err) == 0)
            rc = verbs[i].run(db, argc - 2, argv + 2, &err);
        db_release(db);
        db_free(db);
        if (rc < 0)
            fprintf(stderr, "msg-api %s: %s\n", argv[1], err.msg);
        return rc < 0 ? EXIT_FAILURE : rc;
    }
    fprintf(stderr, "msg-api: unknown verb; see msg-api --help\n");
    return EXIT_SETTINGS;
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

    if (rc < 0)
        rc = argc == 1 ? run_server() : run_verb(argc, argv);
    settings_free(api_program.groups, api_program.group_count);
    return rc;
}
