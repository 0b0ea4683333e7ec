#include "api/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/audit.h"
#include "api/migrate.h"
#include "api/restore.h"
#include "api/settings.h"

/* NULL after saying why. */
static struct db *acquired(struct db *db, const char *verb)
{
    struct err err;

    if (!db_acquire(db, &err))
        return db;
    fprintf(stderr, "msg-api %s: %s\n", verb, err.msg);
    db_free(db);
    return NULL;
}

/* A connection with a migration's patience. */
static struct db *open_db(const char *verb)
{
    struct db_settings patient = migrate_settings(&api_settings.db);

    return acquired(db_new_reader(&patient), verb);
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

static int run_restore(struct db *db, const char *what, int64_t older_than_sec, bool dry_run,
                       struct err *err)
{
    if (!strcmp(what, "on"))
        return restore_on(db, err);
    if (!strcmp(what, "off"))
        return restore_off(db, err);
    if (!strcmp(what, "resume"))
        return restore_resume(db, err);
    if (!strcmp(what, "fail"))
        return restore_fail(db, older_than_sec, dry_run, err);
    return restore_status(db, err);
}

static bool parse_restore(int argc, char **argv, int64_t *older_than_sec, bool *dry_run)
{
    static const char *const words[] = {"on", "off", "resume", "status", "fail"};
    static const char older_than[] = "--older-than=";
    bool aged = false;
    size_t word = 0;

    while (argc && word < sizeof(words) / sizeof(words[0]) && strcmp(argv[0], words[word]) != 0)
        word++;
    if (!argc || word == sizeof(words) / sizeof(words[0]))
        return false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--dry-run"))
            *dry_run = true;
        else if (!strncmp(argv[i], older_than, sizeof(older_than) - 1) &&
                 restore_parse_age(argv[i] + sizeof(older_than) - 1, older_than_sec))
            aged = true;
        else
            return false;
    }
    return strcmp(argv[0], "fail") ? argc == 1 : aged;
}

int verbs_restore_mode(int argc, char **argv)
{
    int64_t older_than_sec = 0;
    bool dry_run = false;
    struct db *db;
    struct err err;
    int rc;

    if (!parse_restore(argc, argv, &older_than_sec, &dry_run))
        return DAEMON_USAGE;
    db = acquired(db_new(&api_settings.db), "restore-mode");
    if (!db)
        return EXIT_FAILURE;
    restore_register();
    rc = run_restore(db, argv[0], older_than_sec, dry_run, &err);
    return finish(db, "restore-mode", rc, &err);
}
