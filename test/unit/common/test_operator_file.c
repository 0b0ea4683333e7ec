#include "libcommon/domain/operator_file.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/domain/operator_secret.h"
#include "test/unit/suite.h"

static bool secret(const char *name, struct buf *out, char *why, size_t size)
{
    if (!strncmp(name, "KEY", 3)) {
        buf_puts(out, "s3cr&t");
        return true;
    }
    snprintf(why, size, "is set nowhere");
    return false;
}

static const struct operator_reading how = {.parts = OPERATOR_SENDING, .secret = secret};

static struct operator_set *parse(const char *text, struct buf *errors)
{
    size_t faults;
    struct operator_set *set =
        operator_set_parse(text, strlen(text), "f.ini", &how, errors, &faults);
    size_t lines = 0;

    for (const char *at = errors->data; at && (at = strchr(at, '\n')); at++)
        lines++;
    ck_assert_uint_eq(lines, faults);
    ck_assert((set == NULL) == (faults > 0));
    return set;
}

static const struct operator_values values = {.text = "a&b",
                                              .text_len = 3,
                                              .to = "+4479",
                                              .reference = "018f-3",
                                              .type = "normal",
                                              .receipt_url = "",
                                              .signed_reference = "018f-3.ab"};

static void check_template(const struct operator_template *t, const char *expected)
{
    struct buf out = {0};

    operator_template_put(t, &values, &out);
    ck_assert_str_eq(out.data ? out.data : "", expected);
    buf_free(&out);
}

START_TEST(a_section_is_an_operator)
{
    struct buf errors = {0};
    struct operator_set *set =
        parse("# one of each kind\r\n"
              "[alfa]\n"
              "kind = http\n"
              "url = https://api.example.com:8443/sms/%{to:digits}?k=\n"
              "  %{secret:KEY:url}\n"
              "header = Content-Type: application/x-www-form-urlencoded\n"
              "header = X-Ref: %{reference}\n"
              "basic = user:%{secret:KEY}\n"
              "from = My Shop\n"
              "body = from=%{from:url}&\n"
              " text=%{text:url}\n"
              "accepted = status in 200-299\n"
              " and json:ok == true\n"
              "unfit.credit = json:code == 9\n"
              "rejected = status == 400\n"
              "id = json:id\n"
              "lookup.url = https://api.example.com:8443/ask?r=%{reference}\n"
              "lookup.found = status == 200\n"
              "timeout_ms = 500\n"
              "tps = 20\n"
              "[beta]\n"
              "kind = native\n"
              "url = http://127.0.0.1:9001/x//\n"
              "can_lookup = false\n",
              &errors);
    const struct operator_config *op;

    ck_assert_msg(set != NULL, "%s", errors.data);
    ck_assert_uint_eq(set->n, 2);
    op = set->all[0];
    ck_assert_str_eq(op->name, "alfa");
    ck_assert_int_eq(op->kind, OPERATOR_HTTP);
    ck_assert_str_eq(op->url, "https://api.example.com:8443");
    check_template(&op->submit.target, "/sms/4479?k=s3cr%26t");
    check_template(&op->submit.head, "Content-Type: application/x-www-form-urlencoded\r\n"
                                     "X-Ref: 018f-3\r\n"
                                     "Authorization: Basic dXNlcjpzM2NyJnQ=\r\n");
    check_template(&op->submit.body, "from=My%20Shop&text=a%26b");
    ck_assert_str_eq(op->submit.method, "POST");
    ck_assert_str_eq(op->lookup.method, "GET");
    check_template(&op->lookup.target, "/ask?r=018f-3");
    ck_assert_uint_eq(op->rule_count, 3);
    ck_assert_int_eq(op->rules[1].verdict, VERDICT_UNFIT);
    ck_assert_int_eq(op->rules[1].unfit, UNFIT_CREDIT);
    ck_assert_int_eq(op->rules[2].verdict, VERDICT_REJECTED);
    ck_assert(op->gives_id && op->id && !op->cost);
    ck_assert(op->properties.can_lookup && !op->properties.repeat_is_safe);
    ck_assert_int_eq(op->properties.timeout_ms, 500);
    ck_assert_int_eq(op->properties.tries, -1);
    ck_assert_int_eq(op->properties.tps, 20);
    op = set->all[1];
    ck_assert_int_eq(op->kind, OPERATOR_NATIVE);
    ck_assert_str_eq(op->url, "http://127.0.0.1:9001/x");
    ck_assert(!op->properties.can_lookup && op->properties.repeat_is_safe);
    ck_assert_ptr_eq(operator_set_find(set, "beta", 4), op);
    ck_assert_ptr_null(operator_set_find(set, "bet", 3));
    operator_set_drop(set);
    buf_free(&errors);
}
END_TEST

