#include <check.h>
#include <semaphore.h>
#include <string.h>

#include "consumerd/repair_internal.h"
#include "libcommon/telemetry/metrics.h"
#include "test/unit/consumerd/make.h"
#include "test/unit/fake_broker.h"
#include "test/unit/fake_db.h"
#include "test/unit/suite.h"

/* Each test scripts one turn of the repair's thread; the last step of the script stops it. */

static struct settings settings;
static struct repair *repair;
/* The first open id, the last old one, rows, the oldest; when what is claimed was accepted. */
static const char *walked;
static sem_t started, ending;

static void setup(void)
{
    fake_db_begin();
    fake_broker_begin();
    make_settings(&settings);
    settings.consumer.held_ask_max_sec = 600;
    settings.consumer.retry_max_ms = 30001;
    walked = "1|9|9|1700000000|0|0";
    sem_init(&started, 0, 0);
    sem_init(&ending, 0, 0);
}

static void teardown(void)
{
    sem_destroy(&started);
    sem_destroy(&ending);
    fake_broker_end();
    fake_db_end();
}

static void stop(void)
{
    sem_wait(&started);
    repair_begin_stop(repair);
    sem_post(&ending);
}

static void run(void)
{
    repair = repair_start(&settings, NULL);
    sem_post(&started);
    sem_wait(&ending);
    repair_stop(repair);
}

/* ---- pieces of a turn ---- */

#define LAST .meanwhile = stop

static void expect_leader(void)
{
    EXPECT("schema_version", .rows = "9999");
    EXPECT("leader", .has = {"GET_LOCK", ".repair"}, .rows = "1");
}

static void expect_resignation(void)
{
    EXPECT("leader", .has = {"RELEASE_LOCK"}, LAST);
}

static void expect_walk(const char *candidates)
{
    EXPECT(
        "repair_walk",
        .has = {"status IN ('pending','sending')", "INTERVAL 300 SECOND",
                "+IF(MAX(t.unknown_operators<>''),600,31)"},
        .answers = {{.name = "candidates", .rows = candidates}, {.name = "range", .rows = walked}});
}

static void expect_outbox(const char *rows)
{
    EXPECT("repair_count", .has = {"outbox_events"}, .rows = rows);
    EXPECT("repair_count", .has = {"outbox_parked"}, .rows = "0|0|0");
}

/* What is counted after it: what waits in the outbox, and what is open in the table. */
static void expect_first_walk(const char *candidates)
{
    expect_walk(candidates);
    EXPECT("repair_count", .has = {"outbox_events", "id>0", "LIMIT 10000"}, .rows = "3|7|1");
    EXPECT("repair_count", .has = {"outbox_parked", "id>0", "LIMIT 10000"}, .rows = "2|9|0");
    EXPECT("repair_count", .has = {"id>0", "LIMIT 10000"}, .rows = "9|9|7|0");
    EXPECT("published_store", .has = {"(0,3,NOW(6),", "(1,0,NOW(6),"}); /* never less than none */
}

/* The search, its repetition with the queues' lengths around it, and what consumers hold. */
static void expect_search(const char *candidates, const char *waiting)
{
    expect_leader();
    expect_first_walk(candidates);
    expect_walk(candidates);
    EXPECT("repair_waiting", .has = {"SET @repair_walked"});
    EXPECT("repair_waiting", .has = {"INTERVAL 30 SECOND"}, .rows = waiting);
}

#define MESSAGE(id) id "|7|normal|hello|||1700000000000000|1"

static void expect_take(const char *ids, const char *messages, const char *open)
{
    EXPECT("repair_take", .has = {ids, "FOR UPDATE;SELECT", "'pending','sending'"},
           .answers = {{.name = "messages", .rows = messages}, {.name = "open", .rows = open}});
}

static uint64_t repaired(void)
{
    return metrics_value(metrics_counter("msg_repaired_total", "", "lane=\"normal\""));
}

/* ---- what is repaired ---- */

START_TEST(what_is_lost_goes_into_the_outbox_again)
{
    uint64_t before;

    expect_search("m-1|normal|0|1000\nm-2|normal|0|1000", "0|0|0");
    expect_take("('m-1','m-2')", MESSAGE("m-1") "\n" MESSAGE("m-2"), "m-1|091\nm-1|092\nm-2|093");
    EXPECT("repair_write",
           .has = {"'m-1','message.retry.2',", "\"recipients\":[\"091\",\"092\"]",
                   "\"recipients\":[\"093\"]",
                   ";UPDATE messages FORCE INDEX(PRIMARY) SET enqueues=enqueues+1,"
                   "repairs=repairs+1,repaired_at=NOW(6) WHERE message_identifier IN "
                   "('m-1','m-2');COMMIT"});
    expect_resignation();
    before = repaired();
    run();
    ck_assert_uint_eq(repaired(), before + 2);
    ck_assert_str_eq(fake_broker_calls(), "open depth:normal depth:express depth:normal "
                                          "depth:express");
}
END_TEST

