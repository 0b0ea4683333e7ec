#include "api/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/audit.h"
#include "api/migrate.h"
#include "api/settings.h"

/* A connection with a migration's patience; NULL after saying why. */
static struct db *open_db(const char *verb)
{
    struct db_settings patient = migrate_settings(&api_settings.db);
    struct db *db = db_new_reader(&patient);
    struct err err;

    if (!db_acquire(db, &err))
        return db;
    fprintf(stderr, "msg-api %s: %s\n", verb, err.msg);
    db_free(db);
    return NULL;
}

/* After that: what the verb came to. */
static int finish(struct db *db, const char *verb, int rc, const struct err *err)
{
    db_release(db);
    db_free(db);
    if (rc < 0)
        fprintf(stderr, "msg-api %s: %s\n", verb, err->msg);
    return rc < 0 ? EXIT_FAILURE : rc;
}

int verbs_migrate(int argc, char **argv)
{
    struct db *db;
    struct err err;
    int applied;
    int rc;

    (void)argv;
    if (argc > 0)
        return DAEMON_USAGE;
    db = open_db("migrate");
    if (!db)
        return EXIT_FAILURE;
    rc = migrate_run(db, &applied, &err);
    if (!rc)
        printf("%d migrations applied, %zu known\n", applied, migration_count);
    return finish(db, "migrate", rc, &err);
}

static bool parse_audit(int argc, char **argv, struct audit_options *options)
{
    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--quiesced"))
            options->quiesced = true;
        else if (!strcmp(argv[i], "--json"))
            options->json = true;
        else if (!strncmp(argv[i], "--stuck-after=", 14) && atoi(argv[i] + 14) > 0)
            options->stuck_after_sec = atoi(argv[i] + 14);
        else if (!strcmp(argv[i], "--operators") && i + 1 < argc)
            options->operators = argv[++i];
        else if (!strncmp(argv[i], "--operator-names=", 17))
            options->operator_names = argv[i] + 17;
        else if (!strcmp(argv[i], "--operator-names") && i + 1 < argc)
            options->operator_names = argv[++i];
        else if (!strncmp(argv[i], "--operators=", 12))
            options->operators = argv[i] + 12;
        else
            return false;
    }
    return true;
}

int verbs_audit(int argc, char **argv)
{
    struct audit_options options = {.stuck_after_sec = 3600};
    struct audit_report report;
    struct db *db;
    struct err err;
    int rc;

    if (!parse_audit(argc, argv, &options))
        return DAEMON_USAGE;
    db = open_db("audit");
    if (!db)
        return EXIT_FAILURE;
    rc = audit_run(db, &options, &report, &err);
    if (!rc) {
        audit_print(&report, &options, stdout);
        rc = report.violations ? EXIT_FAILURE : EXIT_SUCCESS;
        audit_report_free(&report);
    }
    return finish(db, "audit", rc, &err);
}