#define NATIVE "[a]\nkind = native\nurl = http://a\n"
#define HTTP "[a]\nkind = http\nurl = http://a/\nid = json:id\n"

/* A text, and the faults that it has: each a line. */
static const struct {
    const char *text, *faults;
} wrong[] = {
    {"", "f.ini: names no operator"},
    {"x = 1\n" NATIVE, "f.ini:1: stands before the first [section]"},
    {NATIVE "nonsense\n", "f.ini:4: neither [section] nor key = value"},
    {NATIVE "url: x\n", "f.ini:4: neither"},
    {NATIVE "[b] x\n", "f.ini:4: a section is [name]"},
    {NATIVE "colour = red\n", "f.ini:4: unknown key colour"},
    {NATIVE "url = http://b\n", "f.ini:4: a second url"},
    {NATIVE "tries =\n", "f.ini:4: tries has no value"},
    {NATIVE "tries = 3 \n", "f.ini:4: the blanks at its end would be cut"},
    {NATIVE "tries = 3 ; three\n", "f.ini:4: a blank and a semicolon begin a comment"},
    {NATIVE "tries = 3\n # x\n", "f.ini:5: would be taken for a comment"},
    {NATIVE "tries = 3x\n", "f.ini:4: tries must be a whole number from 1 to 20"},
    {NATIVE "tries = 21\n", "f.ini:4: tries must be"},
    {NATIVE "can_lookup = perhaps\n", "f.ini:4: can_lookup must be true or false"},
    {NATIVE "body = x\n", "f.ini:4: body is no key of kind native"},
    {"[a]\nkind = smoke\nurl = http://a\n", "f.ini:2: kind must be native or http"},
    {"[a]\nurl = http://a\n", "f.ini:1: the section needs kind"},
    {"[a]\nkind = native\n", "f.ini:1: [a] needs url"},
    {"[a]\nkind = native\nurl = ftp://a\n", "f.ini:3: url must be http:// or https://"},
    {"[a b]\nkind = native\nurl = http://a\n", "f.ini:1: an operator's name has"},
    {NATIVE NATIVE, "f.ini:4: there is another operator of that name"},
    {" x\n" NATIVE, "f.ini:1: begins with a blank, and there is no value that could go on"},
    {NATIVE "\x01\n", "f.ini:4: a control character"},
    {HTTP "url = x\n", "f.ini:5: a second url"},
    {"[a]\nkind = http\nurl = http://a?x\nid = json:id\n", "f.ini:3: url needs a path"},
    {"[a]\nkind = http\nurl = http://u:p@a/\nid = json:id\n", "f.ini:3: url "},
    {"[a]\nkind = http\nurl = http://%{to:digits}/\nid = json:id\n",
     "f.ini:3: url has %{to} where"},
    {"[a]\nkind = http\nurl = http://a/?k=%{secret:GONE:url}\nid = json:id\n",
     "f.ini:3: url needs GONE, which is set nowhere"},
    {"[a]\nkind = http\nurl = http://a/?t=%{text}\nid = json:id\n",
     "f.ini:3: url has %{text} where it has to be %{text:url}"},
    {"[a]\nkind = http\nurl = http://a/\n", "f.ini:1: [a] needs id, or gives_id = false"},
    {HTTP "gives_id = false\naccepted = status == 202\n", "f.ini:1: [a] has both id and gives_id"},
    {"[a]\nkind = http\nurl = http://a/\ngives_id = false\n", "f.ini:1: [a] needs a rule accepted"},
    {HTTP "body = x\n", "f.ini:5: body needs a header Content-Type"},
    {HTTP "header = Content-Type: text/plain\nbody = %{text}\n", "f.ini:6: body has %{text} where"},
    {HTTP "header = Content-Type: application/json\nbody = {\"t\":%{text:json}}\n",
     "f.ini:6: body is no JSON once its values are filled in"},
    {HTTP "header = Content-Length: 3\n", "f.ini:5: header is one that every request has"},
    {HTTP "header = no colon\n", "f.ini:5: header must be Name: value"},
    {HTTP "method = DELETE\n", "f.ini:5: method must be GET, POST or PUT"},
    {HTTP "method = GET\nheader = Content-Type: a/b\nbody = x\n", "f.ini:5: method must not be"},
    {HTTP "basic = x\n", "f.ini:5: basic must be user:password"},
    {HTTP "bearer = %{text:url}\n", "f.ini:5: bearer must be the same"},
    {HTTP "basic = a:b\nbearer = x\n", "f.ini:1: [a] has both basic and bearer"},
    {HTTP "accepted = status\n", "f.ini:5: accepted has a test without"},
    {HTTP "cost = x\n", "f.ini:5: cost must be json:PATH or body:REGEX"},
    {HTTP "remaining_low = 5\n", "f.ini:1: [a] has remaining_low, and no remaining"},
    {HTTP "remaining = json:left\nremaining_low = 0\n", "f.ini:6: remaining_low must be a whole"},
    {HTTP "can_lookup = true\n", "f.ini:1: [a] has can_lookup = true, and no lookup.url"},
    {HTTP "lookup.found = status == 200\n", "f.ini:1: [a] has keys lookup.*, and no lookup.url"},
    {HTTP "lookup.url = http://a/x\n", "f.ini:1: [a] needs a rule lookup.found"},
    {HTTP "lookup.url = http://b/x\nlookup.found = status == 200\n",
     "f.ini:5: lookup.url must be at the same host as url"},
};

