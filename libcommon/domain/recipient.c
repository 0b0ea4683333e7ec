#include "libcommon/domain/recipient_internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libcommon/domain/ledger.h"

static struct db_label lock_label = {.query = "recipient_lock"};

void recipient_register(void)
{
    db_label_register(&lock_label);
    recipient_change_register();
    recipient_event_register();
    recipient_packet_register();
    recipient_restore_register();
    recipient_receipt_register();
    recipient_move_register();
    ledger_register();
}

/* ---- states ---- */

static const struct {
    const char *name;
    bool final, refunded, away;
} states[RECIPIENT_STATES] = {
    [RECIPIENT_PENDING] = {.name = "pending"},
    [RECIPIENT_SENDING] = {.name = "sending"},
    [RECIPIENT_DONE] = {.name = "done", .final = true},
    [RECIPIENT_FAILED] = {.name = "failed", .final = true, .refunded = true},
    [RECIPIENT_MOVED] = {.name = "moved", .final = true, .away = true},
};

const char *recipient_state_name(enum recipient_state state)
{
    return states[state].name;
}

bool recipient_state_parse(const char *name, enum recipient_state *state)
{
    for (int i = 0; i < RECIPIENT_STATES; i++)
        if (strcasecmp(name, states[i].name) == 0)
            return *state = (enum recipient_state)i, true;
    return false;
}

bool recipient_state_parse_shown(const char *name, enum recipient_state *state)
{
    return recipient_state_parse(name, state) && !states[*state].away;
}

const char *recipient_state_shown(const char *name)
{
    enum recipient_state state;

    return recipient_state_parse(name, &state) && states[state].away
               ? states[RECIPIENT_PENDING].name
               : name;
}

static const char *const deliveries[RECIPIENT_DELIVERIES] = {
    [RECIPIENT_DELIVERY_NONE] = "none",
    [RECIPIENT_DELIVERY_WAITING] = "waiting",
    [RECIPIENT_DELIVERY_DELIVERED] = "delivered",
    [RECIPIENT_DELIVERY_UNDELIVERED] = "undelivered",
    [RECIPIENT_DELIVERY_UNREPORTED] = "unreported",
};

const char *recipient_delivery_name(enum recipient_delivery delivery)
{
    return deliveries[delivery];
}

enum recipient_delivery recipient_delivery_read(const char *text)
{
    unsigned long value = text ? strtoul(text, NULL, 10) : 0;

    return value < RECIPIENT_DELIVERIES ? (enum recipient_delivery)value : RECIPIENT_DELIVERY_NONE;
}

bool recipient_is_final(enum recipient_state state)
{
    return states[state].final;
}

bool recipient_is_refunded(enum recipient_state state)
{
    return states[state].refunded;
}

static bool is_in(int state, enum recipient_set set)
{
    switch (set) {
    case RECIPIENT_OPEN:
        return !states[state].final;
    case RECIPIENT_FINAL:
        return states[state].final && !states[state].away;
    case RECIPIENT_KEPT:
        return states[state].final && !states[state].refunded && !states[state].away;
    case RECIPIENT_REFUNDED:
        return states[state].refunded;
    case RECIPIENT_AWAY:
        return states[state].away;
    default:
        return true;
    }
}

void recipient_put_states(struct buf *sql, enum recipient_set set)
{
    const char *separator = "'";

    for (int i = 0; i < RECIPIENT_STATES; i++) {
        if (!is_in(i, set))
            continue;
        buf_puts(sql, separator);
        buf_puts(sql, states[i].name);
        buf_putc(sql, '\'');
        separator = ",'";
    }
}

void recipient_put_sentence(struct buf *out)
{
    const char *separator = "";

    for (int i = 0; i < RECIPIENT_STATES; i++) {
        if (states[i].away)
            continue;
        buf_puts(out, i == RECIPIENT_FAILED ? " or " : separator);
        buf_puts(out, states[i].name);
        separator = ", ";
    }
}

