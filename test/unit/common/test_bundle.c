#include <check.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/domain/bundle.h"
#include "test/unit/suite.h"

#define BODY(id, text)                                                                  \
    "{\"customer_id\":7,\"text\":\"" text                                               \
    "\",\"recipients\":[\"+491\",\"2\"],\"type\":\"normal\",\"transaction_id\":\"c-" id \
    "\",\"message_identifier\":\"" id "\"}"

struct seen {
    size_t n, poison, refuse_at;
    char ids[8][MESSAGE_ID_MAX + 1];
    char texts[8][64], traces[8][64], states[8][64], poisons[8][128];
    int64_t accepted_us[8];
};

static bool note(const struct bundle_member *m, void *arg)
{
    struct seen *seen = arg;
    size_t i = seen->n;

    if (seen->refuse_at && i + 1 == seen->refuse_at)
        return false;
    seen->n++;
    snprintf(seen->traces[i], sizeof(seen->traces[i]), "%s", m->traceparent);
    snprintf(seen->states[i], sizeof(seen->states[i]), "%s", m->tracestate);
    seen->accepted_us[i] = m->accepted_us;
    if (!m->message) {
        ck_assert_ptr_nonnull(m->why);
        snprintf(seen->poisons[seen->poison++], sizeof(seen->poisons[0]), "%.*s", (int)m->json_len,
                 m->json);
        return true;
    }
    ck_assert_ptr_null(m->why);
    ck_assert_uint_eq(m->message->recipient_count, 2);
    snprintf(seen->ids[i], sizeof(seen->ids[i]), "%s", m->message->id);
    snprintf(seen->texts[i], sizeof(seen->texts[i]), "%.*s", (int)m->message->text_len,
             m->message->text);
    return true;
}

static bool count(const struct bundle_member *m, void *arg)
{
    (void)m;
    ++*(size_t *)arg;
    return true;
}

static struct bundle_entry entry(const char *body, const char *trace, const char *state,
                                 int64_t accepted_us)
{
    return (struct bundle_entry){body, strlen(body), trace, state, accepted_us};
}

START_TEST(members_survive_the_wire_with_what_is_their_own)
{
    static const char odd[] = BODY("b", "],{\\\"}\\\\");
    const struct bundle_entry entries[] = {entry(BODY("a", "one"), "00-trace", "k=\"v\"", 42),
                                           entry(odd, "", "", 0)};
    struct buf json = {0};
    struct seen seen = {0};
    struct err err;

    bundle_begin(&json);
    for (int i = 0; i < 2; i++) {
        size_t promised = bundle_size_with(&json, &entries[i]);

        bundle_add(&json, &entries[i]);
        ck_assert_uint_le(json.len + 2, promised);
    }
    bundle_end(&json);
    ck_assert_int_eq(bundle_read(BUNDLE_VERSION, json.data, json.len, note, &seen, &err), 0);
    ck_assert_uint_eq(seen.n, 2);
    ck_assert_uint_eq(seen.poison, 0);
    ck_assert_str_eq(seen.ids[0], "a");
    ck_assert_str_eq(seen.traces[0], "00-trace");
    ck_assert_str_eq(seen.states[0], "k=\"v\"");
    ck_assert_int_eq(seen.accepted_us[0], 42);
    ck_assert_str_eq(seen.ids[1], "b");
    ck_assert_str_eq(seen.texts[1], "],{\"}\\");
    ck_assert_str_eq(seen.traces[1], "");
    ck_assert_int_eq(seen.accepted_us[1], 0);
    buf_free(&json);
}
END_TEST

START_TEST(a_poisoned_member_spoils_nothing_for_its_neighbours)
{
    static const char json[] = "{\"messages\":[" BODY(
        "a", "one") ",{\"text\":\"\\u0000],\"},17,"
                    "{\"customer_id\":7,\"customer_id\":8}," BODY("b", "two") "]}";
    struct seen seen = {0};
    struct err err;

    ck_assert_int_eq(bundle_read(BUNDLE_VERSION, json, strlen(json), note, &seen, &err), 0);
    ck_assert_uint_eq(seen.n, 5);
    ck_assert_uint_eq(seen.poison, 3);
    ck_assert_str_eq(seen.ids[0], "a");
    ck_assert_str_eq(seen.poisons[0], "{\"text\":\"\\u0000],\"}");
    ck_assert_str_eq(seen.poisons[1], "17");
    ck_assert_str_eq(seen.ids[4], "b");
}
END_TEST

static const char *const whole[] = {"",   "{",  "{\"messages\":[]}", "{\"messages\":[",
                                    "[]", "]}", "{\"messages\":{}}"};

