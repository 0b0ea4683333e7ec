#include "api/receipt_request.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "libcommon/domain/operator_file.h"
#include "libcommon/domain/receipt_address.h"
#include "test/unit/suite.h"

#define KEY "a key that is long enough"
#define MESSAGE "0192f3a1-7c3e-7b1a-9a51-3f0c2b7d9e10"

static struct operator_set *set;
static struct receipt_request request;
static struct receipt_reader reader;
static const char *headers[8][2];
static size_t header_count;
static char reference[RECEIPT_REFERENCE_SIZE];

static bool secret_of(const char *name, struct buf *out, char *why, size_t size)
{
    ck_assert_uint_gt(size, 0);
    *why = '\0';
    buf_puts(out, !strcmp(name, "TOKEN") ? "12345" : "s3cr3t");
    return true;
}

static const char *header_of(const void *arg, const char *name)
{
    (void)arg;
    for (size_t i = 0; i < header_count; i++)
        if (!strcasecmp(headers[i][0], name))
            return headers[i][1];
    return NULL;
}

static void give(const char *name, const char *value)
{
    headers[header_count][0] = name;
    headers[header_count++][1] = value;
}

/* An operator of kind native with these keys. */
static size_t read_file(const char *keys, struct buf *errors)
{
    static const struct operator_reading how = {.parts = OPERATOR_RECEIVING, .secret = secret_of};
    struct buf text = {0};
    size_t faults = 0;

    buf_printf(&text, "[alfa]\nkind = native\nurl = http://127.0.0.1:1\n%s", keys);
    set = operator_set_parse(text.data, text.len, "file", &how, errors, &faults);
    buf_free(&text);
    return faults;
}

static void use(const char *keys)
{
    struct buf errors = {0};

    operator_set_drop(set);
    free(reader.receipts);
    ck_assert_msg(read_file(keys, &errors) == 0, "%s", errors.data);
    reader = (struct receipt_reader){.rules = &set->all[0]->receipts,
                                     .operator_name = "alfa",
                                     .reference_key = KEY,
                                     .most = RECEIPT_BATCH_MAX};
}

static void setup(void)
{
    header_count = 0;
    request = (struct receipt_request){.peer = "192.0.2.7",
                                       .secret = "",
                                       .target = "/operators/alfa/receipts?x=1",
                                       .query = "",
                                       .body = "",
                                       .public_url = "https://sms.example.com",
                                       .header = header_of};
    ck_assert(receipt_reference_write(reference, KEY, "alfa", MESSAGE, 3));
}

static void teardown(void)
{
    operator_set_drop(set);
    set = NULL;
    free(reader.receipts);
    reader.receipts = NULL;
}

static void body(const char *text)
{
    request.body = text;
    request.body_len = strlen(text);
}

static enum receipt_reading read_it(void)
{
    free(reader.receipts);
    reader.receipts = NULL;
    reader.room = 0;
    return receipt_request_read(&reader, &request);
}

/* It is read, and there is no receipt in it but so many that are about nothing, or forged. */
static void has_none(size_t unreadable, size_t forged)
{
    ck_assert_int_eq(read_it(), RECEIPT_READ_OK);
    ck_assert_uint_eq(reader.n, 0);
    ck_assert_uint_eq(reader.unreadable, unreadable);
    ck_assert_uint_eq(reader.forged, forged);
}

static bool genuine(void)
{
    return receipt_request_is_genuine(reader.rules, &request);
}

#define RULES                                      \
    "receipt.delivered = json:status == DELIVRD\n" \
    "receipt.undelivered = json:status in UNDELIV, EXPIRED\n"
#define JSON "receipt.format = json\n" RULES
#define FROM "receipt.from = 192.0.2.0/24\n"

/* ---- who brings them ---- */

START_TEST(an_address_is_of_the_list)
{
    use(JSON FROM);
    ck_assert(genuine());
    request.peer = "192.0.3.7";
    ck_assert(!genuine());
    request.peer = "";
    ck_assert(!genuine());
}
END_TEST

START_TEST(a_secret_ends_the_path)
{
    use(JSON "receipt.secret = %{secret:PATH}\n");
    ck_assert(!genuine());
    request.secret = "s3cr3T";
    ck_assert(!genuine());
    request.secret = "s3cr3t";
    ck_assert(genuine());
    request.secret = "s3cr3t/";
    ck_assert(!genuine());
}
END_TEST

