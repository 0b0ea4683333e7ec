#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "libcommon/base/buf.h"
#include "libcommon/daemon/daemon.h"
#include "libcommon/daemon/health.h"

static int print_help(const struct daemon_program *p)
{
    printf("%s: %s\n\nUsage: %s [option]\n%s"
           "  --help               this text\n"
           "  --version            the version\n"
           "  --check              checks the settings and ends: 0 or %d\n"
           "  --health             asks the one that runs here for /healthz: 0 or 1\n"
           "  --settings-markdown  the settings as a table\n"
           "\nSettings, from the environment:\n",
           p->name, p->summary, p->name, p->verbs ? p->verbs : "", EXIT_SETTINGS);
    settings_print_help(p->groups, p->group_count, stdout);
    return 0;
}

static const char *spared_by(const struct daemon_program *p, bool is_verb)
{
    if (is_verb)
        return p->spared;
    return p->spared_in_service ? p->spared_in_service() : NULL;
}

/* alone: each setting by itself. */
static int check_settings(const struct daemon_program *p, const char *spared, bool alone)
{
    struct buf errors = {0};
    size_t faults = settings_load_sparing(p->groups, p->group_count, spared, &errors);

    /* A check across settings may read what a fault has left unset. */
    if (!faults && !alone && p->check)
        faults = p->check(&errors);
    if (faults)
        fprintf(stderr, "%s: %zu wrong setting%s\n%s", p->name, faults, faults == 1 ? "" : "s",
                errors.data ? errors.data : "");
    buf_free(&errors);
    return faults ? EXIT_SETTINGS : 0;
}

/* What was read lives in this memory alone, and that leaves in no core dump and for no other
 * process of this user. */
static void keep_secrets_in(const struct daemon_program *p)
{
    const bool *cores = settings_flag(p->groups, p->group_count, "CORE_DUMPS");

    settings_forget_environment(p->groups, p->group_count);
    if (!cores || !*cores)
        (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

/* -1: go on. */
static int take_options(const struct daemon_program *program, int argc, char **argv)
{
    const char *option = argc > 1 && argv[1][0] == '-' ? argv[1] : NULL;
    int rc;

    if (option && (!strcmp(option, "--help") || !strcmp(option, "-h")))
        return print_help(program);
    if (option && !strcmp(option, "--version")) {
        printf("%s %s\n", program->name, PROJECT_VERSION);
        return 0;
    }
    if (option && !strcmp(option, "--settings-markdown")) {
        settings_print_markdown(program->groups, program->group_count, stdout);
        return 0;
    }
    if (option && !strcmp(option, "--health"))
        return health_check(program);
    if (option && strcmp(option, "--check") != 0) {
        fprintf(stderr, "%s: unknown option %s; --help lists them\n", program->name, option);
        return EXIT_SETTINGS;
    }
    if (argc > 1 && program->plain_verb && !strcmp(argv[1], program->plain_verb))
        rc = check_settings(program, SETTINGS_SPARE_ALL, true);
    else
        rc = check_settings(program, spared_by(program, argc > 1 && !option), false);
    if (!option && !rc) {
        keep_secrets_in(program);
        return -1;
    }
    if (!rc)
        printf("settings ok\n");
    if (!rc && program->look)
        program->look();
    settings_free(program->groups, program->group_count);
    return rc;
}

static int run_verb(const struct daemon_program *program, const struct daemon_verb *verbs, int argc,
                    char **argv)
{
    for (const struct daemon_verb *verb = verbs; verb && verb->name; verb++) {
        int rc;

        if (strcmp(argv[1], verb->name) != 0)
            continue;
        rc = verb->run(argc - 2, argv + 2);
        if (rc != DAEMON_USAGE)
            return rc;
        fprintf(stderr, "usage: %s %s%s%s\n", program->name, verb->name, *verb->usage ? " " : "",
                verb->usage);
        return EXIT_SETTINGS;
    }
    fprintf(stderr, "%s: unknown verb %s; --help lists them\n", program->name, argv[1]);
    return EXIT_SETTINGS;
}

int daemon_main(const struct daemon_program *program, const struct daemon_verb *verbs,
                int (*serve)(void), int argc, char **argv)
{
    int rc = take_options(program, argc, argv);

    if (rc >= 0)
        return rc;
    rc = argc < 2 ? serve() : run_verb(program, verbs, argc, argv);
    settings_free(program->groups, program->group_count);
    return rc;
}
