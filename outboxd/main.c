#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/telemetry/log.h"
#include "outboxd/parked.h"
#include "outboxd/relay.h"
#include "outboxd/sample.h"
#include "outboxd/settings.h"

static const struct httpd_route routes[] = {DAEMON_ROUTES};

static struct httpd *listen_http(struct err *err)
{
    const struct httpd_config config = {
        .settings = &outboxd_settings.httpd,
        .routes = routes,
        .route_count = sizeof(routes) / sizeof(routes[0]),
    };

    return httpd_new(&config, err);
}

static int fail(const struct err *err)
{
    log_error("server.start_failed", L_ERR(err));
    daemon_stop();
    return EXIT_FAILURE;
}

static int run(void)
{
    struct probe *probes[2];
    struct sampler *sampler;
    struct relay *relay;
    struct httpd *httpd;
    struct err err;
    bool ended;

    daemon_start(&outboxd_program, &outboxd_settings.daemon);
    httpd = listen_http(&err);
    if (!httpd)
        return fail(&err);
    probes[0] = probe_db(&outboxd_settings.db);
    probes[1] = probe_broker(&outboxd_settings.broker);
    daemon_set_probes(probes, 2);
    sampler = sampler_start();
    relay = relay_start();
    if (httpd_start(httpd, &err))
        return fail(&err);
    log_info("server.listening", L_INT("port", httpd_port(httpd)));
    daemon_ready();
    daemon_wait();
    ended = relay_stop(relay, daemon_drain_left_ms());
    ended = sampler_stop(sampler, daemon_drain_left_ms()) && ended;
    httpd_drain(httpd);
    httpd_wait_drained(httpd, daemon_drain_left_ms());
    httpd_free(httpd);
    for (int i = 0; i < 2; i++)
        probe_free(probes[i]);
    if (!ended)
        log_warn("server.drain_cut_short",
                 L_MSG("a batch was in hand at the deadline; it will be published again"));
    daemon_stop();
    if (!ended)
        _Exit(EXIT_SUCCESS); /* threads that are left still use what exit would tear down */
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    int rc = daemon_cli(&outboxd_program, argc, argv);

    if (rc < 0 && argc == 1)
        rc = run();
    else if (rc < 0 && !strcmp(argv[1], "parked"))
        rc = parked_main(argc - 2, argv + 2);
    else if (rc < 0) {
        fprintf(stderr, "msg-outboxd: unknown verb; see msg-outboxd --help\n");
        rc = EXIT_SETTINGS;
    }
    settings_free(outboxd_program.groups, outboxd_program.group_count);
    return rc;
}
