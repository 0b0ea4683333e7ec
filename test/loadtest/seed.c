#include "test/loadtest/seed.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "test/loadtest/client.h"

#define BATCH 500 /* below the number at which a list of customers is no longer read in order */
#define TRIES 10

static struct db_label seed_label = {.query = "seed"};

static void put_ids(struct buf *sql, int64_t first, int64_t n, const char *before,
                    const char *after)
{
    for (int64_t i = 0; i < n; i++) {
        if (i)
            buf_putc(sql, ',');
        buf_puts(sql, before);
        buf_put_int(sql, first + i);
        buf_puts(sql, after);
    }
}

/* Rows exist before they are locked, balances are locked before the ledger is written: the order
 * that everybody keeps. */
static void put_batch(struct buf *sql, struct db *db, const struct options *o, int64_t first,
                      int64_t n)
{
    buf_reset(sql);
    buf_puts(sql, "INSERT IGNORE INTO user_balances(user_id) VALUES ");
    put_ids(sql, first, n, "(", ")");
    buf_puts(sql, ";START TRANSACTION;SELECT 1 FROM user_balances FORCE INDEX(user_id) "
                  "WHERE user_id IN (");
    put_ids(sql, first, n, "", "");
    buf_puts(sql, ") ORDER BY user_id FOR UPDATE;INSERT INTO user_transactions(user_id,amount,"
                  "transaction_type,description,transaction_id) VALUES ");
    for (int64_t i = 0; i < n; i++) {
        char id[UUID_TEXT_SIZE];

        random_uuid7(id);
        buf_printf(sql, "%s(%lld,%lld,'deposit',", i ? "," : "", (long long)first + (long long)i,
                   (long long)o->seed_balance);
        db_put_quoted(db, sql, o->seed_desc, strlen(o->seed_desc));
        buf_printf(sql, ",'d-%s')", id);
    }
    buf_printf(sql,
               ";UPDATE user_balances FORCE INDEX(user_id) SET balance=balance+%lld WHERE user_id "
               "BETWEEN %lld AND %lld;COMMIT",
               (long long)o->seed_balance, (long long)first, (long long)first + (long long)n - 1);
}

static int seed_batch(struct db *db, const struct options *o, struct buf *sql, int64_t first,
                      int64_t n, struct err *err)
{
    for (int i = 0; i < TRIES; i++) {
        put_batch(sql, db, o, first, n);
        if (!db_run_buf(db, &seed_label, sql, NULL, err))
            return 0;
        db_rollback(db);
        if (!db_is_conflict(err))
            break;
    }
    return -1;
}

static int seed_db(const struct options *o, struct err *err)
{
    int64_t until_us = clock_mono_us() + o->seed_timeout_us;
    struct db_settings settings;
    struct buf sql = {0};
    struct db *db;
    int rc;

    if (!options_dsn(o->seed_db_dsn, &settings))
        return err_set(err, ERR_PERMANENT, 0, "the database's address is malformed");
    db_label_register(&seed_label);
    db = db_new(&settings);
    rc = db_acquire(db, err);
    for (int64_t at = 0; at < o->users && !rc; at += BATCH) {
        int64_t left = o->users - at;

        rc = clock_mono_us() > until_us
                 ? err_set(err, ERR_RETRY, 0, "not done after -seed-timeout")
                 : seed_batch(db, o, &sql, o->user_start + at, left < BATCH ? left : BATCH, err);
    }
    buf_free(&sql);
    db_free(db);
    options_dsn_free(&settings);
    return rc;
}

struct seeding {
    const struct options *options;
    int64_t next, done, until_us;
    uint64_t *again; /* customers that were refused by a rate limit; as many as connections */
    size_t again_count;
    int status; /* of the first that failed */
    bool failed;
    struct buf body;
};

static enum client_turn next(void *arg, int64_t now_us, struct client_request *request,
                             int64_t *wake_us)
{
    struct seeding *s = arg;
    const struct options *o = s->options;
    uint64_t user = UINT64_MAX;

    if (s->done == o->users || s->failed || now_us > s->until_us)
        return CLIENT_END;
    if (s->again_count)
        user = s->again[--s->again_count];
    else if (s->next < o->users)
        user = (uint64_t)s->next++;
    else
        *wake_us = s->until_us; /* or when those in flight are answered */
    if (user == UINT64_MAX)
        return CLIENT_LATER;
    buf_reset(&s->body);
    buf_printf(&s->body, "{\"user_id\":%lld,\"balance\":%lld,\"description\":",
               (long long)o->user_start + (long long)user, (long long)o->seed_balance);
    buf_put_json(&s->body, o->seed_desc, strlen(o->seed_desc));
    buf_putc(&s->body, '}');
    *request = (struct client_request){
        .path = "/balance/add", .body = &s->body, .due_us = now_us, .number = user};
    return CLIENT_SEND;
}

static void answered(void *arg, uint64_t number, const struct client_answer *a)
{
    struct seeding *s = arg;

    if (a->status == 200) {
        s->done++;
    } else if (a->status == 429) {
        s->again[s->again_count++] = number;
    } else if (!s->failed) {
        s->failed = true;
        s->status = a->status;
    }
}

static int seed_http(const struct options *o, struct err *err)
{
    struct seeding s = {.options = o, .until_us = clock_mono_us() + o->seed_timeout_us};
    const struct client_settings settings = {
        .base_url = o->base_url,
        .ca_file = o->ca_file,
        .api_key = o->api_key,
        .connections = (size_t)o->seed_concurrency,
        .timeout_us = o->seed_timeout_us,
        .rest = true,
    };
    const struct client_work work = {.next = next, .answered = answered, .arg = &s};
    struct client *client = client_new(&settings, err);

    if (!client)
        return -1;
    s.again = must_alloc((size_t)o->seed_concurrency, sizeof(*s.again));
    client_run(client, &work);
    client_free(client);
    buf_free(&s.body);
    free(s.again);
    if (s.failed)
        return err_set(err, ERR_RETRY, (unsigned)s.status,
                       "POST /balance/add answered %d (0: not at all); %lld customers are seeded",
                       s.status, (long long)s.done);
    if (s.done < o->users)
        return err_set(err, ERR_RETRY, 0, "not done after -seed-timeout");
    return 0;
}

int seed_run(const struct options *options, struct err *err)
{
    return strcmp(options->seed_method, "db") == 0 ? seed_db(options, err)
                                                   : seed_http(options, err);
}