START_TEST(basic_credentials_are_whole)
{
    use(JSON "receipt.basic = user:%{secret:PASSWORD}\n");
    ck_assert(!genuine());
    give("Authorization", "Basic dXNlcjpzM2NyM3Q=");
    ck_assert(genuine());
    headers[0][1] = "Basic dXNlcjpzM2NyM3R4";
    ck_assert(!genuine());
    headers[0][1] = "Bearer dXNlcjpzM2NyM3Q=";
    ck_assert(!genuine());
}
END_TEST

START_TEST(all_that_is_asked_for_has_to_be_right)
{
    use(JSON FROM "receipt.secret = abc\n");
    ck_assert(!genuine());
    request.secret = "abc";
    ck_assert(genuine());
    request.peer = "203.0.113.1";
    ck_assert(!genuine());
}
END_TEST

static char signature[200];

static const char *sign(const EVP_MD *digest, const char *key, const char *text, bool base64)
{
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    HMAC(digest, key, (int)strlen(key), (const unsigned char *)text, strlen(text), bytes, &n);
    if (base64) {
        EVP_EncodeBlock((unsigned char *)signature, bytes, (int)n);
        return signature;
    }
    for (unsigned i = 0; i < n; i++)
        snprintf(signature + 2 * i, 3, "%02X", bytes[i]);
    return signature;
}

#define SIGNED                                     \
    JSON "receipt.signature = sha256\n"            \
         "receipt.signature_key = %{secret:KEY}\n" \
         "receipt.signature_header = X-Signature\n"

START_TEST(a_signature_is_over_the_body)
{
    use(SIGNED);
    body("{\"a\":1}");
    ck_assert(!genuine());
    give("X-Signature", sign(EVP_sha256(), "s3cr3t", "{\"a\":1}", false));
    ck_assert(genuine());
    body("{\"a\":2}");
    ck_assert(!genuine());
    headers[0][1] = "";
    ck_assert(!genuine());
}
END_TEST

START_TEST(a_signature_may_name_its_digest)
{
    char named[220];

    use(SIGNED);
    body("x");
    snprintf(named, sizeof(named), "sha256=%s", sign(EVP_sha256(), "s3cr3t", "x", false));
    give("X-Signature", named);
    ck_assert(genuine());
}
END_TEST

/* As one carrier signs: address and sorted fields; as another does: body and headers. */
START_TEST(a_signature_is_over_pieces)
{
    use("receipt.format = form\n" RULES "receipt.signature = sha1\n"
        "receipt.signature_key = %{secret:TOKEN}\nreceipt.signature_header = X-Twilio-Signature\n"
        "receipt.signature_form = base64\nreceipt.signature_of = url form\n");
    request.public_url = "https://mycompany.com";
    request.target = "/myapp.php?foo=1&bar=2";
    body("To=%2B18005551212&Digits=1234&Caller=%2B14158675310&From=%2B14158675310&"
         "CallSid=CA1234567890ABCDE");
    give("X-Twilio-Signature", "GvWf1cFY/Q7PnoempGyD5oXAezc=");
    ck_assert(genuine());
    use(SIGNED "receipt.signature_form = base64\n"
               "receipt.signature_of = body text:. header:X-Nonce text:. header:X-Time\n");
    body("{}");
    header_count = 0;
    give("X-Signature", sign(EVP_sha256(), "s3cr3t", "{}.n1.1700000000", true));
    ck_assert(!genuine());
    give("X-Nonce", "n1");
    give("X-Time", "1700000000");
    ck_assert(genuine());
}
END_TEST

/* ---- what they say ---- */

START_TEST(json_is_read)
{
    char text[300];

    use(JSON FROM "receipt.reference = json:ref\nreceipt.id = json:id\nreceipt.code = json:err\n"
                  "receipt.words = json:why\nreceipt.part = json:part\nreceipt.parts = last\n"
                  "receipt.reason = expired when json:status == EXPIRED\n"
                  "receipt.reason = unreachable when json:err == 7\n");
    snprintf(text, sizeof(text),
             "{\"status\":\"UNDELIV\",\"ref\":\"%s\",\"id\":17,\"err\":7,\"why\":\"a\\nb\","
             "\"part\":2}",
             reference);
    body(text);
    ck_assert_int_eq(read_it(), RECEIPT_READ_OK);
    ck_assert_uint_eq(reader.n, 1);
    ck_assert(!reader.receipts[0].delivered);
    ck_assert_str_eq(reader.receipts[0].operator_name, "alfa");
    ck_assert_str_eq(reader.receipts[0].message_id, MESSAGE);
    ck_assert_uint_eq(reader.receipts[0].position, 3);
    ck_assert_str_eq(reader.receipts[0].match_id, "17");
    ck_assert_str_eq(reader.receipts[0].code, "7");
    ck_assert_str_eq(reader.receipts[0].words, "a b");
    ck_assert_str_eq(reader.receipts[0].part, "2");
    ck_assert_str_eq(reader.receipts[0].reason, "unreachable");
    ck_assert_int_eq(reader.receipts[0].rule, RECEIPT_PARTS_LAST);
    body("{\"status\":\"DELIVRD\",\"id\":12345678901234567891,\"err\":-99999999999999999999}");
    ck_assert_int_eq(read_it(), RECEIPT_READ_OK);
    ck_assert_str_eq(reader.receipts[0].match_id, "12345678901234567891");
    ck_assert_str_eq(reader.receipts[0].code, "-99999999999999999999");
}
END_TEST

