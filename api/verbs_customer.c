#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/move.h"
#include "api/settings.h"
#include "api/verbs.h"
#include "libcommon/daemon/failpoint.h"
#include "libcommon/telemetry/log.h"

#define DRAIN_SEC 60
#define DRAIN_MAX_SEC 3600
#define LOG_FLUSH_MS 5000

static bool parse_number(const char *text, int64_t most, int64_t *out)
{
    char *rest;

    if (*text < '1' || *text > '9')
        return false;
    *out = strtoll(text, &rest, 10);
    return !*rest && *out <= most;
}

static bool parse_move(int argc, char **argv, struct move_order *order)
{
    order->drain_sec = DRAIN_SEC;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--dry-run"))
            order->dry_run = true;
        else if (!strncmp(argv[i], "--to=", 5))
            order->cell = argv[i] + 5;
        else if (!strncmp(argv[i], "--drain=", 8)) {
            if (!parse_number(argv[i] + 8, DRAIN_MAX_SEC, &order->drain_sec))
                return false;
        } else
            return false;
    }
    return argc > 0 && order->cell && parse_number(argv[0], INT64_MAX, &order->customer_id);
}

static int finish(const char *what, int rc, const struct err *err)
{
    if (rc)
        fprintf(stderr, "msg-api customer %s: %s\n", what, err->msg);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int run_move(int argc, char **argv)
{
    struct move_order order = {0};
    struct err err = {0};

    if (!parse_move(argc, argv, &order))
        return DAEMON_USAGE;
    return finish("move", move_run(&order, &err), &err);
}

static int run_abort(int argc, char **argv)
{
    struct err err = {0};
    int64_t id;

    if (argc != 1 || !parse_number(argv[0], INT64_MAX, &id))
        return DAEMON_USAGE;
    return finish("abort", move_abort(id, &err), &err);
}

static int run_status(int argc, char **argv)
{
    struct err err = {0};
    int64_t id = 0;

    if (argc > 1 || (argc && !parse_number(argv[0], INT64_MAX, &id)))
        return DAEMON_USAGE;
    return finish("status", move_status(id, &err), &err);
}

static int run_map(int argc, char **argv)
{
    struct err err = {0};

    if (argc != 1 || (strcmp(argv[0], "keys") != 0 && strcmp(argv[0], "customers") != 0))
        return DAEMON_USAGE;
    return finish("map", move_map(!strcmp(argv[0], "keys"), &err), &err);
}

int verbs_customer(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } verbs[] = {
        {"move", run_move}, {"abort", run_abort}, {"status", run_status}, {"map", run_map}};
    int rc;

    for (size_t i = 0; argc && i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        if (strcmp(verbs[i].name, argv[0]) != 0)
            continue;
        failpoint_arm(api_settings.daemon.failpoint);
        move_register();
        log_to_stderr();
        log_start(api_program.name, LOG_INFO);
        rc = verbs[i].run(argc - 1, argv + 1);
        log_stop(LOG_FLUSH_MS);
        return rc;
    }
    return DAEMON_USAGE;
}