void recipient_put_template(struct buf *sql, const char *template)
{
    static const char *const words[RECIPIENT_SETS] = {
        [RECIPIENT_ANY] = "{any}",           [RECIPIENT_OPEN] = "{open}",
        [RECIPIENT_FINAL] = "{final}",       [RECIPIENT_KEPT] = "{kept}",
        [RECIPIENT_REFUNDED] = "{refunded}", [RECIPIENT_AWAY] = "{away}",
    };

    while (*template) {
        int set = 0;

        while (set < RECIPIENT_SETS && strncmp(template, words[set], strlen(words[set])) != 0)
            set++;
        if (set < RECIPIENT_SETS) {
            recipient_put_states(sql, (enum recipient_set)set);
            template += strlen(words[set]);
        } else {
            buf_putc(sql, *template ++);
        }
    }
}

/* ---- acceptance ---- */

void recipient_put_row(struct buf *sql, const struct message *m, size_t position, int64_t price)
{
    buf_putc(sql, '(');
    buf_put_int(sql, m->customer_id);
    buf_puts(sql, ",'");
    buf_puts(sql, states[RECIPIENT_PENDING].name);
    buf_puts(sql, "','");
    buf_puts(sql, message_type_name(m->type));
    buf_puts(sql, "','");
    buf_puts(sql, m->recipients[position]); /* + and digits only */
    buf_puts(sql, "','");
    buf_puts(sql, m->id);
    buf_puts(sql, "',");
    buf_put_uint(sql, position);
    buf_putc(sql, ',');
    buf_put_int(sql, price);
    buf_putc(sql, ')');
}

/* ---- locked reading ---- */

static bool read_row(char **row, struct recipient *r)
{
    *r = (struct recipient){
        .id = strtoull(row[0], NULL, 10),
        .message_id = row[1],
        .number = row[2],
        .position = (unsigned)strtoul(row[3], NULL, 10),
        .attempt = (unsigned)strtoul(row[5], NULL, 10),
        .takeovers = (unsigned)strtoul(row[6], NULL, 10),
        .owner = strtoull(row[7], NULL, 10),
        .user_id = strtoll(row[8], NULL, 10),
        .price = strtoll(row[9], NULL, 10),
        .unknown = row[10],
        .claimed_ms_ago = row[11] ? strtoll(row[11], NULL, 10) : 0,
        .updated_ms_ago = strtoll(row[12], NULL, 10),
    };
    return recipient_state_parse(row[4], &r->state);
}

void recipient_put_messages(struct db *db, struct buf *sql, const char *const *message_ids,
                            size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(sql, ',');
        db_put_quoted(db, sql, message_ids[i], strlen(message_ids[i]));
    }
}

void recipient_put_lock(struct db *db, struct buf *sql, const char *const *message_ids, size_t n)
{
    buf_puts(sql, "SELECT id,message_identifier,recipient,position,status,attempt,takeovers,owner,"
                  "user_id,price,unknown_operators,"
                  "GREATEST(TIMESTAMPDIFF(MICROSECOND,first_claimed_at,NOW(6)),0) DIV 1000,"
                  "GREATEST(TIMESTAMPDIFF(MICROSECOND,updated_at,NOW(6)),0) DIV 1000 "
                  "FROM message_status FORCE INDEX(uq_message_status_identifier_recipient) "
                  "WHERE message_identifier IN (");
    recipient_put_messages(db, sql, message_ids, n);
    buf_puts(sql, ") ORDER BY message_identifier,recipient FOR UPDATE");
}

int recipient_read(struct recipient_rows *rows, struct db_set *set, struct err *err)
{
    char **row;

    rows->all = calloc(set->affected + 1, sizeof(*rows->all));
    if (!rows->all)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    while ((row = db_next(set)))
        if (!read_row(row, &rows->all[rows->n++]))
            return err_set(err, ERR_BUG, 0, "recipient: a state that nobody knows");
    return 0;
}

int recipient_lock(struct db *db, const char *const *message_ids, size_t n,
                   struct recipient_rows *rows, struct err *err)
{
    struct buf sql = {0};
    int rc;

    *rows = (struct recipient_rows){0};
    recipient_put_lock(db, &sql, message_ids, n);
    rc = db_run_buf(db, &lock_label, &sql, &rows->results, err);
    buf_free(&sql);
    if (!rc)
        rc = recipient_read(rows, db_only(&rows->results), err);
    if (rc)
        recipient_rows_free(rows);
    return rc;
}

void recipient_rows_free(struct recipient_rows *rows)
{
    free(rows->all);
    db_results_free(&rows->results);
    *rows = (struct recipient_rows){0};
}
