#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/transport_http_read.h"
#include "libcommon/domain/operator_exchange.h"
#include "test/unit/suite.h"

/*
 * The carriers' files, and what they make of answers that were recorded: answers/<carrier>/ has
 * them as they came over the wire, each under the name of its verdict:
 * <verdict>[.<reason>]-<what>.http, or lookup-<answer>-<what>.http.
 */

#define FILES TEST_SOURCE "/consumerd/operators.d"
#define ANSWERS TEST_SOURCE "/test/unit/consumerd/answers"
#define CARRIERS 5
#define ANSWER_MAX 65536

static struct operator_set *set;

static void read_files(void)
{
    const struct operator_reading how = {.parts = 0};
    struct buf errors = {0};
    size_t faults;

    set = operator_set_read(FILES, &how, &errors, &faults);
    ck_assert_msg(set != NULL, "%s", errors.data);
    ck_assert_uint_eq(set->n, CARRIERS);
    buf_free(&errors);
}

static void drop_files(void)
{
    operator_set_drop(set);
}

static void read_wire(const char *path, struct http_read *read, struct buf *body)
{
    static char wire[ANSWER_MAX];
    FILE *f = fopen(path, "re");
    size_t n;

    ck_assert_msg(f != NULL, "%s", path);
    n = fread(wire, 1, sizeof(wire), f);
    fclose(f);
    http_read_begin(read);
    http_read_take(read, wire, n, body, ANSWER_MAX);
    http_read_end(read, true);
}

static void put_verdict(const struct operator_config *op, struct operator_answer *a,
                        struct buf *out)
{
    struct operator_judgement said;

    operator_judge(op, a, &said);
    buf_puts(out, verdict_name(said.verdict));
    if (said.verdict == VERDICT_UNFIT)
        buf_printf(out, ".%s", unfit_name(said.unfit));
    ck_assert(said.verdict != VERDICT_ACCEPTED || !op->gives_id || *said.id);
}

static void judge(const struct operator_config *op, const char *name)
{
    bool lookup = !strncmp(name, "lookup-", 7);
    struct buf path = {0}, body = {0}, said = {0};
    char id[PROVIDER_ID_MAX + 1];
    struct http_read read;
    struct operator_answer a;

    buf_printf(&path, ANSWERS "/%s/%s", op->name, name);
    read_wire(path.data, &read, &body);
    operator_answer_begin(&a, read.status, body.data, body.len, read.state == READ_DONE);
    if (lookup)
        buf_printf(&said, "lookup-%s", lookup_answer_name(operator_judge_lookup(op, &a, id)));
    else
        put_verdict(op, &a, &said);
    ck_assert_msg(!strncmp(name, said.data, said.len) && strchr("-.", name[said.len]),
                  "%s: it is %s", path.data, said.data);
    operator_answer_end(&a);
    buf_free(&path);
    buf_free(&body);
    buf_free(&said);
}

/* What each carrier has to have an answer of; opted out: where it says so to a submission. */
static const char *const wanted[] = {"accepted-",        "rejected-bad-number",
                                     "unfit.cred",       "transient-html",
                                     "unknown-cut-body", "unknown-html-page-with-200"};

START_TEST(recorded_answers_are_judged)
{
    const struct operator_config *op = set->all[_i];
    unsigned seen[sizeof(wanted) / sizeof(wanted[0])] = {0};
    struct buf folder = {0};
    struct dirent *entry;
    DIR *dir;

    buf_printf(&folder, ANSWERS "/%s", op->name);
    dir = opendir(folder.data);
    ck_assert_msg(dir != NULL, "%s", folder.data);
    while ((entry = readdir(dir))) {
        if (*entry->d_name == '.')
            continue;
        judge(op, entry->d_name);
        for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
            seen[i] += !strncmp(entry->d_name, wanted[i], strlen(wanted[i]));
    }
    closedir(dir);
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        ck_assert_msg(seen[i], "%s has no answer %s", op->name, wanted[i]);
    buf_free(&folder);
}
END_TEST

/* ... which stand in the answer of the carrier that gives them all. */
START_TEST(parts_cost_and_what_remains_are_read)
{
    const struct operator_config *op = operator_set_find(set, "vonage", 6);
    struct operator_judgement said;
    struct buf body = {0};
    struct http_read read;
    struct operator_answer a;

    read_wire(ANSWERS "/vonage/accepted-success.http", &read, &body);
    operator_answer_begin(&a, read.status, body.data, body.len, true);
    operator_judge(op, &a, &said);
    ck_assert_str_eq(said.id, "0C000000217B7F02");
    ck_assert_int_eq(said.parts, 2);
    ck_assert_int_eq(said.cost_millionths, 33300);
    ck_assert_int_eq(said.remaining, 15);
    operator_answer_end(&a);
    buf_free(&body);
}
END_TEST

static const struct {
    const char *name, *in_request;
} requests[] = {
    {"twilio",
     "\r\n\r\nTo=%2B4479&From=%2B15005550006&Body=a%20%26%20%22b%22&StatusCallback=https%3A"},
    {"vonage", "&to=4479&text=a%20%26%20%22b%22&type=text&client-ref=018f-0.ab&"},
    {"infobip", "\"content\":{\"text\":\"a & \\\"b\\\"\"}"},
    {"sinch", "\"to\":[\"4479\"],\"body\":\"a & \\\"b\\\"\""},
    {"kannel",
     "&to=%2B4479&charset=UTF-8&coding=0&text=a%20%26%20%22b%22&dlr-mask=3&dlr-url=https%3A"
     "%2F%2Fx%2Fy%26d%3D%25d%26a%3D%25A HTTP/1.1\r\n"},
};

START_TEST(requests_say_what_they_should)
{
    const struct operator_values values = {.text = "a & \"b\"",
                                           .text_len = 7,
                                           .to = "+4479",
                                           .reference = "018f-0",
                                           .type = "normal",
                                           .receipt_url = "https://x/y",
                                           .signed_reference = "018f-0.ab"};
    const struct operator_config *op =
        operator_set_find(set, requests[_i].name, strlen(requests[_i].name));
    struct buf out = {0}, body = {0};

    operator_request_put(op, &op->submit, &values, false, &out, &body);
    ck_assert_msg(strstr(out.data, requests[_i].in_request) != NULL, "%s", out.data);
    buf_free(&out);
    buf_free(&body);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("carriers");
    TCase *tc = tcase_create("all");

    tcase_add_unchecked_fixture(tc, read_files, drop_files);
    tcase_add_loop_test(tc, recorded_answers_are_judged, 0, CARRIERS);
    tcase_add_test(tc, parts_cost_and_what_remains_are_read);
    tcase_add_loop_test(tc, requests_say_what_they_should, 0, CARRIERS);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
