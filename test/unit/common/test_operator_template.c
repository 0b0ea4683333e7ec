#include "libcommon/domain/operator_template.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/domain/gsm7.h"
#include "test/unit/suite.h"

static bool secret(const char *name, struct buf *out, char *why, size_t size)
{
    if (!strcmp(name, "KEY")) {
        buf_puts(out, "k&y\"<1>");
        return true;
    }
    if (!strcmp(name, "BROKEN")) {
        buf_puts(out, "a\r\nX: y");
        return true;
    }
    snprintf(why, size, "is set nowhere");
    return false;
}

static const struct operator_words words = {.from = "My Shop", .secret = secret};
static const struct operator_values values = {
    .text = "a \"b\" & <c>\n\xc3\xa9",
    .text_len = 14,
    .to = "+4479",
    .reference = "018f-3",
    .type = "express",
    .receipt_url = "https://x/y?reference=018f-3.ab&z=1",
    .signed_reference = "018f-3.ab",
};

static const struct {
    enum operator_place place;
    const char *text, *expected; /* NULL: refused */
} cases[] = {
    {OPERATOR_IN_FORM, "t=%{text:url}&r=%{reference}",
     "t=a%20%22b%22%20%26%20%3Cc%3E%0A%C3%A9&r=018f-3"},
    {OPERATOR_IN_JSON, "{\"t\":\"%{text:json}\"}", "{\"t\":\"a \\\"b\\\" & <c>\\n\xc3\xa9\"}"},
    {OPERATOR_IN_XML, "<t a=\"%{text:xml}\"/>",
     "<t a=\"a &#34;b&#34; &#38; &#60;c&#62;&#10;\xc3\xa9\"/>"},
    {OPERATOR_IN_PLAIN, "%{text:raw}", "a \"b\" & <c>\n\xc3\xa9"},
    {OPERATOR_IN_URL, "/to/%{to:digits}?p=%{to:plus:url}&q=%{to:url}",
     "/to/4479?p=%2B4479&q=%2B4479"},
    {OPERATOR_IN_JSON, "%{to} %{to:plus} %{to:digits} %{type} %{signed_reference}",
     "+4479 +4479 4479 express 018f-3.ab"},
    {OPERATOR_IN_FORM, "f=%{from:url}&k=%{secret:KEY:url}", "f=My%20Shop&k=k%26y%22%3C1%3E"},
    {OPERATOR_IN_HEADER, "App %{secret:KEY}", "App k&y\"<1>"},
    {OPERATOR_IN_JSON, "%{secret:KEY:json}", "k&y\\\"<1>"},
    {OPERATOR_IN_URL, "/x?d=%{receipt_url:url}%26s%3D%25d",
     "/x?d=https%3A%2F%2Fx%2Fy%3Freference%3D018f-3.ab%26z%3D1%26s%3D%25d"},
    {OPERATOR_IN_FORM, "c=%{alphabet:0:2}", "c=0"},
    {OPERATOR_IN_PLAIN, "100%% %%{text} %", "100%% %{text} %"},
    {OPERATOR_IN_PLAIN, "", ""},
    /* refused: it could break out */
    {OPERATOR_IN_FORM, "%{text}", NULL},
    {OPERATOR_IN_FORM, "%{text:json}", NULL},
    {OPERATOR_IN_JSON, "%{text:xml}", NULL},
    {OPERATOR_IN_JSON, "%{text:raw}", NULL},
    {OPERATOR_IN_XML, "%{text:json}", NULL},
    {OPERATOR_IN_HEADER, "%{text}", NULL},
    {OPERATOR_IN_HEADER, "%{text:raw}", NULL},
    {OPERATOR_IN_PLAIN, "%{text}", NULL},
    {OPERATOR_IN_URL, "%{to}", NULL},
    {OPERATOR_IN_FORM, "%{to:plus}", NULL},
    {OPERATOR_IN_FORM, "%{from}", NULL},
    {OPERATOR_IN_FORM, "%{secret:KEY}", NULL},
    {OPERATOR_IN_HOST, "%{to:digits}", NULL},
    {OPERATOR_IN_HOST, "%{secret:KEY:host}", NULL},
    {OPERATOR_IN_HEADER, "%{secret:BROKEN}", NULL},
    {OPERATOR_IN_URL, "/a b", NULL},
    {OPERATOR_IN_HEADER, "a\nb", NULL},
    /* refused: nothing that we know */
    {OPERATOR_IN_PLAIN, "%{nothing}", NULL},
    {OPERATOR_IN_PLAIN, "%{}", NULL},
    {OPERATOR_IN_PLAIN, "%{text:raw", NULL},
    {OPERATOR_IN_PLAIN, "%{text:base}", NULL},
    {OPERATOR_IN_PLAIN, "%{text:digits:raw}", NULL},
    {OPERATOR_IN_PLAIN, "%{to:url:digits}", NULL},
    {OPERATOR_IN_PLAIN, "%{text:url:json}", NULL},
    {OPERATOR_IN_PLAIN, "%{secret}", NULL},
    {OPERATOR_IN_PLAIN, "%{secret:a-b:raw}", NULL},
    {OPERATOR_IN_PLAIN, "%{secret:NONE:raw}", NULL},
    {OPERATOR_IN_PLAIN, "%{alphabet:0}", NULL},
    {OPERATOR_IN_PLAIN, "%{alphabet:0:&}", NULL},
};

