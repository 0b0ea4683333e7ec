#include "consumerd/run.h"

#include <stdio.h>
#include <stdlib.h>

struct run *run_begin(struct run_list *idle, struct dispatch *dispatch, struct job *job)
{
    struct run *run = TAILQ_FIRST(idle);

    if (run)
        TAILQ_REMOVE(idle, run, link);
    else
        run = calloc(1, sizeof(*run));
    if (!run)
        return NULL;
    run->dispatch = dispatch;
    run->job = job;
    run->call = (struct transport_call){.job = job};
    return run;
}

void run_end(struct run_list *idle, struct run *run)
{
    run->job = NULL;
    TAILQ_INSERT_HEAD(idle, run, link);
}

void run_free_idle(struct run_list *idle)
{
    struct run *run;

    while ((run = TAILQ_FIRST(idle))) {
        TAILQ_REMOVE(idle, run, link);
        free(run);
    }
}

void run_set_error(struct run *run, const char *operator, const char * what)
{
    snprintf(run->job->error, sizeof(run->job->error), "%s: %s", operator, what);
    run->job->error_is_minor = false;
}

void run_set_minor_error(struct run *run, const char *operator, const char * what)
{
    if (*run->job->error && !run->job->error_is_minor)
        return;
    run_set_error(run, operator, what);
    run->job->error_is_minor = true;
}
