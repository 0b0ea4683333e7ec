#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "libcommon/base/must.h"
#include "test/loadtest/load.h"
#include "test/loadtest/options.h"
#include "test/loadtest/report.h"
#include "test/loadtest/seed.h"
#include "test/loadtest/verify.h"

#define EXIT_USAGE 2

static int fail(const char *what, const struct err *err)
{
    fprintf(stderr, "msg-loadtest: %s: %s\n", what, err->msg);
    return EXIT_FAILURE;
}

/* A request without an answer may have been carried out, all its recipients. */
static uint64_t unanswered_max(const struct options *o, const struct load_result *load)
{
    return (load->http_err - load->unsent + load->by_status[500] + load->by_status[503]) *
           (uint64_t)o->recipients;
}

static int measure(const struct options *o, struct verify *verify, struct load_result *load,
                   struct book *book)
{
    struct verify_result verified;
    struct err err;
    bool ok = true;

    if (load_run(o, verify ? book : NULL, load, &err))
        return fail("sending", &err);
    if (verify) {
        if (verify_sent(verify, &err))
            return fail("verifying", &err);
        fputs("sent\n", stderr); /* who measures the platform from outside reads along */
        if (verify_drain(verify, &verified, &err))
            return fail("verifying", &err);
        fputs(verified.drained ? "drained\n" : "not drained\n", stderr);
        if (verify_finish(verify, book, &verified, &err))
            return fail("verifying", &err);
        ok = verify_ok(&verified, unanswered_max(o, load));
    }
    report_print(o, load, verify ? &verified : NULL, ok, stdout);
    return ok && load->ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int run(const struct options *o)
{
    struct load_result *load;
    struct verify *verify = NULL;
    struct book book = {0};
    struct err err;
    int code;

    if (o->seed_balance && seed_run(o, &err))
        return fail("seeding", &err);
    if (o->seed_only) {
        printf("seeded %lld customers with %lld each\n", (long long)o->users,
               (long long)o->seed_balance);
        return EXIT_SUCCESS;
    }
    if (o->verify) {
        verify = verify_begin(o, &err);
        if (!verify)
            return fail("verifying", &err);
    }
    load = must_alloc(1, sizeof(*load));
    code = measure(o, verify, load, &book);
    free(load);
    book_free(&book);
    verify_free(verify);
    return code;
}

int main(int argc, char **argv)
{
    struct options options;
    char why[200];

    if (options_parse(&options, argc, argv, why, sizeof(why))) {
        fprintf(stderr, "msg-loadtest: %s\n", why);
        return EXIT_USAGE;
    }
    if (options.help) {
        options_print_help(stdout);
        return EXIT_SUCCESS;
    }
    signal(SIGPIPE, SIG_IGN);
    return run(&options);
}