START_TEST(values_stay_in_their_places)
{
    struct operator_template t;
    struct buf out = {0};
    char why[256] = "";
    bool ok =
        operator_template_compile(&t, cases[_i].text, cases[_i].place, &words, why, sizeof(why));

    ck_assert_msg(ok == (cases[_i].expected != NULL), "%s: %s", cases[_i].text, why);
    if (!ok) {
        ck_assert_str_ne(why, "");
        ck_assert_msg(!strstr(why, "k&y"), "%s", why);
        return;
    }
    operator_template_put(&t, &values, &out);
    ck_assert_str_eq(out.data ? out.data : "", cases[_i].expected);
    operator_template_free(&t);
    buf_free(&out);
}
END_TEST

START_TEST(what_xml_cannot_hold_is_replaced)
{
    struct operator_values v = values;
    struct operator_template t;
    struct buf out = {0};
    char why[256];

    v.text = "\x01\xef\xbf\xbf\xc3";
    v.text_len = 5;
    ck_assert(
        operator_template_compile(&t, "%{text:xml}", OPERATOR_IN_XML, &words, why, sizeof(why)));
    operator_template_put(&t, &v, &out);
    ck_assert_str_eq(out.data, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    operator_template_free(&t);
    buf_free(&out);
}
END_TEST

START_TEST(secrets_are_not_shown)
{
    struct operator_template t;
    struct buf out = {0};
    char why[256];

    ck_assert(operator_template_compile(&t, "k=%{secret:KEY:url}&to=%{to:digits}", OPERATOR_IN_FORM,
                                        &words, why, sizeof(why)));
    operator_template_show(&t, &values, &out);
    ck_assert_str_eq(out.data, "k=***&to=4479");
    ck_assert(operator_template_uses(&t, "to") && !operator_template_uses(&t, "text"));
    ck_assert(!operator_template_is_constant(&t));
    operator_template_free(&t);
    buf_free(&out);
}
END_TEST

START_TEST(secrets_of_another_part_are_not_asked_for)
{
    const struct operator_words none = {.from = NULL, .secret = NULL};
    struct operator_template t;
    char why[256];

    ck_assert(operator_template_compile(&t, "%{secret:NONE:url}", OPERATOR_IN_FORM, &none, why,
                                        sizeof(why)));
    operator_template_free(&t);
    ck_assert(
        !operator_template_compile(&t, "%{from:url}", OPERATOR_IN_FORM, &none, why, sizeof(why)));
}
END_TEST

START_TEST(the_alphabet_follows_the_text)
{
    static const char *const sevens[] = {"", "Hello, 1{2}~[\\]|^\xe2\x82\xac\n",
                                         "\xc3\xa4\xc3\xb6\xc3\xbc\xce\xa9"};
    static const char *const sixteens[] = {
        "`", "\t", "\xd0\xb0", "\xe2\x80\x99", "\xf0\x9f\x98\x80", "\xff", "\xc3\xa7"};

    for (size_t i = 0; i < sizeof(sevens) / sizeof(sevens[0]); i++)
        ck_assert_msg(gsm7_holds(sevens[i], strlen(sevens[i])), "%zu", i);
    for (size_t i = 0; i < sizeof(sixteens) / sizeof(sixteens[0]); i++)
        ck_assert_msg(!gsm7_holds(sixteens[i], strlen(sixteens[i])), "%zu", i);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("operator_template");
    TCase *tc = tcase_create("all");

    tcase_add_loop_test(tc, values_stay_in_their_places, 0, sizeof(cases) / sizeof(cases[0]));
    tcase_add_test(tc, what_xml_cannot_hold_is_replaced);
    tcase_add_test(tc, secrets_are_not_shown);
    tcase_add_test(tc, secrets_of_another_part_are_not_asked_for);
    tcase_add_test(tc, the_alphabet_follows_the_text);
    suite_add_tcase(suite, tc);
    return suite_run(suite);
}
