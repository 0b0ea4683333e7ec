/*
 * What a database gives to one transaction a send: the statements of a send as msg-api writes them
 * (api/batch.c), for one send at a time, by plain synchronous clients without HTTP. The measure
 * that batching has to beat.
 *
 * usage: msg-bench-ceiling user:password@tcp(host:port)/name [SECONDS [CONNECTIONS...]]
 *
 * Leaves its rows behind: give it a scratch database with the schema (msg-api migrate). Two packets
 * a send, as few as there can be: what is read decides what is written.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "libcommon/domain/outbox.h"
#include "test/loadtest/options.h"

#define CUSTOMERS 5000
#define FUNDS 1000000000
#define CONNECTIONS_MAX 256
#define CUSTOMERS_A_ROUND 500

struct client {
    pthread_t thread;
    const struct db_settings *settings;
    uint64_t sends;
    struct err err; /* kind ERR_NONE: all went well */
};

static struct db_label label = {.query = "ceiling"};
static atomic_bool stop;

static int lock_balance(struct db *db, struct buf *sql, int64_t customer, bool *enough,
                        struct err *err)
{
    struct db_results results;
    char **row;

    db_begin(db);
    buf_reset(sql);
    buf_printf(sql,
               "SELECT user_id,balance FROM user_balances FORCE INDEX(user_id) "
               "WHERE user_id IN (%lld) ORDER BY user_id FOR UPDATE",
               (long long)customer);
    if (db_run_buf(db, &label, sql, &results, err))
        return -1;
    row = db_next(db_only(&results));
    *enough = row && strtoll(row[1], NULL, 10) >= 1;
    db_results_free(&results);
    return 0;
}

