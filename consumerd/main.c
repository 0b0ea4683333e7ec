/*
 * msg-consumerd: takes messages from the broker, delivers them through the operators, and writes
 * down what became of them. Reading order: lane.h, delivery.h, transport.h, results.h.
 */

#include <stdio.h>
#include <string.h>

#include "consumerd/dead.h"
#include "consumerd/dispatch.h"
#include "consumerd/housekeeping.h"
#include "consumerd/lane.h"
#include "consumerd/repair.h"
#include "consumerd/settings.h"
#include "consumerd/stats.h"
#include "consumerd/worker.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/log.h"

#define EXIT_FAULT 1
#define HURRY_MS 1500 /* of the drain's time, for settling what had to be interrupted */
#define ABORT_MS 500

static struct settings settings;

struct parts {
    struct operator_address operators[OPERATORS_MAX];
    struct probe *probes[2];
    struct httpd *httpd;
    struct worker *worker;
    struct janitor *janitor;
    struct repair *repair;
    struct dispatch *dispatch;
    struct job_queue *queues[MESSAGE_LANES];
    struct lane *lanes[MESSAGE_LANES];
};

static size_t check_settings(struct buf *errors)
{
    return settings_check(&settings, errors);
}

static int start_http(struct parts *p, struct err *err)
{
    static const struct httpd_route routes[] = {DAEMON_ROUTES};
    const struct httpd_config config = {.settings = &settings.httpd,
                                        .routes = routes,
                                        .route_count = sizeof(routes) / sizeof(routes[0])};

    p->probes[0] = probe_db(&settings.db);
    p->probes[1] = probe_broker(&settings.broker);
    daemon_set_probes(p->probes, 2);
    p->httpd = httpd_new(&config, err);
    return p->httpd ? httpd_start(p->httpd, err) : -1;
}

static void start_work(struct parts *p)
{
    char why[128];
    size_t n =
        settings_parse_operators(settings.consumer.operators, p->operators, why, sizeof(why));

    stats_register(&settings, p->operators, n);
    p->worker = worker_start(&settings);
    p->janitor = housekeeping_start(&settings);
    p->repair = repair_start(&settings);
    for (int type = 0; type < MESSAGE_LANES; type++)
        p->queues[type] = job_queue_new();
    p->dispatch = dispatch_start(&settings, p->operators, n, p->worker, p->queues);
    for (int type = MESSAGE_LANES - 1; type >= 0; type--) {
        const struct lane_config config = {.type = (enum message_type)type,
                                           .settings = &settings,
                                           .operators = p->operators,
                                           .operator_count = n,
                                           .worker = p->worker,
                                           .queue = p->queues[type]};

        p->lanes[type] = lane_new(&config);
        lane_start(p->lanes[type], p->dispatch);
    }
}

/* True: both lanes have ended. */
static bool wait_for_lanes(struct parts *p, int reserve_ms)
{
    bool all = true;

    for (int type = 0; type < MESSAGE_LANES; type++) {
        int left_ms = daemon_drain_left_ms() - reserve_ms;

        all &= lane_wait(p->lanes[type], left_ms > 0 ? left_ms : 0);
    }
    return all;
}

static void drain(struct parts *p)
{
    bool clean;

    janitor_begin_stop(p->janitor);
    repair_begin_stop(p->repair);
    for (int type = 0; type < MESSAGE_LANES; type++)
        lane_drain(p->lanes[type]);
    dispatch_drain(p->dispatch);
    clean = wait_for_lanes(p, HURRY_MS);
    if (!clean) {
        dispatch_hurry(p->dispatch);
        clean = wait_for_lanes(p, ABORT_MS);
    }
    if (!clean)
        log_warn("consumer.drain_cut_short",
                 L_MSG("what was left in hand is taken over by other consumers"));
    for (int type = 0; type < MESSAGE_LANES; type++)
        lane_abort(p->lanes[type]);
    dispatch_stop(p->dispatch);
    for (int type = 0; type < MESSAGE_LANES; type++) {
        lane_free(p->lanes[type]); /* until it ends, its thread may still submit */
        job_queue_free(p->queues[type]);
    }
    dispatch_free(p->dispatch);
    worker_stop(p->worker, clean);
    repair_stop(p->repair);
    janitor_stop(p->janitor);
}

int main(int argc, char **argv)
{
    struct settings_group groups[SETTINGS_GROUPS];
    const struct daemon_program program = {
        .name = "msg-consumerd",
        .summary = "Delivers messages from the broker through the operators.",
        .verbs =
            "  msg-consumerd dead list                              letters in the dead-letter "
            "queue\n"
            "  msg-consumerd dead show ID                           one of them with its body\n"
            "  msg-consumerd dead replay ID...|--all [--dry-run]    to its lane again\n"
            "  msg-consumerd dead drop ID...|--all [--dry-run]      fails and refunds what is "
            "open\n",
        .groups = groups,
        .group_count = SETTINGS_GROUPS,
        .check = check_settings,
    };
    struct parts parts = {0};
    struct err err = {0};
    int code;

    settings_groups(&settings, groups);
    code = daemon_cli(&program, argc, argv);
    if (code >= 0)
        return code;
    if (argc > 1 && !strcmp(argv[1], "dead")) {
        code = dead_main(&settings, argc - 2, argv + 2);
        settings_free(groups, SETTINGS_GROUPS);
        return code;
    }
    if (argc > 1) {
        fprintf(stderr, "msg-consumerd: unknown verb %s; see --help\n", argv[1]);
        return EXIT_SETTINGS;
    }
    daemon_start(&program, &settings.daemon);
    code = start_http(&parts, &err);
    if (code) {
        log_error("daemon.start_failed", L_ERR(&err));
    } else {
        start_work(&parts);
        daemon_ready();
        daemon_wait();
        httpd_drain(parts.httpd);
        drain(&parts);
        httpd_wait_drained(parts.httpd, daemon_drain_left_ms());
    }
    httpd_free(parts.httpd);
    for (int i = 0; i < 2; i++)
        probe_free(parts.probes[i]);
    daemon_stop();
    settings_free(groups, SETTINGS_GROUPS);
    return code ? EXIT_FAULT : 0;
}
