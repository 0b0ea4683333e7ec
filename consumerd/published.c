#include "consumerd/published.h"

#include <stdio.h>
#include <stdlib.h>

#include "libcommon/telemetry/metrics.h"

static struct db_label store_label = {.query = "published_store"};
static struct db_label read_label = {.query = "published_read"};
static struct metric *gauges[MESSAGE_LANES];

void published_register(void)
{
    char labels[32];

    for (int i = 0; i < MESSAGE_LANES; i++) {
        snprintf(labels, sizeof(labels), "lane=\"%s\"", message_type_name((enum message_type)i));
        gauges[i] = metrics_gauge("msg_published_open",
                                  "Messages that are published and not final: with the broker, in "
                                  "hand, or dead letters. Absent while there is no recent count.",
                                  labels);
        metrics_set(gauges[i], METRICS_ABSENT);
    }
}

int published_store(struct db *db, const int64_t messages[MESSAGE_LANES], int64_t valid_ms,
                    struct err *err)
{
    struct buf sql = {0};
    int rc;

    db_label_register(&store_label);
    buf_puts(&sql, "INSERT INTO published_open(lane,messages,counted_at,valid_until) VALUES ");
    for (int i = 0; i < MESSAGE_LANES; i++)
        buf_printf(&sql, "%s(%d,%lld,NOW(6),NOW(6)+INTERVAL %lld MICROSECOND)", i ? "," : "", i,
                   (long long)messages[i], (long long)valid_ms * 1000);
    buf_puts(&sql, " ON DUPLICATE KEY UPDATE messages=VALUES(messages),"
                   "counted_at=VALUES(counted_at),valid_until=VALUES(valid_until)");
    rc = db_run_buf(db, &store_label, &sql, NULL, err);
    buf_free(&sql);
    return rc;
}

static void show(struct db_set *read)
{
    int64_t shown[MESSAGE_LANES];
    char **row;

    for (int i = 0; i < MESSAGE_LANES; i++)
        shown[i] = METRICS_ABSENT;
    while (read && (row = db_next(read))) {
        long lane = strtol(row[0], NULL, 10);

        if (lane >= 0 && lane < MESSAGE_LANES)
            shown[lane] = strtoll(row[1], NULL, 10);
    }
    for (int i = 0; i < MESSAGE_LANES; i++)
        metrics_set(gauges[i], shown[i]);
}

/* A number from the future was stored before the database's clock was set back: it is not known how
 * old it is. */
void published_read(struct db *db)
{
    static const char sql[] = "SELECT lane,messages FROM published_open "
                              "WHERE NOW(6) BETWEEN counted_at AND valid_until";
    struct db_results results;
    struct err ignored;

    db_label_register(&read_label);
    if (db_run(db, &read_label, sql, sizeof(sql) - 1, &results, &ignored)) {
        published_forget();
        return;
    }
    show(db_only(&results));
    db_results_free(&results);
}

void published_forget(void)
{
    show(NULL);
}
