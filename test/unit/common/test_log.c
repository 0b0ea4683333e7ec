#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "libcommon/telemetry/log.h"
#include "test/unit/suite.h"

#define TEXT_MAX (16u << 20)

/* stdout is a file that may grow to so many bytes: what a full disk does, without one. */
struct outlet {
    char path[32];
    int saved;
};

static void begin(struct outlet *o)
{
    int fd;

    strcpy(o->path, "/tmp/test_log.XXXXXX");
    fd = mkstemp(o->path);
    ck_assert_int_ge(fd, 0);
    o->saved = dup(STDOUT_FILENO);
    ck_assert_int_ge(dup2(fd, STDOUT_FILENO), 0);
    close(fd);
    signal(SIGXFSZ, SIG_IGN);
}

static void limit(rlim_t bytes)
{
    struct rlimit size;

    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &size), 0);
    size.rlim_cur = bytes;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &size), 0);
}

static char *end(struct outlet *o)
{
    char *text = calloc(1, TEXT_MAX);
    FILE *f = fopen(o->path, "r");

    ck_assert(text && f);
    ck_assert_uint_gt(fread(text, 1, TEXT_MAX - 1, f), 0);
    fclose(f);
    unlink(o->path);
    dup2(o->saved, STDOUT_FILENO);
    close(o->saved);
    return text;
}

START_TEST(a_full_disk_drops_whole_lines_and_counts_them)
{
    const uint64_t before = log_dropped();
    struct outlet o;
    char *text;
    char *line;
    size_t whole = 0;
    size_t torn = 0;

    begin(&o);
    limit(10000);
    log_start("test", LOG_INFO);
    for (int i = 0; i < 500; i++)
        log_info("filler", L_INT("n", i));
    while (log_dropped() == before)
        usleep(1000); /* a wait for the writer to meet the limit; the suite's timeout bounds it */
    log_stop(5000);
    limit(RLIM_INFINITY);
    log_start("test", LOG_INFO);
    log_info("after", L_INT("n", 1));
    log_stop(5000);
    text = end(&o);
    ck_assert_uint_gt(log_dropped(), before);
    for (line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        size_t n = strlen(line);

        if (line[0] == '{' && line[n - 1] == '}')
            whole++;
        else
            torn++;
    }
    ck_assert_uint_le(torn, 1);
    ck_assert_uint_eq(whole + (log_dropped() - before), 501);
    free(text);
}
END_TEST

/* A peer's word for it, cut in the middle of a character too. */
START_TEST(a_line_is_text_whatever_is_logged)
{
    struct outlet o;
    char *text;

    begin(&o);
    log_start("test", LOG_INFO);
    log_info("told", L_STR("message_id", "\xff\xfe id \xd8"));
    log_stop(5000);
    text = end(&o);
    ck_assert_ptr_nonnull(
        strstr(text, "\"message_id\":\"\xef\xbf\xbd\xef\xbf\xbd id \xef\xbf\xbd\""));
    free(text);
}
END_TEST

#define LOGGERS 4
#define EACH 5000

static void *log_away(void *arg)
{
    for (int i = 0; i < EACH; i++)
        log_info("line", L_INT("n", i));
    return arg;
}

static size_t count_lines(const char *text)
{
    size_t n = 0;

    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* A drain that was cut short leaves threads behind: what they log is not lost, and harms nothing.
 */
START_TEST(threads_may_log_beyond_the_end)
{
    const uint64_t before = log_dropped();
    pthread_t threads[LOGGERS];
    struct outlet o;
    char *text;

    begin(&o);
    log_start("test", LOG_INFO);
    for (int i = 0; i < LOGGERS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, log_away, NULL), 0);
    usleep(1000);
    log_stop(5000);
    log_stop(5000); /* twice is once */
    log_away(NULL);
    for (int i = 0; i < LOGGERS; i++)
        pthread_join(threads[i], NULL);
    text = end(&o);
    ck_assert_uint_eq(count_lines(text) + (log_dropped() - before), (LOGGERS + 1) * EACH);
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log");
    TCase *tcase = tcase_create("log");

    tcase_add_test(tcase, a_line_is_text_whatever_is_logged);
    tcase_add_test(tcase, threads_may_log_beyond_the_end);
    tcase_add_test(tcase, a_full_disk_drops_whole_lines_and_counts_them);
    suite_add_tcase(suite, tcase);
    return suite_run(suite);
}
