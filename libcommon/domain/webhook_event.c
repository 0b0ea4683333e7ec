#include "libcommon/domain/webhook_event.h"

#include "libcommon/base/random.h"
#include "libcommon/domain/webhook_set.h"

void webhook_put_event(struct buf *sql, enum webhook_kind kind, const char *subject,
                       const char *data)
{
    buf_puts(sql, "INSERT IGNORE INTO webhook_events(webhook_id,subject,kind,data,next_at) "
                  "SELECT w.id,");
    buf_puts(sql, subject);
    buf_putc(sql, ',');
    buf_put_uint(sql, kind);
    buf_putc(sql, ',');
    buf_puts(sql, data);
    buf_puts(sql, ",NOW(6) FROM ");
}

void webhook_put_endpoints(struct buf *sql, enum webhook_kind kind, const char *customer)
{
    buf_puts(sql, " STRAIGHT_JOIN webhooks w FORCE INDEX(idx_webhooks_customer) ON w.customer_id=");
    buf_puts(sql, customer);
    buf_puts(sql, " AND w.disabled_at IS NULL AND w.deleted_at IS NULL");
    if (WEBHOOK_CHOICES & WEBHOOK_BIT(kind)) {
        buf_puts(sql, " AND w.kinds&");
        buf_put_uint(sql, WEBHOOK_BIT(kind));
    }
}

/* ---- a balance that is low ---- */

static bool may_cross(const struct ledger_account *a, int64_t threshold, bool balances)
{
    if (a->change >= 0)
        return false;
    if (balances && (a->balance < threshold || a->balance + a->change >= threshold))
        return false;
    return webhook_set_may_have(a->user_id);
}

bool webhook_wants_low(const struct ledger_account *accounts, size_t n, int64_t threshold,
                       bool balances)
{
    if (!threshold || !webhook_set_any())
        return false;
    for (size_t i = 0; i < n; i++)
        if (may_cross(&accounts[i], threshold, balances))
            return true;
    return false;
}

/* What a balance was is what it is now, less its change. */
void webhook_put_low(struct buf *sql, const struct ledger_account *accounts, size_t n,
                     int64_t threshold, bool balances)
{
    const char *before = " WHERE (";
    char subject[UUID_TEXT_SIZE];
    struct buf quoted = {0};
    struct buf data = {0};

    random_uuid7(subject); /* one for all: no two of them share an endpoint */
    buf_printf(&quoted, "'%s'", subject);
    buf_printf(&data, "JSON_OBJECT('user_id',b.user_id,'balance',b.balance,'threshold',%lld)",
               (long long)threshold);
    sql->failed |= quoted.failed || data.failed;
    if (!sql->failed)
        webhook_put_event(sql, WEBHOOK_BALANCE_LOW, quoted.data, data.data);
    buf_free(&quoted);
    buf_free(&data);
    buf_puts(sql, "user_balances b FORCE INDEX(user_id)");
    webhook_put_endpoints(sql, WEBHOOK_BALANCE_LOW, "b.user_id");
    for (size_t i = 0; i < n; i++) {
        if (!may_cross(&accounts[i], threshold, balances))
            continue;
        buf_printf(sql, "%sb.user_id=%lld AND b.balance>=%lld", before,
                   (long long)accounts[i].user_id, (long long)threshold + accounts[i].change);
        before = " OR ";
    }
    buf_printf(sql, ") AND b.balance<%lld", (long long)threshold);
}