START_TEST(what_somebody_has_taken_up_meanwhile_is_left_to_him)
{
    expect_search("m-1|normal|0|1000\nm-2|normal|0|1000", "0|0|0");
    expect_take("('m-1','m-2')", MESSAGE("m-1") "\n" MESSAGE("m-2"), "m-2|093");
    EXPECT("repair_write", .has = {"'m-2'", "IN ('m-2')"}, .lacks = {"m-1"});
    expect_resignation();
    run();
}
END_TEST

START_TEST(when_all_are_taken_up_nothing_is_written)
{
    expect_search("m-1|normal|0|1000", "0|0|0");
    expect_take("('m-1')", MESSAGE("m-1"), "");
    expect_resignation();
    run();
    ck_assert_ptr_nonnull(strstr(fake_db_ran(), "repair_take rollback leader"));
}
END_TEST

/* A shorter queue cannot hold all of them: the oldest must be among the lost. */
START_TEST(only_what_the_queue_cannot_hold_is_repaired)
{
    settings.consumer.repair_max_batch = 3;
    fake_broker_depth("normal", 1); /* read twice: it may have been another one */
    expect_search("m-1|normal|0|1000\nm-2|normal|0|1000\nm-3|normal|0|1000", "0|5|0");
    expect_take("('m-1')", MESSAGE("m-1"), "m-1|091");
    EXPECT("repair_write");
    expect_resignation();
    run();
}
END_TEST

START_TEST(the_list_of_a_turn_is_bounded)
{
    expect_search("m-1|normal|0|1000\nm-2|normal|0|1000\nm-3|normal|0|1000", "0|0|0");
    expect_take("('m-1','m-2')", MESSAGE("m-1"), "m-1|091"); /* repair_max_batch */
    EXPECT("repair_write");
    expect_resignation();
    run();
}
END_TEST

START_TEST(a_message_that_cannot_be_written_does_not_keep_the_others)
{
    expect_search("m-1|normal|0|1000\nm-2|normal|0|1000", "0|0|0");
    expect_take("('m-1','m-2')", MESSAGE("m-1") "\n" MESSAGE("m-2"), "m-1|091\nm-2|093");
    EXPECT("repair_write", .has = {"'m-1'", "'m-2'"}, .error = FAKE_DUPLICATE);
    expect_take("('m-1')", MESSAGE("m-1"), "m-1|091");
    EXPECT("repair_write", .has = {"'m-1'"}, .error = FAKE_DUPLICATE);
    expect_take("('m-2')", MESSAGE("m-2"), "m-2|093");
    EXPECT("repair_write", .has = {"'m-2'"}, .lacks = {"'m-1'"});
    expect_resignation();
    run();
}
END_TEST

/* An AMQP message may be a bundle of as many as there may be. */
START_TEST(what_is_queued_counts_as_full_bundles)
{
    settings.broker.bundle_max = 2;
    settings.consumer.repair_max_batch = 3;
    fake_broker_depth("normal", 1);
    expect_search("m-1|normal|0|1000\nm-2|normal|0|1000\nm-3|normal|0|1000\nm-4|normal|0|1000\nm-5|"
                  "normal|0|1000",
                  "0|0|0");
    expect_take("('m-1')", MESSAGE("m-1"), "m-1|091");
    EXPECT("repair_write");
    expect_resignation();
    run();
}
END_TEST

/* Messages that came so much later were claimed: it cannot wait behind them. */
START_TEST(what_a_busy_queue_has_overtaken_is_repaired)
{
    fake_broker_depth("normal", 100);
    walked = "1|9|9|1700000000|1301|9000"; /* 300 seconds later than one of what is found */
    expect_search("m-1|normal|0|1001\nm-2|normal|0|1000", "50|0|0");
    expect_take("('m-2')", MESSAGE("m-2"), "m-2|093");
    EXPECT("repair_write", .has = {"'m-2'"});
    expect_resignation();
    run();
}
END_TEST