START_TEST(faults_have_line_and_reason)
{
    struct buf errors = {0};
    struct operator_set *set = parse(wrong[_i].text, &errors);

    ck_assert_msg(set == NULL, "%s", wrong[_i].text);
    ck_assert_msg(!strncmp(errors.data, wrong[_i].faults, strlen(wrong[_i].faults)),
                  "%s: %s, not %s", wrong[_i].text, errors.data, wrong[_i].faults);
    buf_free(&errors);
}
END_TEST

START_TEST(every_fault_is_told_at_once)
{
    struct buf errors = {0};

    ck_assert_ptr_null(parse("[a]\nkind = http\nurl = nowhere\ntries = x\ncolour = red\n"
                             "[b]\nkind = native\n",
                             &errors));
    ck_assert_ptr_nonnull(strstr(errors.data, "f.ini:3: url"));
    ck_assert_ptr_nonnull(strstr(errors.data, "f.ini:4: tries"));
    ck_assert_ptr_nonnull(strstr(errors.data, "f.ini:5: unknown key colour"));
    ck_assert_ptr_nonnull(strstr(errors.data, "f.ini:1: [a] needs id"));
    ck_assert_ptr_nonnull(strstr(errors.data, "f.ini:6: [b] needs url"));
    buf_free(&errors);
}
END_TEST

