#include <check.h>
#include <string.h>

#include "libcommon/broker/broker_internal.h"
#include "test/unit/suite.h"

#define TEXT(s) ((amqp_bytes_t){sizeof(s) - 1, (char[]){s}})
#define VALUE_TEXT(s)                                   \
    ((amqp_field_value_t){.kind = AMQP_FIELD_KIND_UTF8, \
                          .value.bytes = {sizeof(s) - 1, (char[]){s}}})
#define PARENT "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

static struct broker_incoming in;

static void before(void)
{
    memset(&in, 'x', sizeof(in)); /* of the message before */
}

static void read_header(amqp_bytes_t name, amqp_field_value_t value)
{
    amqp_table_entry_t entry = {name, value};
    amqp_basic_properties_t p = {._flags = AMQP_BASIC_HEADERS_FLAG, .headers = {1, &entry}};

    broker_read_properties(&in, &p);
}

static void read_version(int64_t version)
{
    read_header(TEXT("bundle"),
                (amqp_field_value_t){.kind = AMQP_FIELD_KIND_I64, .value.i64 = version});
}

START_TEST(what_is_not_said_is_empty)
{
    amqp_basic_properties_t p = {0};

    broker_read_properties(&in, &p);
    ck_assert_str_eq(in.message_id, "");
    ck_assert_str_eq(in.traceparent, "");
    ck_assert_str_eq(in.tracestate, "");
    ck_assert_str_eq(in.death_reason, "");
    ck_assert_str_eq(in.death_queue, "");
    ck_assert(!in.is_bundle);
    ck_assert_uint_eq(in.bundle, 0);
    ck_assert_int_eq(in.accepted_us, 0);
    ck_assert_int_eq(in.delivery_count, 0);
}
END_TEST

START_TEST(headers_are_read_by_their_whole_name)
{
    read_header(TEXT("traceparent"), VALUE_TEXT(PARENT));
    ck_assert_str_eq(in.traceparent, PARENT);
    read_header(TEXT("traceparent\0x"), VALUE_TEXT(PARENT));
    ck_assert_str_eq(in.traceparent, "");
}
END_TEST

/* Half a trace state is none, and half an id is another message's. */
START_TEST(a_text_with_a_nul_is_dropped)
{
    amqp_basic_properties_t p = {._flags = AMQP_BASIC_MESSAGE_ID_FLAG,
                                 .message_id = TEXT("0192-1\0x")};

    broker_read_properties(&in, &p);
    ck_assert_str_eq(in.message_id, "");
    p.message_id = TEXT("0192-1");
    broker_read_properties(&in, &p);
    ck_assert_str_eq(in.message_id, "0192-1");
    read_header(TEXT("tracestate"), VALUE_TEXT("a=b\0c"));
    ck_assert_str_eq(in.tracestate, "");
}
END_TEST

/* Of 2^32 + 1, the lower half is 1. */
START_TEST(a_version_is_not_cut)
{
    read_version(1);
    ck_assert_uint_eq(in.bundle, 1);
    read_version((INT64_C(1) << 32) + 1);
    ck_assert_uint_eq(in.bundle, 0);
    read_version(-(INT64_C(1) << 32) + 1);
    ck_assert_uint_eq(in.bundle, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("broker_properties");
    TCase *t = tcase_create("broker_properties");

    tcase_add_checked_fixture(t, before, NULL);
    tcase_add_test(t, what_is_not_said_is_empty);
    tcase_add_test(t, headers_are_read_by_their_whole_name);
    tcase_add_test(t, a_text_with_a_nul_is_dropped);
    tcase_add_test(t, a_version_is_not_cut);
    suite_add_tcase(s, t);
    return suite_run(s);
}
