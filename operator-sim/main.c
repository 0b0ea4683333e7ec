#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/telemetry/log.h"
#include "operator-sim/sim.h"

/* --faults JSON stands for SIM_FAULTS; the rest of the line is as in every program. */
static int take_faults(int argc, char **argv)
{
    if (argc < 3 || strcmp(argv[1], "--faults") != 0)
        return argc;
    setenv("SIM_FAULTS", argv[2], 1);
    memmove(argv + 1, argv + 3, (size_t)(argc - 3 + 1) * sizeof(*argv));
    return argc - 2;
}

static int run(void)
{
    struct sim *sim;
    struct err err;

    daemon_start(&sim_program, &sim_settings.daemon);
    sim = sim_start(&sim_settings, &err);
    if (!sim) {
        log_error("start.failed", L_ERR(&err));
        daemon_stop();
        return EXIT_FAILURE;
    }
    daemon_ready();
    daemon_wait();
    sim_stop(sim);
    daemon_stop();
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    int rc;

    argc = take_faults(argc, argv);
    rc = daemon_cli(&sim_program, argc, argv);
    if (rc < 0 && argc > 1) {
        fprintf(stderr, "operator-sim: unknown verb; see operator-sim --help\n");
        rc = EXIT_SETTINGS;
    } else if (rc < 0) {
        rc = run();
    }
    settings_free(sim_program.groups, sim_program.group_count);
    return rc;
}
