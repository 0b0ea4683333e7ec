#include "libcommon/domain/recipient_internal.h"
#include "libcommon/domain/webhook_event.h"
#include "libcommon/domain/webhook_set.h"

#define CHUNK 500 /* ids of one statement */

static struct db_label event_label = {.query = "webhook_events"};

void recipient_event_register(void)
{
    db_label_register(&event_label);
}

/* What an endpoint is told of a transition; WEBHOOK_KINDS: nothing. */
static enum webhook_kind kind_of(enum recipient_transition transition)
{
    switch (transition) {
    case RECIPIENT_DELIVER:
    case RECIPIENT_CONFIRM:
    case RECIPIENT_PROVE:
        return WEBHOOK_DONE;
    case RECIPIENT_FAIL:
    case RECIPIENT_DROP:
        return WEBHOOK_FAILED;
    case RECIPIENT_REPORT_DELIVERED:
        return WEBHOOK_DELIVERED;
    case RECIPIENT_REPORT_UNDELIVERED:
        return WEBHOOK_UNDELIVERED;
    default:
        return WEBHOOK_KINDS;
    }
}

static bool is_told(const struct recipient_change *c, enum recipient_transition transition)
{
    return c->transition == transition && c->result == RECIPIENT_HELD &&
           webhook_set_may_have(c->user_id);
}

bool recipient_wants_events(enum recipient_transition transition,
                            const struct recipient_change *changes, size_t n)
{
    if (kind_of(transition) == WEBHOOK_KINDS || !webhook_set_any())
        return false;
    for (size_t i = 0; i < n; i++)
        if (is_told(&changes[i], transition))
            return true;
    return false;
}

/* A recipient as it is now, as a page of history shows it; what its operator said only where that
 * is the event. */
#define DATA                                                                         \
    "JSON_OBJECT('user_id',m.user_id,'message_identifier',m.message_identifier,"     \
    "'position',m.position,'recipient',m.recipient,'type',m.type,'status',m.status," \
    "'provider',m.provider,'provider_message_id',m.provider_message_id,"             \
    "'last_error',m.last_error,'price',m.price,"                                     \
    "'created_at',DATE_FORMAT(m.created_at,'%Y-%m-%dT%H:%i:%s.%fZ'),"                \
    "'delivery',ELT(m.delivery+1,'none','waiting','delivered','undelivered','unreported')"
#define REPORT                                                                          \
    ",'delivery_report',JSON_EXTRACT((SELECT JSON_OBJECT('operator',d.operator,"        \
    "'code',d.code,'words',d.words,'reason',d.reason,"                                  \
    "'at',DATE_FORMAT(d.reported_at,'%Y-%m-%dT%H:%i:%s.%fZ')) FROM deliveries d WHERE " \
    "d.status_id=m.id AND d.state=m.delivery ORDER BY d.reported_at,d.operator LIMIT 1),'$')"

static const char *data_of(enum webhook_kind kind)
{
    return kind == WEBHOOK_DELIVERED || kind == WEBHOOK_UNDELIVERED ? DATA REPORT ")" : DATA ")";
}

static void put_ids(struct buf *sql, enum recipient_transition transition,
                    const struct recipient_change *changes, size_t n, bool attempts)
{
    const char *before = attempts ? "((" : "(";

    for (size_t i = 0; i < n; i++) {
        if (!is_told(&changes[i], transition))
            continue;
        buf_puts(sql, before);
        buf_put_uint(sql, changes[i].id);
        if (attempts)
            buf_printf(sql, ",%u)", changes[i].attempt);
        before = attempts ? ",(" : ",";
    }
    buf_putc(sql, ')');
}

/* Of the rows that are now as the transition leaves them. What a packet delivers is not locked
 * before: of that only the attempt that was changed, so that a row that did not answer to the fence
 * is not among them; one that an earlier try has changed, whose answer was lost, has its event
 * already. Pairs alone would be planned as a scan. */
void recipient_put_events(struct buf *sql, enum recipient_transition transition,
                          const struct recipient_change *changes, size_t n)
{
    enum webhook_kind kind = kind_of(transition);

    webhook_put_event(sql, kind, "CONCAT(m.message_identifier,'-',m.position)", data_of(kind));
    buf_puts(sql, "message_status m FORCE INDEX(PRIMARY)");
    webhook_put_endpoints(sql, kind, "m.user_id");
    buf_puts(sql, " WHERE m.id IN ");
    put_ids(sql, transition, changes, n, false);
    if (transition == RECIPIENT_DELIVER) {
        buf_puts(sql, " AND (m.id,m.attempt) IN ");
        put_ids(sql, transition, changes, n, true);
    }
    buf_printf(sql, " AND m.status='%s'", recipient_to_name(transition));
}

int recipient_write_events(struct db *db, enum recipient_transition transition,
                           const struct recipient_change *changes, size_t n, struct err *err)
{
    struct buf sql = {0};
    int rc = 0;

    for (size_t i = 0; i < n && !rc; i += CHUNK) {
        size_t count = n - i < CHUNK ? n - i : CHUNK;

        if (!recipient_wants_events(transition, changes + i, count))
            continue;
        buf_reset(&sql);
        recipient_put_events(&sql, transition, changes + i, count);
        rc = db_run_buf(db, &event_label, &sql, NULL, err);
    }
    buf_free(&sql);
    return rc;
}
