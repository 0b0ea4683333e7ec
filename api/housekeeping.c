#include "api/housekeeping.h"

#include <stdio.h>

#include "api/settings.h"

struct janitor *housekeeping_start(void)
{
    static char keys[128];
    static const struct janitor_row rows[] = {
        {.name = "idempotency_keys", .sql = keys, .limit = 1000, .every_ms = 10000},
    };

    snprintf(keys, sizeof(keys),
             "DELETE FROM idempotency_keys WHERE created_at<NOW(6)-INTERVAL %lld HOUR"
             " ORDER BY created_at",
             (long long)api_settings.idempotency_ttl_hours);
    return janitor_start(&api_settings.db, rows, sizeof(rows) / sizeof(rows[0]));
}