static int write_send(struct db *db, struct buf *sql, struct buf *payload, int64_t customer,
                      struct err *err)
{
    static const char trace[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const char *recipient = "09128582812";
    struct message m = {.customer_id = customer,
                        .text = "load test",
                        .text_len = 9,
                        .recipients = &recipient,
                        .recipient_count = 1};

    random_uuid7(m.id);
    snprintf(m.transaction_id, sizeof(m.transaction_id), "c-%.36s", m.id);
    buf_reset(payload);
    message_put_payload(payload, &m, "message_exchange", "message_normal", trace, "",
                        clock_wall_us());
    buf_reset(sql);
    buf_printf(sql,
               "INSERT INTO messages(message_identifier,customer_id,type,text,recipients,price,"
               "traceparent,tracestate) VALUES ('%s',%lld,'normal','%s',1,1,'%s','');"
               "INSERT INTO message_status(user_id,status,type,recipient,message_identifier,"
               "position,price) VALUES (%lld,'pending','normal','%s','%s',0,1);"
               "INSERT INTO user_transactions(user_id,amount,transaction_type,description,"
               "transaction_id) VALUES (%lld,-1,'withdrawal','Message charge','%s');",
               m.id, (long long)customer, m.text, trace, (long long)customer, recipient, m.id,
               (long long)customer, m.transaction_id);
    buf_puts(sql, OUTBOX_INSERT);
    outbox_put_row(db, sql, OUTBOX_DELIVER, m.id, 0, MESSAGE_NORMAL, payload, 0);
    buf_printf(sql, ";UPDATE user_balances SET balance=balance-1 WHERE user_id=%lld;COMMIT",
               (long long)customer);
    return db_run_buf(db, &label, sql, NULL, err);
}

static void *send_all_the_time(void *arg)
{
    struct client *c = arg;
    struct db *db = db_new(c->settings);
    struct buf sql = {0};
    struct buf payload = {0};
    int rc = db_acquire(db, &c->err);

    while (!rc && !atomic_load_explicit(&stop, memory_order_relaxed)) {
        int64_t customer = 1 + (int64_t)(random_u64() % CUSTOMERS);
        bool enough;

        rc = lock_balance(db, &sql, customer, &enough, &c->err);
        if (!rc && !enough)
            rc = err_set(&c->err, ERR_PERMANENT, 0, "a customer has no money");
        if (!rc)
            rc = write_send(db, &sql, &payload, customer, &c->err);
        if (rc && db_is_conflict(&c->err)) {
            db_rollback(db);
            c->err = (struct err){0};
            rc = 0;
        } else if (!rc) {
            c->sends++;
        }
    }
    buf_free(&sql);
    buf_free(&payload);
    db_free(db);
    return NULL;
}

static int measure(const struct db_settings *settings, unsigned connections, double seconds)
{
    static struct client clients[CONNECTIONS_MAX];
    const struct timespec length = {.tv_sec = (time_t)seconds,
                                    .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    uint64_t sends = 0;
    int64_t began_us;
    int64_t ended_us;

    atomic_store(&stop, false);
    began_us = clock_mono_us();
    for (unsigned i = 0; i < connections; i++) {
        clients[i] = (struct client){.settings = settings};
        MUST(pthread_create(&clients[i].thread, NULL, send_all_the_time, &clients[i]) == 0);
    }
    nanosleep(&length, NULL);
    atomic_store(&stop, true);
    ended_us = clock_mono_us();
    for (unsigned i = 0; i < connections; i++)
        pthread_join(clients[i].thread, NULL);
    for (unsigned i = 0; i < connections; i++) {
        if (clients[i].err.kind != ERR_NONE) {
            fprintf(stderr, "msg-bench-ceiling: %s\n", clients[i].err.msg);
            return -1;
        }
        sends += clients[i].sends;
    }
    printf("connections=%u sends_per_sec=%.0f\n", connections,
           (double)sends * 1e6 / (double)(ended_us - began_us));
    fflush(stdout);
    return 0;
}

static int fund(const struct db_settings *settings)
{
    struct db *db = db_new(settings);
    struct buf sql = {0};
    struct err err;
    int rc = db_acquire(db, &err);

    for (int at = 0; at < CUSTOMERS && !rc; at += CUSTOMERS_A_ROUND) {
        buf_reset(&sql);
        buf_puts(&sql, "START TRANSACTION;INSERT INTO user_balances(user_id,balance) VALUES ");
        for (int i = 1; i <= CUSTOMERS_A_ROUND; i++)
            buf_printf(&sql, "%s(%d,%d)", i > 1 ? "," : "", at + i, FUNDS);
        buf_puts(&sql, ";INSERT INTO user_transactions(user_id,amount,transaction_type,"
                       "description,transaction_id) VALUES ");
        for (int i = 1; i <= CUSTOMERS_A_ROUND; i++) {
            char id[UUID_TEXT_SIZE];

            random_uuid7(id);
            buf_printf(&sql, "%s(%d,%d,'deposit','ceiling','d-%s')", i > 1 ? "," : "", at + i,
                       FUNDS, id);
        }
        buf_puts(&sql, ";COMMIT");
        rc = db_run_buf(db, &label, &sql, NULL, &err);
    }
    if (rc)
        fprintf(stderr, "msg-bench-ceiling: %s\n", err.msg);
    buf_free(&sql);
    db_free(db);
    return rc;
}

int main(int argc, char **argv)
{
    static const unsigned usual[] = {1, 8, 32};
    struct db_settings settings;
    double seconds = argc > 2 ? atof(argv[2]) : 5;
    int count = argc > 3 ? argc - 3 : 3;
    int rc;

    if (argc < 2 || !options_dsn(argv[1], &settings) || !(seconds > 0)) {
        fprintf(stderr, "usage: msg-bench-ceiling user:password@tcp(host:port)/name [SECONDS "
                        "[CONNECTIONS...]]\n");
        return 2;
    }
    db_label_register(&label);
    rc = fund(&settings);
    for (int i = 0; i < count && !rc; i++) {
        unsigned long connections = argc > 3 ? strtoul(argv[3 + i], NULL, 10) : usual[i];

        if (connections < 1 || connections > CONNECTIONS_MAX) {
            fprintf(stderr, "msg-bench-ceiling: 1 to %d connections\n", CONNECTIONS_MAX);
            rc = -1;
        } else {
            rc = measure(&settings, (unsigned)connections, seconds);
        }
    }
    options_dsn_free(&settings);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}
