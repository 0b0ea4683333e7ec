#include "api/read_copy.h"

#include <stdlib.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/telemetry/metrics.h"

/* A replica that does not answer costs the wait for it once in a while. */
#define AWAY_PAUSE_MS 1000

struct read_copy {
    struct db_settings settings; /* of the replicas; its texts are those of the settings */
    struct db *db;
    int64_t lag_max_ms, away_until_ms;
    struct metric *answered, *late, *away;
};

static struct db_label age_label = {.query = "copy_age"};

static struct metric *counter(const char *labels)
{
    return metrics_counter("msg_copy_reads_total",
                           "History reads that a replica was asked for, by what came of it.",
                           labels);
}

struct read_copy *read_copy_new(const struct api_settings *settings)
{
    struct read_copy *c;

    if (!*settings->read_host)
        return NULL;
    c = must_alloc(1, sizeof(*c));
    c->settings = settings->db;
    c->settings.host = settings->read_host;
    c->lag_max_ms = settings->read_lag_max_sec * 1000;
    c->db = db_new_copy_reader(&c->settings);
    c->answered = counter("result=\"answered\"");
    c->late = counter("result=\"late\"");
    c->away = counter("result=\"away\"");
    db_label_register(&age_label);
    return c;
}

void read_copy_free(struct read_copy *c)
{
    if (!c)
        return;
    db_free(c->db);
    free(c);
}

/* Of no heartbeat at all: NULL, as if it were from the beginning of time. */
static int ask_age_ms(struct db *db, int64_t *age_ms, struct err *err)
{
    static const char sql[] = "SELECT COALESCE(TIMESTAMPDIFF(MICROSECOND,MAX(heartbeat_at),NOW(6)),"
                              "9000000000000000) DIV 1000 FROM workers";
    struct db_results results;

    if (db_run(db, &age_label, sql, sizeof(sql) - 1, &results, err))
        return -1;
    *age_ms = db_number(db_only(&results));
    db_results_free(&results);
    return 0;
}

static void give_up(struct read_copy *c, struct metric *why)
{
    metrics_add(why, 1);
    db_release(c->db);
}

struct db *read_copy_acquire(struct read_copy *c)
{
    struct err ignored; /* the primary answers, and says what is wrong there */
    int64_t age_ms;

    if (clock_mono_ms() < c->away_until_ms)
        return NULL;
    if (db_acquire(c->db, &ignored) || ask_age_ms(c->db, &age_ms, &ignored)) {
        c->away_until_ms = clock_mono_ms() + AWAY_PAUSE_MS;
        give_up(c, c->away);
        return NULL;
    }
    if (age_ms > c->lag_max_ms) {
        give_up(c, c->late);
        return NULL;
    }
    return c->db;
}

void read_copy_release(struct read_copy *c, bool answered)
{
    if (answered)
        metrics_add(c->answered, 1);
    db_release(c->db);
}
