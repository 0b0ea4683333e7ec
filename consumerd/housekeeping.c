#include "consumerd/housekeeping.h"

#include <stdio.h>

struct janitor *housekeeping_start(const struct settings *settings)
{
    static char events[128];
    static const struct janitor_row rows[] = {
        /* Who is silent for so long has given up itself, and a missing row means dead too. */
        {.name = "workers",
         .sql = "DELETE FROM workers WHERE heartbeat_at<NOW(6)-INTERVAL 1 DAY ORDER BY id",
         .limit = 1000,
         .every_ms = 3600 * 1000},
        {.name = "webhook_events", .sql = events, .limit = 1000, .every_ms = 60 * 1000},
        {.name = "webhook_attempts",
         .sql = "DELETE FROM webhook_attempts WHERE webhook_id IN (SELECT id FROM webhooks WHERE "
                "deleted_at<NOW(6)-INTERVAL 1 DAY) ORDER BY webhook_id",
         .limit = 1000,
         .every_ms = 3600 * 1000},
        /* Later, and after its events: who looks at a message still finds who was told. */
        {.name = "webhooks",
         .sql = "DELETE FROM webhooks WHERE deleted_at<NOW(6)-INTERVAL 30 DAY AND NOT EXISTS "
                "(SELECT 1 FROM webhook_events e WHERE e.webhook_id=webhooks.id) ORDER BY id",
         .limit = 1000,
         .every_ms = 3600 * 1000},
    };

    snprintf(events, sizeof(events),
             "DELETE FROM webhook_events WHERE created_at<NOW(6)-INTERVAL %lld DAY"
             " ORDER BY created_at",
             (long long)settings->webhooks.keep_days);
    return janitor_start(&settings->db, rows, sizeof(rows) / sizeof(rows[0]));
}