START_TEST(a_list_has_a_receipt_in_each_place)
{
    use(JSON FROM "receipt.each = results\nreceipt.id = json:id\n"
                  "receipt.interim = json:status == ENROUTE\n");
    body("{\"results\":[{\"status\":\"DELIVRD\",\"id\":\"a\"},{\"status\":\"ENROUTE\"},"
         "{\"status\":\"HUH\"},{\"status\":\"EXPIRED\",\"id\":\"b\"}]}");
    ck_assert_int_eq(read_it(), RECEIPT_READ_OK);
    ck_assert_uint_eq(reader.n, 2);
    ck_assert_uint_eq(reader.interim, 1);
    ck_assert_uint_eq(reader.unclear, 1);
    ck_assert(reader.receipts[0].delivered);
    ck_assert_str_eq(reader.receipts[1].reason, "failed");
    body("{\"results\":{}}");
    has_none(1, 0);
    body("{}");
    has_none(1, 0);
    body("{\"results\":");
    has_none(1, 0);
}
END_TEST

START_TEST(a_query_is_read_with_the_reference_in_the_address)
{
    char query[200];

    use("receipt.format = query\n"
        "receipt.delivered = json:status == 1\nreceipt.undelivered = json:status in 2, 16\n"
        "receipt.words = json:answer\n" FROM);
    snprintf(query, sizeof(query), "status=1&answer=id%%3A1+stat%%3ADELIVRD%%ff&ref=%s", reference);
    request.query = query;
    request.is_get = true;
    ck_assert_int_eq(read_it(), RECEIPT_READ_OK);
    ck_assert_uint_eq(reader.n, 1);
    ck_assert_str_eq(reader.receipts[0].message_id, MESSAGE);
    ck_assert_str_eq(reader.receipts[0].words, "id:1 stat:DELIVRD\xef\xbf\xbd");
}
END_TEST

START_TEST(a_form_is_read)
{
    char many[2 * RECEIPT_FIELDS_MAX + 3] = {0};

    use("receipt.format = form\n" RULES FROM "receipt.id = json:MessageSid\n");
    body("status=DELIVRD&MessageSid=SM%2B1&empty=&&flag");
    ck_assert_int_eq(read_it(), RECEIPT_READ_OK);
    ck_assert_str_eq(reader.receipts[0].match_id, "SM+1");
    body("status=DELIVRD&status=EXPIRED&MessageSid=1"); /* which one would it be? */
    has_none(0, 0);
    ck_assert_uint_eq(reader.unclear, 1);
    body("status=DELIVRD&MessageSid=1&tag=a&tag=b"); /* nobody asks */
    ck_assert_int_eq(read_it(), RECEIPT_READ_OK);
    ck_assert_str_eq(reader.receipts[0].match_id, "1");
    memset(many, '&', sizeof(many) - 1);
    for (size_t i = 0; i < sizeof(many) - 1; i += 2)
        many[i] = 'a';
    body(many);
    has_none(1, 0);
}
END_TEST

