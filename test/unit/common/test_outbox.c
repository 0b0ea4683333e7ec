#include <check.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/domain/outbox.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

#define MESSAGES 4
#define TEXT 1000

static struct db *db;
static struct broker_settings topology;
static struct message messages[MESSAGES];
static struct outbox_entry entries[MESSAGES];
static char text[TEXT + 1];

static void setup(void)
{
    static const char *recipients[] = {"0912"};
    static char name[] = "a_name";

    fake_db_begin();
    outbox_register();
    db = fake_db_new();
    topology.exchange = name;
    for (int i = 0; i < MESSAGE_LANES; i++)
        topology.queues[i] = name;
    memset(text, 'x', TEXT);
    for (int i = 0; i < MESSAGES; i++) {
        struct message *m = &messages[i];

        *m = (struct message){.text = text,
                              .text_len = TEXT,
                              .recipients = recipients,
                              .recipient_count = 1,
                              .customer_id = 1};
        snprintf(m->id, sizeof(m->id), "m-%d", i);
        entries[i] = (struct outbox_entry){.message = m, .traceparent = "", .kind = OUTBOX_DELIVER};
    }
}

static void teardown(void)
{
    db_free(db);
    fake_db_end();
}

static int write_all(struct err *err)
{
    return outbox_write(db, &topology, entries, MESSAGES, err);
}

START_TEST(rows_leave_together)
{
    struct err err;

    entries[1].missing = true;
    EXPECT("retry_insert_outbox", .has = {"'m-0'", "'m-2'", "'m-3'"}, .lacks = {"'m-1'"});
    ck_assert_int_eq(write_all(&err), 0);
}
END_TEST

START_TEST(no_packet_is_larger_than_the_server_takes)
{
    struct err err;

    fake_db_set_packet_max(3 * TEXT + TEXT / 2);
    EXPECT("retry_insert_outbox", .has = {"INSERT", "'m-0'", "'m-1'"}, .lacks = {"'m-2'"});
    EXPECT("retry_insert_outbox", .has = {"INSERT", "'m-2'", "'m-3'"}, .lacks = {"'m-1'"});
    ck_assert_int_eq(write_all(&err), 0);
}
END_TEST

START_TEST(a_row_that_is_too_large_alone_is_said_to_be)
{
    struct err err;

    fake_db_set_packet_max(TEXT);
    ck_assert_int_eq(write_all(&err), -1);
    ck_assert(db_is_too_large(&err));
}
END_TEST

START_TEST(a_sample_is_one_row)
{
    struct outbox_sample seen;
    struct db_results results;
    static struct db_label label = {.query = "sample"};
    struct buf sql = {0};
    struct err err;

    db_label_register(&label);
    outbox_put_sample(&sql, OUTBOX_DELIVER, 7);
    ck_assert_ptr_null(strchr(sql.data, ';'));
    EXPECT("sample", .has = {"LIMIT 7", "UNIX_TIMESTAMP()"}, .rows = "1000|3|990.25|0|\\N");
    ck_assert_int_eq(db_run_buf(db, &label, &sql, &results, &err), 0);
    outbox_read_sample(db_only(&results), &seen);
    ck_assert_int_eq(seen.now_sec, 1000);
    ck_assert_int_eq(seen.pending[MESSAGE_NORMAL], 3);
    ck_assert_int_eq(seen.since_sec[MESSAGE_NORMAL], 990);
    ck_assert_int_eq(seen.pending[MESSAGE_EXPRESS], 0);
    ck_assert_int_eq(seen.since_sec[MESSAGE_EXPRESS], 0);
    db_results_free(&results);
    buf_free(&sql);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("outbox");
    TCase *t = tcase_create("outbox");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, rows_leave_together);
    tcase_add_test(t, no_packet_is_larger_than_the_server_takes);
    tcase_add_test(t, a_row_that_is_too_large_alone_is_said_to_be);
    tcase_add_test(t, a_sample_is_one_row);
    suite_add_tcase(s, t);
    return suite_run(s);
}