/* Open less those in the outbox; a stretch with open ones is looked at again, and what is new. */
START_TEST(what_is_published_and_open_is_counted)
{
    expect_leader();
    expect_first_walk("");
    EXPECT("leader", .has = {"RELEASE_LOCK"});
    EXPECT("leader", .has = {"GET_LOCK"}, .rows = "1");
    expect_walk("");
    expect_outbox("1|7|0");
    EXPECT("repair_count", .has = {"id>0", "id<=9"}, .rows = "9|9|2|0");
    EXPECT("repair_count", .has = {"id>0", "LIMIT 10000"}, .rows = "12|12|3|2");
    EXPECT("published_store", .has = {"(0,2,NOW(6),", "(1,2,NOW(6),"});
    expect_resignation();
    run();
}
END_TEST

/* ---- what is not ---- */

/* A statement looks at so many rows and no more, as those of the walk. */
START_TEST(a_long_outbox_is_counted_in_ranges)
{
    expect_leader();
    expect_walk("");
    EXPECT("repair_count", .has = {"outbox_events", "id>0 "}, .rows = "10000|10003|4000");
    EXPECT("repair_count", .has = {"outbox_events", "id>10003 "}, .rows = "1|10004|1");
    EXPECT("repair_count", .has = {"outbox_parked", "id>0 "}, .rows = "0|0|0");
    EXPECT("repair_count", .has = {"LIMIT 10000"}, .rows = "9000|9000|6002|4003");
    EXPECT("published_store", .has = {"(0,2,NOW(6),", "(1,2,NOW(6),"});
    expect_resignation();
    run();
}
END_TEST

START_TEST(the_count_is_good_for_a_few_walks)
{
    settings.consumer.repair_interval_ms = 100;
    expect_leader();
    expect_walk("");
    expect_outbox("0|0|0");
    EXPECT("repair_count", .has = {"LIMIT 10000"}, .rows = "0|0|0|0");
    EXPECT("published_store",
           .has = {"(0,0,NOW(6),NOW(6)+INTERVAL ", "000 MICROSECOND)",
                   "valid_until=VALUES(valid_until)"},
           .lacks = {"INTERVAL 0 "});
    expect_resignation();
    run();
}
END_TEST

START_TEST(a_count_that_cannot_be_stored_is_for_the_next_turn)
{
    expect_leader();
    expect_walk("");
    expect_outbox("0|0|0");
    EXPECT("repair_count", .has = {"LIMIT 10000"}, .rows = "0|0|0|0");
    EXPECT("published_store", .error = FAKE_LOCK_WAIT);
    expect_resignation();
    run();
}
END_TEST

START_TEST(nothing_is_repaired_while_it_may_be_queued)
{
    fake_broker_depth("normal", 1);
    expect_search("m-1|normal|0|1000\nm-2|normal|0|1000", "0|0|0");
    expect_resignation();
    run();
}
END_TEST

START_TEST(nothing_is_repaired_while_consumers_may_hold_it)
{
    expect_search("m-1|normal|0|1000\nm-2|express|0|1000", "1|1|0");
    expect_resignation();
    run();
}
END_TEST

START_TEST(nothing_is_repaired_before_every_consumer_has_said_what_it_holds)
{
    expect_search("m-1|normal|0|1000", "0|0|1"); /* heartbeat_ms is 0: it is asked once */
    expect_resignation();
    run();
}
END_TEST

START_TEST(nothing_is_repaired_when_the_broker_does_not_tell)
{
    fake_broker_fails("depth", 3);
    expect_leader();
    expect_first_walk("m-1|normal|0|1000");
    expect_walk("m-1|normal|0|1000");
    expect_resignation();
    run();
}
END_TEST

START_TEST(a_quiet_day_costs_one_walk)
{
    expect_leader();
    expect_first_walk("");
    expect_resignation();
    run();
    ck_assert_str_eq(fake_broker_calls(), "close");
}
END_TEST

START_TEST(what_was_repaired_too_often_is_given_up)
{
    expect_leader();
    expect_first_walk("m-1|normal|8|1000");
    expect_resignation();
    run();
    ck_assert_uint_eq(metrics_value(metrics_gauge("msg_repair_given_up", "", "")), 1);
}
END_TEST

START_TEST(somebody_else_leads)
{
    EXPECT("schema_version", .rows = "9999");
    EXPECT("leader", .has = {"GET_LOCK"}, .rows = "0", LAST);
    run();
}
END_TEST

/* ---- failures ---- */