/* What a gateway fills in of a text in UCS-2, or in an alphabet of its own, is not what matters. */
START_TEST(words_are_read_as_far_as_they_can_be)
{
    char text[300];

    use("receipt.format = query\n"
        "receipt.delivered = json:d == 1\nreceipt.undelivered = json:d == 2\n"
        "receipt.reason = expired when json:a ~ \"stat:EXPIRED\"\nreceipt.words = json:a\n" FROM);
    snprintf(
        text, sizeof(text),
        "d=2&a=%%00s%%00t%%00a%%00t%%00:%%00E%%00X%%00P%%00I%%00R%%00E%%00D%%04%%16&%%00=1&ref="
        "%s",
        reference);
    request.query = text;
    request.is_get = true;
    ck_assert_int_eq(read_it(), RECEIPT_READ_OK);
    ck_assert_uint_eq(reader.n, 1);
    ck_assert_str_eq(reader.receipts[0].message_id, MESSAGE);
    ck_assert_str_eq(reader.receipts[0].words, "stat:EXPIRED  ");
    ck_assert_str_eq(reader.receipts[0].reason, "expired");
    use(JSON FROM "receipt.id = json:id\nreceipt.words = json:why\nreceipt.code = json:code\n");
    request.query = "";
    body(
        "{\"status\":\"DELIVRD\",\"id\":\"a\",\"why\":\"zugestellt f\xfcr\",\"code\":\"\\u0000\"}");
    ck_assert_int_eq(read_it(), RECEIPT_READ_OK);
    ck_assert_uint_eq(reader.n, 1);
    ck_assert_str_eq(reader.receipts[0].words, "zugestellt f?r");
    ck_assert_str_eq(reader.receipts[0].code, "");
}
END_TEST

/* An operator that is refused brings all of a list again, for ever. */
START_TEST(one_that_is_none_keeps_nothing_from_its_neighbours)
{
    use(JSON FROM "receipt.id = json:id\nreceipt.reference = json:ref\n");
    body("[{\"status\":\"DELIVRD\"},{\"status\":\"DELIVRD\",\"id\":\"a\"},7,"
         "{\"status\":\"EXPIRED\",\"ref\":\"a-1\"},{\"status\":\"EXPIRED\",\"id\":\"b\"}]");
    ck_assert_int_eq(read_it(), RECEIPT_READ_OK);
    ck_assert_uint_eq(reader.n, 2);
    ck_assert_str_eq(reader.receipts[0].match_id, "a");
    ck_assert_str_eq(reader.receipts[1].match_id, "b");
    ck_assert_uint_eq(reader.unreadable, 1);
    ck_assert_uint_eq(reader.unclear, 1);
    ck_assert_uint_eq(reader.forged, 1);
}
END_TEST

START_TEST(a_reference_that_is_none_of_ours_is_forged)
{
    char text[300];

    use(JSON FROM "receipt.reference = json:ref\nreceipt.id = json:id\n");
    snprintf(text, sizeof(text), "{\"status\":\"DELIVRD\",\"ref\":\"%s0\",\"id\":\"a\"}",
             reference);
    body(text);
    has_none(0, 1);
    snprintf(text, sizeof(text), "{\"status\":\"DELIVRD\",\"ref\":\"%s-3\"}", MESSAGE);
    body(text);
    has_none(0, 1);
    body("{\"status\":\"DELIVRD\"}");
    has_none(1, 0); /* about nothing */
    use(JSON "receipt.secret = abc\nreceipt.reference = json:ref\n"
             "receipt.reference_form = plain\n");
    snprintf(text, sizeof(text), "{\"status\":\"DELIVRD\",\"ref\":\"%s-3\"}", MESSAGE);
    body(text);
    ck_assert_int_eq(read_it(), RECEIPT_READ_OK);
    ck_assert_uint_eq(reader.receipts[0].position, 3);
}
END_TEST

/* Of an address that is for one recipient, and a request for several. */
START_TEST(a_reference_in_the_address_is_of_one_receipt)
{
    char query[200];

    use(JSON FROM "receipt.id = json:id\n");
    snprintf(query, sizeof(query), "ref=%s", reference);
    request.query = query;
    body("[{\"status\":\"DELIVRD\",\"id\":\"a\"},{\"status\":\"DELIVRD\",\"id\":\"b\"}]");
    ck_assert_int_eq(read_it(), RECEIPT_READ_OK);
    ck_assert_str_eq(reader.receipts[0].message_id, "");
    body("[{\"status\":\"DELIVRD\",\"id\":\"a\"}]");
    ck_assert_int_eq(read_it(), RECEIPT_READ_OK);
    ck_assert_str_eq(reader.receipts[0].message_id, MESSAGE);
}
END_TEST

static const struct {
    const char *answer_form, *form, *answered, *received;
    bool same;
} ids[] = {
    {"text", "text", "a-1", "a-1", true},
    {"text", "text", "a-1", "A-1", false},
    {"text", "text", "007", "7", false},
    {"hexadecimal", "decimal", "1F", "31", true},
    {"hexadecimal", "decimal", "0x1f", "0000000031", true},
    {"decimal", "hexadecimal", "31", "0001F", true},
    {"decimal", "decimal", "031", "31", true},
    {"hexadecimal", "hexadecimal", "DEADbeef", "deadBEEF", true},
    {"hexadecimal", "decimal", "1F", "32", false},
    {"decimal", "decimal", "18446744073709551616", "18446744073709551616", true}, /* as text */
    {"decimal", "decimal", "1-2", "1-2", true},
    {"hexadecimal", "decimal", "-1", "1", false},
};

