#include "consumerd/housekeeping.h"

struct janitor *housekeeping_start(const struct settings *settings)
{
    static const struct janitor_row rows[] = {
        /* Who is silent for so long has given up itself, and a missing row means dead too. */
        {.name = "workers",
         .sql = "DELETE FROM workers WHERE heartbeat_at<NOW(6)-INTERVAL 1 DAY ORDER BY id",
         .limit = 1000,
         .every_ms = 3600 * 1000},
    };

    return janitor_start(&settings->db, rows, sizeof(rows) / sizeof(rows[0]));
}