START_TEST(rows_that_others_have_locked_are_for_the_next_turn)
{
    expect_search("m-1|normal|0|1000", "0|0|0");
    EXPECT("repair_take", .error = FAKE_LOCK_WAIT);
    expect_resignation();
    run();
    ck_assert_ptr_nonnull(strstr(fake_db_ran(), "begin repair_take rollback leader"));
}
END_TEST

/* A second row of that event cannot be written: whoever had counted the same enqueue is gone. */
START_TEST(an_event_that_exists_undoes_the_turn)
{
    uint64_t before;

    expect_search("m-1|normal|0|1000", "0|0|0");
    expect_take("('m-1')", MESSAGE("m-1"), "m-1|091");
    EXPECT("repair_write", .error = FAKE_DUPLICATE);
    expect_resignation();
    before = repaired();
    run();
    ck_assert_ptr_nonnull(strstr(fake_db_ran(), "repair_write rollback leader"));
    ck_assert_uint_eq(repaired(), before);
}
END_TEST

START_TEST(a_lost_session_leads_nothing_any_more)
{
    expect_search("m-1|normal|0|1000", "0|0|0");
    expect_take("('m-1')", MESSAGE("m-1"), "m-1|091");
    EXPECT("repair_write", .error = FAKE_LOST, LAST);
    run();
}
END_TEST

/* ---- the walk ---- */

static void expect_range(const char *from, const char *range)
{
    EXPECT("repair_walk", .has = {from}, .answers = {{.name = "range", .rows = range}});
}

START_TEST(the_walk_goes_on_where_rows_are_open_and_remembers_what_is_final)
{
    struct repair r = {.settings = &settings, .db = fake_db_new()};
    struct err err;

    repair_walk_register();
    pause_init(&r.pause);
    expect_range("id>0 ", "0|10000|10000|0|0|0");           /* all final */
    expect_range("id>10000 ", "15000|20000|10000|300|0|0"); /* from here on some are open */
    expect_range("id>20000 ", "0|20500|600|0|0|0");         /* the rest is too young */
    ck_assert_int_eq(repair_walk(&r, &err), 0);
    ck_assert_int_eq(r.low, 14999);
    ck_assert_int_eq(r.found.oldest, 300);

    expect_range("id>14999 ", "0|20500|5501|0|0|0"); /* those are final by now */
    ck_assert_int_eq(repair_walk(&r, &err), 0);
    ck_assert_int_eq(r.low, 20500);
    ck_assert_int_eq(r.found.oldest, 0);
    db_packet_free(&r.packet);
    pause_destroy(&r.pause);
    db_free(r.db);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("repair");
    TCase *t = tcase_create("turns");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, what_is_lost_goes_into_the_outbox_again);
    tcase_add_test(t, what_somebody_has_taken_up_meanwhile_is_left_to_him);
    tcase_add_test(t, when_all_are_taken_up_nothing_is_written);
    tcase_add_test(t, only_what_the_queue_cannot_hold_is_repaired);
    tcase_add_test(t, what_is_queued_counts_as_full_bundles);
    tcase_add_test(t, what_a_busy_queue_has_overtaken_is_repaired);
    tcase_add_test(t, what_is_published_and_open_is_counted);
    tcase_add_test(t, a_long_outbox_is_counted_in_ranges);
    tcase_add_test(t, the_count_is_good_for_a_few_walks);
    tcase_add_test(t, a_count_that_cannot_be_stored_is_for_the_next_turn);
    tcase_add_test(t, the_list_of_a_turn_is_bounded);
    tcase_add_test(t, a_message_that_cannot_be_written_does_not_keep_the_others);
    tcase_add_test(t, nothing_is_repaired_while_it_may_be_queued);
    tcase_add_test(t, nothing_is_repaired_while_consumers_may_hold_it);
    tcase_add_test(t, nothing_is_repaired_before_every_consumer_has_said_what_it_holds);
    tcase_add_test(t, nothing_is_repaired_when_the_broker_does_not_tell);
    tcase_add_test(t, a_quiet_day_costs_one_walk);
    tcase_add_test(t, what_was_repaired_too_often_is_given_up);
    tcase_add_test(t, somebody_else_leads);
    tcase_add_test(t, rows_that_others_have_locked_are_for_the_next_turn);
    tcase_add_test(t, an_event_that_exists_undoes_the_turn);
    tcase_add_test(t, a_lost_session_leads_nothing_any_more);
    tcase_add_test(t, the_walk_goes_on_where_rows_are_open_and_remembers_what_is_final);
    suite_add_tcase(s, t);
    return suite_run(s);
}
