#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/domain/recipient_internal.h"
#include "libcommon/domain/recipient_receipt.h"

static struct db_label write_label = {.query = "deliveries_write"};

void recipient_deliveries_register(void)
{
    db_label_register(&write_label);
}

static void put_text(struct db *db, struct buf *sql, const char *before, const char *text)
{
    buf_puts(sql, before);
    db_put_quoted(db, sql, text, strlen(text));
}

/* ---- what is asked for ---- */

bool recipient_asks(const struct recipient_change *changes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (changes[i].asked_count)
            return true;
    return false;
}

/* More than can be told apart would never all be there. */
static unsigned parts_of(const struct recipient_asked *asked)
{
    if (!asked->parts)
        return 1;
    return asked->parts < RECIPIENT_PARTS_MAX ? asked->parts : RECIPIENT_PARTS_MAX;
}

/* A row may be there: of an earlier settle whose answer was lost, or of a receipt that was first.
 * It keeps what it knows. */
void recipient_put_asked(struct db *db, struct buf *sql, const struct recipient_change *changes,
                         size_t n, int64_t wait_hours)
{
    const char *before =
        "INSERT INTO deliveries(status_id,operator,match_id,parts,look_at) VALUES (";

    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < changes[i].asked_count; k++) {
            const struct recipient_asked *asked = &changes[i].asked[k];

            buf_puts(sql, before);
            buf_put_uint(sql, changes[i].id);
            put_text(db, sql, ",", asked->name);
            put_text(db, sql, ",", asked->match_id);
            buf_printf(sql, ",%u,NOW(6)+INTERVAL %lld HOUR)", parts_of(asked),
                       (long long)wait_hours);
            before = ",(";
        }
    }
    buf_puts(sql, " ON DUPLICATE KEY UPDATE match_id=IF(VALUES(match_id)='',match_id,"
                  "VALUES(match_id)),parts=GREATEST(parts,VALUES(parts))");
}

/* ---- lines ---- */

enum column {
    COLUMN_STATUS_ID,
    COLUMN_OPERATOR,
    COLUMN_STATE,
    COLUMN_PARTS,
    COLUMN_SEEN,
    COLUMN_MATCH_ID,
    COLUMN_WAITED
};

void recipient_put_lines(struct buf *sql, const uint64_t *ids, size_t n)
{
    buf_puts(sql, "SELECT status_id,operator,state,parts,parts_seen,match_id,"
                  "GREATEST(TIMESTAMPDIFF(MICROSECOND,created_at,NOW(6)),0) DIV 1000 "
                  "FROM deliveries FORCE INDEX(PRIMARY) WHERE status_id IN (");
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(sql, ',');
        buf_put_uint(sql, ids[i]);
    }
    buf_puts(sql, ") ORDER BY status_id,operator");
}

void recipient_read_line(char **row, const unsigned long *lengths, struct recipient_line *line)
{
    size_t seen = lengths[COLUMN_SEEN];

    *line = (struct recipient_line){
        .status_id = strtoull(row[COLUMN_STATUS_ID], NULL, 10),
        .state = recipient_delivery_read(row[COLUMN_STATE]),
        .parts = (unsigned)strtoul(row[COLUMN_PARTS], NULL, 10),
        .waited_ms = strtoll(row[COLUMN_WAITED], NULL, 10),
    };
    snprintf(line->name, sizeof(line->name), "%s", row[COLUMN_OPERATOR]);
    snprintf(line->match_id, sizeof(line->match_id), "%s", row[COLUMN_MATCH_ID]);
    if (seen > sizeof(line->seen))
        seen = sizeof(line->seen);
    memcpy(line->seen, row[COLUMN_SEEN], seen);
    line->seen_count = seen / RECIPIENT_PART_BYTES;
}

static void put_line(struct db *db, struct buf *sql, const struct recipient_line *line,
                     int64_t wait_hours)
{
    const struct recipient_receipt *decided = line->decided;

    buf_put_uint(sql, line->status_id);
    put_text(db, sql, ",", line->name);
    put_text(db, sql, ",", line->match_id);
    buf_printf(sql, ",%d,%u,", line->state, line->parts);
    db_put_bytes(sql, line->seen, line->seen_count * RECIPIENT_PART_BYTES);
    put_text(db, sql, ",", decided ? decided->code : "");
    put_text(db, sql, ",", decided ? decided->words : "");
    put_text(db, sql, ",", decided ? decided->reason : "");
    buf_printf(sql, ",%s,NOW(6)+INTERVAL %lld HOUR)", decided ? "NOW(6)" : "NULL",
               (long long)wait_hours);
}

/* Only a receipt that decides has a time, and brings words. */
int recipient_write_lines(struct db *db, const struct recipient_line *lines, size_t n,
                          int64_t wait_hours, struct err *err)
{
    static const char kept[] = "=IF(VALUES(reported_at) IS NULL,";
    static const char *const told[] = {"code", "words", "reason", "reported_at"};
    const char *before =
        "INSERT INTO deliveries(status_id,operator,match_id,state,parts,parts_seen,code,words,"
        "reason,reported_at,look_at) VALUES (";
    struct buf sql = {0};
    size_t count = 0;
    int rc;

    for (size_t i = 0; i < n; i++) {
        if (!lines[i].dirty)
            continue;
        buf_puts(&sql, count++ ? ",(" : before);
        put_line(db, &sql, &lines[i], wait_hours);
    }
    /* reported_at last: what stands before looks at what comes, not at what is there. */
    buf_puts(&sql, " ON DUPLICATE KEY UPDATE state=VALUES(state),parts_seen=VALUES(parts_seen)");
    for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++)
        buf_printf(&sql, ",%s%s%s,VALUES(%s))", told[i], kept, told[i], told[i]);
    rc = count ? db_run_buf(db, &write_label, &sql, NULL, err) : 0;
    buf_free(&sql);
    return rc;
}