/* libinih takes lines of 200 bytes or so: the rest would be a line of its own. */
START_TEST(what_the_parser_would_cut_is_a_fault)
{
    struct buf text = {0};
    struct buf errors = {0};
    struct operator_set *set;
    size_t longest = 0;

    for (size_t n = 150; n < 260; n++) {
        buf_reset(&text);
        buf_reset(&errors);
        buf_puts(&text, NATIVE "#");
        for (size_t i = 0; i < 300; i++)
            buf_putc(&text, 'c'); /* a comment may be long */
        buf_puts(&text, "\n[b]\nkind = http\nid = json:id\nurl = http://a/");
        for (size_t i = 0; i < n - 15; i++)
            buf_putc(&text, 'x');
        buf_puts(&text, "y\n");
        set = parse(text.data, &errors);
        if (!set) {
            ck_assert_ptr_nonnull(strstr(errors.data, "f.ini:8: longer than"));
            continue;
        }
        longest = n;
        ck_assert_uint_eq(errors.len, 0);
        buf_reset(&errors);
        operator_template_put(&set->all[1]->submit.target, &values, &errors);
        ck_assert_uint_eq(errors.len, n - 13);
        ck_assert_int_eq(errors.data[errors.len - 1], 'y');
        operator_set_drop(set);
    }
    ck_assert_uint_gt(longest, 150);
    ck_assert_uint_lt(longest, 259);
    buf_free(&text);
    buf_free(&errors);
}
END_TEST

START_TEST(the_last_line_may_end_with_the_file)
{
    struct buf errors = {0};
    struct operator_set *set = parse("\xef\xbb\xbf[a]\nkind=native\nurl=http://a", &errors);

    ck_assert_msg(set != NULL, "%s", errors.data);
    ck_assert_str_eq(set->all[0]->url, "http://a");
    operator_set_drop(set);
}
END_TEST

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");

    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
}

START_TEST(a_folder_is_read_in_the_order_of_names)
{
    char folder[] = "/tmp/test_operator_file.XXXXXX";
    struct buf path = {0}, errors = {0};
    struct operator_set *set;
    size_t faults;

    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_ptr_null(operator_set_read(folder, &how, &errors, &faults));
    ck_assert_ptr_nonnull(strstr(errors.data, "has no *.ini in it"));
    for (const char *name = "cab"; *name; name++) {
        char text[64];

        buf_reset(&path);
        buf_printf(&path, "%s/%c.ini", folder, *name);
        snprintf(text, sizeof(text), "[%c]\nkind = native\nurl = http://%c\n", *name, *name);
        write_file(path.data, text);
    }
    buf_reset(&path);
    buf_printf(&path, "%s/d.ini.off", folder);
    write_file(path.data, "not read");
    buf_reset(&errors);
    set = operator_set_read(folder, &how, &errors, &faults);
    ck_assert_msg(set != NULL, "%s", errors.data);
    ck_assert_uint_eq(set->n, 3);
    for (size_t i = 0; i < 3; i++)
        ck_assert_int_eq(set->all[i]->name[0], "abc"[i]);
    operator_set_drop(set);
    unlink(path.data);
    for (const char *name = "abc"; *name; name++) {
        buf_reset(&path);
        buf_printf(&path, "%s/%c.ini", folder, *name);
        unlink(path.data);
    }
    rmdir(folder);
    ck_assert_ptr_null(operator_set_read(folder, &how, &errors, &faults));
    ck_assert_uint_eq(faults, 1);
    buf_free(&path);
    buf_free(&errors);
}
END_TEST

#define OTHER "[b]\nkind = native\nurl = http://b\n"
#define RECEIPTS                                                                     \
    "receipt.format = json\nreceipt.delivered = json:s == 1\nreceipt.id = json:id\n" \
    "receipt.undelivered = json:s == 2\nreceipt.secret = KEY1\n"
#define AS_NUMBERS(answer) "receipt.answer_id_form = " answer "\nreceipt.id_form = decimal\n"

static const struct {
    const char *before, *after;
    const char *why; /* "": it may */
} followers[] = {
    {NATIVE OTHER, "[a]\nkind = native\nurl = http://c\ntps = 3\n" OTHER, ""},
    {NATIVE OTHER, OTHER NATIVE, "[a] has another place in the order"},
    {NATIVE OTHER, NATIVE, "[b] is gone"},
    {NATIVE, NATIVE OTHER, "[b] is new"},
    {NATIVE OTHER, NATIVE "[c]\nkind = native\nurl = http://b\n", "[c] is new"},
    {NATIVE OTHER, HTTP OTHER, "[a] is of another kind"},
    {NATIVE OTHER, NATIVE OTHER RECEIPTS, "[b] gives receipts now"},
    {NATIVE RECEIPTS OTHER, NATIVE OTHER, "[a] gives no receipts any more"},
    {NATIVE RECEIPTS, NATIVE RECEIPTS AS_NUMBERS("decimal"),
     "[a] has another receipt.answer_id_form"},
    {NATIVE RECEIPTS AS_NUMBERS("decimal"), NATIVE RECEIPTS AS_NUMBERS("hexadecimal"),
     "[a] has another receipt.answer_id_form"},
    {NATIVE RECEIPTS, NATIVE RECEIPTS "receipt.interim = json:s == 3\n", ""},
};