START_TEST(identifiers_match_as_text_or_as_numbers)
{
    char keys[400];
    char answered[RECEIPT_MATCH_MAX + 1];
    char received[RECEIPT_MATCH_MAX + 1];

    snprintf(keys, sizeof(keys), JSON FROM "receipt.answer_id_form = %s\nreceipt.id_form = %s\n",
             ids[_i].answer_form, ids[_i].form);
    use(keys);
    operator_receipts_match_id(reader.rules, true, ids[_i].answered, answered);
    operator_receipts_match_id(reader.rules, false, ids[_i].received, received);
    ck_assert_msg(!strcmp(answered, received) == ids[_i].same, "%s and %s", answered, received);
}
END_TEST

static const struct {
    const char *keys, *fault;
} wrong[] = {
    {"receipt.format = xml\n" RULES FROM, "file:4: receipt.format must be json, form or query"},
    {"receipt.format = json\nreceipt.undelivered = json:a exists\n" FROM,
     "receipt.delivered is missing"},
    {JSON, "receipt.format needs one of"},
    {RULES FROM, "receipt.format is missing"},
    {JSON FROM "receipt.reason = sad when json:a == 1\n", "receipt.reason must be a reason"},
    {JSON FROM "receipt.reason = expired json:a == 1\n", "receipt.reason must be a reason"},
    {JSON "receipt.from = nowhere\n", "receipt.from "},
    {JSON "receipt.secret = a/b\n", "receipt.secret must be of letters"},
    {JSON "receipt.basic = %{secret:NAME}\n", "receipt.basic must be user:password"},
    {JSON "receipt.signature = md5\n", "receipt.signature must be sha1, sha256 or sha512"},
    {JSON "receipt.signature = sha256\n", "receipt.signature_key is missing"},
    {JSON FROM "receipt.signature_of = url\n", "receipt.signature is missing"},
    {SIGNED "receipt.signature_of = nothing\n", "receipt.signature_of must be up to"},
    {JSON FROM "receipt.id_form = decimal\n", "must both be text, or both be numbers"},
    {JSON FROM "receipt.reference_form = plain\n", "receipt.reference_form is plain"},
    {"receipt.format = form\nreceipt.each = a\n" RULES FROM,
     "receipt.each is for receipts in JSON"},
};

START_TEST(a_file_that_is_wrong_says_where)
{
    struct buf errors = {0};

    ck_assert_uint_gt(read_file(wrong[_i].keys, &errors), 0);
    ck_assert_msg(strstr(errors.data, wrong[_i].fault) != NULL, "%s", errors.data);
    ck_assert(!strstr(errors.data, "s3cr3t"));
    buf_free(&errors);
}
END_TEST

#define COUNT(table) ((int)(sizeof(table) / sizeof((table)[0])))

int main(void)
{
    Suite *s = suite_create("receipt_request");
    TCase *t = tcase_create("receipt_request");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, an_address_is_of_the_list);
    tcase_add_test(t, a_secret_ends_the_path);
    tcase_add_test(t, basic_credentials_are_whole);
    tcase_add_test(t, all_that_is_asked_for_has_to_be_right);
    tcase_add_test(t, a_signature_is_over_the_body);
    tcase_add_test(t, a_signature_may_name_its_digest);
    tcase_add_test(t, a_signature_is_over_pieces);
    tcase_add_test(t, json_is_read);
    tcase_add_test(t, a_list_has_a_receipt_in_each_place);
    tcase_add_test(t, a_query_is_read_with_the_reference_in_the_address);
    tcase_add_test(t, a_form_is_read);
    tcase_add_test(t, words_are_read_as_far_as_they_can_be);
    tcase_add_test(t, one_that_is_none_keeps_nothing_from_its_neighbours);
    tcase_add_test(t, a_reference_that_is_none_of_ours_is_forged);
    tcase_add_test(t, a_reference_in_the_address_is_of_one_receipt);
    tcase_add_loop_test(t, identifiers_match_as_text_or_as_numbers, 0, COUNT(ids));
    tcase_add_loop_test(t, a_file_that_is_wrong_says_where, 0, COUNT(wrong));
    suite_add_tcase(s, t);
    return suite_run(s);
}