START_TEST(what_is_no_bundle_goes_whole)
{
    struct seen seen = {0};
    struct err err;

    ck_assert_int_eq(bundle_read(BUNDLE_VERSION, whole[_i], strlen(whole[_i]), note, &seen, &err),
                     -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    ck_assert_uint_eq(seen.n, 0);
}
END_TEST

START_TEST(one_of_more_members_than_any_has_goes_whole)
{
    static const char one[] = BODY("a", "one");
    struct buf json = {0};
    size_t seen;
    struct err err;

    for (int surplus = 0; surplus < 2; surplus++) {
        buf_reset(&json);
        buf_puts(&json, "{\"messages\":[");
        for (int i = 1; i < BUNDLE_MESSAGES_MAX + surplus; i++)
            buf_puts(&json, "{},");
        buf_printf(&json, "%s]}", one);
        seen = 0;
        ck_assert_int_eq(bundle_read(BUNDLE_VERSION, json.data, json.len, count, &seen, &err),
                         -surplus);
        ck_assert_uint_eq(seen, surplus ? 0 : BUNDLE_MESSAGES_MAX);
    }
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    buf_free(&json);
}
END_TEST

START_TEST(a_version_of_another_time_goes_whole)
{
    static const char json[] = "{\"messages\":[" BODY("a", "one") "]}";
    struct seen seen = {0};
    struct err err;

    ck_assert_int_eq(bundle_read(0, json, strlen(json), note, &seen, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    ck_assert_int_eq(bundle_read(2, json, strlen(json), note, &seen, &err), -1);
    ck_assert_int_eq(err.kind, ERR_PERMANENT);
    ck_assert_uint_eq(seen.n, 0);
}
END_TEST

START_TEST(a_reader_that_cannot_go_on_is_asked_again_later)
{
    static const char json[] = "{\"messages\":[" BODY("a", "one") "," BODY("b", "two") "]}";
    struct seen seen = {.refuse_at = 2};
    struct err err;

    ck_assert_int_eq(bundle_read(BUNDLE_VERSION, json, strlen(json), note, &seen, &err), -1);
    ck_assert_int_eq(err.kind, ERR_RETRY);
    ck_assert_uint_eq(seen.n, 1);
}
END_TEST

START_TEST(any_bytes_end_somewhere)
{
    char json[64];
    struct err err;

    for (unsigned seed = 0; seed < 4096; seed++) {
        static const char letters[] = "{}[]\",:\\a1";
        unsigned state = seed * 2654435761u + 1;
        struct seen seen = {.refuse_at = 7};
        size_t n = (size_t)snprintf(json, sizeof(json), "{\"messages\":[");

        for (int i = 0; i < 24; i++) {
            state = state * 1103515245u + 12345;
            json[n++] = letters[(state >> 16) % (sizeof(letters) - 1)];
        }
        json[n++] = ']';
        json[n++] = '}';
        (void)bundle_read(BUNDLE_VERSION, json, n, note, &seen, &err);
        ck_assert_uint_le(seen.n, 7);
    }
}
END_TEST

START_TEST(a_member_alone_is_the_message_that_it_was)
{
    static const char alone[] = BODY("a", "one, \\\"two\\\"");
    struct bundle_entry member = entry(alone, "00-trace", "k=v", 42);
    struct buf json = {0};
    struct buf out = {0};

    bundle_begin(&json);
    bundle_add(&json, &member);
    ck_assert(bundle_put_alone(&out, json.data + 13, json.len - 13));
    ck_assert_str_eq(out.data, alone);
    buf_reset(&out);
    ck_assert(bundle_put_alone(&out, "17 18", 4));
    ck_assert_uint_eq(out.len, 4);
    ck_assert(!memcmp(out.data, "17 1", 4));
    buf_free(&out);
    buf_free(&json);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bundle");
    TCase *t = tcase_create("wire");

    tcase_add_test(t, members_survive_the_wire_with_what_is_their_own);
    tcase_add_test(t, a_poisoned_member_spoils_nothing_for_its_neighbours);
    tcase_add_loop_test(t, what_is_no_bundle_goes_whole, 0,
                        (int)(sizeof(whole) / sizeof(whole[0])));
    tcase_add_test(t, one_of_more_members_than_any_has_goes_whole);
    tcase_add_test(t, a_version_of_another_time_goes_whole);
    tcase_add_test(t, a_reader_that_cannot_go_on_is_asked_again_later);
    tcase_add_test(t, any_bytes_end_somewhere);
    tcase_add_test(t, a_member_alone_is_the_message_that_it_was);
    suite_add_tcase(s, t);
    return suite_run(s);
}