START_TEST(a_set_may_follow_one_that_others_rely_on)
{
    struct buf errors = {0};
    struct operator_set *before = parse(followers[_i].before, &errors);
    struct operator_set *after = parse(followers[_i].after, &errors);
    char why[OPERATOR_WHY_SIZE] = "";
    size_t n = strlen(followers[_i].why);

    ck_assert_int_eq(operator_set_may_follow(before, after, why, sizeof(why)), !n);
    ck_assert_msg(!strncmp(why, followers[_i].why, n), "%s: %s", followers[_i].why, why);
    ck_assert_str_eq(why + n, n ? ": that takes a restart" : "");
    operator_set_drop(before);
    operator_set_drop(after);
}
END_TEST

START_TEST(secrets_are_found_and_wiped)
{
    char folder[] = "/tmp/test_operator_file.XXXXXX";
    struct buf path = {0}, value = {0};
    char why[200] = "";

    ck_assert_ptr_nonnull(mkdtemp(folder));
    setenv("OPERATOR_TEST_ONE", "1st", 1);
    for (int i = 0; i < 2; i++) { /* the second time from memory */
        buf_reset(&value);
        ck_assert(operator_secret_get("OPERATOR_TEST_ONE", &value, why, sizeof(why)));
        ck_assert_str_eq(value.data, "1st");
        ck_assert_str_eq(getenv("OPERATOR_TEST_ONE"), "");
    }
    ck_assert(!operator_secret_get("OPERATOR_TEST_TWO", &value, why, sizeof(why)));
    ck_assert_ptr_nonnull(strstr(why, "OPERATOR_TEST_TWO_FILE"));
    buf_printf(&path, "%s/secret_OPERATOR_TEST_TWO", folder);
    write_file(path.data, "2nd\n");
    setenv("CREDENTIALS_DIRECTORY", folder, 1);
    buf_reset(&value);
    ck_assert(operator_secret_get("OPERATOR_TEST_TWO", &value, why, sizeof(why)));
    ck_assert_str_eq(value.data, "2nd");
    unsetenv("CREDENTIALS_DIRECTORY");
    setenv("OPERATOR_TEST_TWO_FILE", path.data, 1);
    write_file(path.data, "3rd\r\n");
    buf_reset(&value);
    ck_assert(operator_secret_get("OPERATOR_TEST_TWO", &value, why, sizeof(why)));
    ck_assert_str_eq(value.data, "3rd");
    write_file(path.data, "\n");
    ck_assert(!operator_secret_get("OPERATOR_TEST_TWO", &value, why, sizeof(why)));
    unlink(path.data);
    ck_assert(!operator_secret_get("OPERATOR_TEST_TWO", &value, why, sizeof(why)));
    rmdir(folder);
    buf_free(&path);
    buf_free(&value);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("operator_file");
    TCase *tc = tcase_create("all");

    tcase_add_test(tc, a_section_is_an_operator);
    tcase_add_loop_test(tc, faults_have_line_and_reason, 0, sizeof(wrong) / sizeof(wrong[0]));
    tcase_add_test(tc, every_fault_is_told_at_once);
    tcase_add_test(tc, what_the_parser_would_cut_is_a_fault);
    tcase_add_test(tc, the_last_line_may_end_with_the_file);
    tcase_add_test(tc, a_folder_is_read_in_the_order_of_names);
    tcase_add_loop_test(tc, a_set_may_follow_one_that_others_rely_on, 0,
                        sizeof(followers) / sizeof(followers[0]));
    tcase_add_test(tc, secrets_are_found_and_wiped);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
