/* operator-sim: plays an operator. Reading order: sim.h, fault.h, ledger.h. */

#include <stdlib.h>
#include <string.h>

#include "libcommon/telemetry/log.h"
#include "operator-sim/sim.h"

struct parts {
    struct sim *sim;
};

static int build(struct parts *p, struct err *err)
{
    p->sim = sim_start(&sim_settings, err);
    return p->sim ? 0 : -1;
}

static void drain(struct parts *p)
{
    sim_drain(p->sim);
}

static void release(struct parts *p)
{
    sim_free(p->sim);
}

static int serve(void)
{
    struct parts parts = {0};
    struct err err;
    int rc;

    daemon_start(&sim_program, &sim_settings.daemon);
    rc = build(&parts, &err);
    if (rc) {
        log_error("server.start_failed", L_ERR(&err));
    } else {
        daemon_ready();
        daemon_wait();
        drain(&parts);
    }
    release(&parts);
    daemon_stop(true);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* --faults JSON stands for SIM_FAULTS; the rest of the line is as in every program. */
static int take_faults(int argc, char **argv)
{
    if (argc < 3 || strcmp(argv[1], "--faults") != 0)
        return argc;
    setenv("SIM_FAULTS", argv[2], 1);
    memmove(argv + 1, argv + 3, (size_t)(argc - 3 + 1) * sizeof(*argv));
    return argc - 2;
}

int main(int argc, char **argv)
{
    argc = take_faults(argc, argv);
    return daemon_main(&sim_program, NULL, serve, argc, argv);
}
