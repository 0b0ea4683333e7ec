#include <check.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/net/otlp_internal.h"
#include "libcommon/otlp.pb-c.h"
#include "test/unit/suite.h"

static uint8_t packed[512];

static size_t pack_partial(int64_t rejected, char *message)
{
    Otlp__ExportTracePartialSuccess partial;
    Otlp__ExportTraceServiceResponse r;

    otlp__export_trace_partial_success__init(&partial);
    otlp__export_trace_service_response__init(&r);
    partial.rejected_spans = rejected;
    partial.error_message = message;
    r.partial_success = &partial;
    return otlp__export_trace_service_response__pack(&r, packed);
}

static char words[] = "too old\n";
static char type[] = "type.googleapis.com/google.rpc.RetryInfo";

static const struct {
    long status;
    enum otlp_verdict verdict;
} statuses[] = {
    {200, OTLP_TAKEN},   {202, OTLP_TAKEN},   {301, OTLP_REFUSED}, {400, OTLP_REFUSED},
    {401, OTLP_REFUSED}, {404, OTLP_REFUSED}, {413, OTLP_REFUSED}, {429, OTLP_RETRY},
    {500, OTLP_REFUSED}, {501, OTLP_REFUSED}, {502, OTLP_RETRY},   {503, OTLP_RETRY},
    {504, OTLP_RETRY},
};

START_TEST(http_statuses)
{
    struct otlp_answer a;

    otlp_judge_http(statuses[_i].status, "\xff\xff\xff garbage", 11, &a);
    ck_assert_int_eq((int)a.verdict, (int)statuses[_i].verdict);
    ck_assert_uint_eq(a.rejected, 0);
    ck_assert_int_eq(a.wait_ms, -1);
}
END_TEST

START_TEST(partial_success_counts_and_says_why)
{
    struct otlp_answer a;

    otlp_judge_http(200, packed, pack_partial(7, words), &a);
    ck_assert_int_eq((int)a.verdict, OTLP_TAKEN);
    ck_assert_uint_eq(a.rejected, 7);
    ck_assert_str_eq(a.why, "too old?");
    otlp_judge_http(200, packed, pack_partial(-7, words), &a);
    ck_assert_uint_eq(a.rejected, 0);
}
END_TEST

START_TEST(an_http_error_says_why)
{
    Otlp__RpcStatus s;
    struct otlp_answer a;

    otlp__rpc_status__init(&s);
    s.message = words;
    otlp_judge_http(400, packed, otlp__rpc_status__pack(&s, packed), &a);
    ck_assert_str_eq(a.why, "HTTP status 400: too old?");
}
END_TEST

/* ---- gRPC ---- */

static const enum otlp_verdict codes[17] = {
    [0] = OTLP_TAKEN,    [1] = OTLP_RETRY,    [2] = OTLP_REFUSED, [3] = OTLP_REFUSED,
    [4] = OTLP_RETRY,    [5] = OTLP_REFUSED,  [6] = OTLP_REFUSED, [7] = OTLP_REFUSED,
    [8] = OTLP_REFUSED,  [9] = OTLP_REFUSED,  [10] = OTLP_RETRY,  [11] = OTLP_RETRY,
    [12] = OTLP_REFUSED, [13] = OTLP_REFUSED, [14] = OTLP_RETRY,  [15] = OTLP_RETRY,
    [16] = OTLP_REFUSED};

START_TEST(grpc_codes)
{
    struct otlp_grpc_status g = {.code = _i};
    struct otlp_answer a;

    otlp_judge_grpc(200, &g, NULL, 0, &a);
    ck_assert_int_eq((int)a.verdict, (int)codes[_i]);
}
END_TEST

START_TEST(without_a_grpc_status_the_http_one_counts)
{
    struct otlp_grpc_status g = {.code = -1};
    struct otlp_answer a;

    otlp_judge_grpc(200, &g, NULL, 0, &a);
    ck_assert_int_eq((int)a.verdict, OTLP_REFUSED);
    otlp_judge_grpc(503, &g, NULL, 0, &a);
    ck_assert_int_eq((int)a.verdict, OTLP_RETRY);
    otlp_judge_grpc(404, &g, NULL, 0, &a);
    ck_assert_int_eq((int)a.verdict, OTLP_REFUSED);
}
END_TEST

START_TEST(a_grpc_answer_is_a_frame)
{
    struct otlp_grpc_status g = {.code = 0};
    struct otlp_answer a;
    uint8_t frame[600] = {0};
    size_t n = pack_partial(3, words);

    memcpy(frame + 5, packed, n);
    frame[4] = (uint8_t)n;
    otlp_judge_grpc(200, &g, frame, n + 5, &a);
    ck_assert_int_eq((int)a.verdict, OTLP_TAKEN);
    ck_assert_uint_eq(a.rejected, 3);
    frame[0] = 1; /* compressed, which we never asked for */
    otlp_judge_grpc(200, &g, frame, n + 5, &a);
    ck_assert_int_eq((int)a.verdict, OTLP_TAKEN);
    ck_assert_uint_eq(a.rejected, 0);
}
END_TEST

static void put_details(struct otlp_grpc_status *g, int64_t sec, int32_t nanos, bool padded)
{
    Otlp__RetryDelay delay;
    Otlp__RetryInfo info;
    Otlp__RpcDetail detail;
    Otlp__RpcDetail *list[] = {&detail};
    Otlp__RpcStatus status;
    uint8_t inner[64];
    size_t n;

    otlp__retry_delay__init(&delay);
    otlp__retry_info__init(&info);
    otlp__rpc_detail__init(&detail);
    otlp__rpc_status__init(&status);
    delay.seconds = sec;
    delay.nanos = nanos;
    info.retry_delay = &delay;
    detail.type_url = type;
    detail.value.len = otlp__retry_info__pack(&info, inner);
    detail.value.data = inner;
    status.n_details = 1;
    status.details = list;
    n = otlp__rpc_status__pack(&status, packed);
    EVP_EncodeBlock((unsigned char *)g->details, packed, (int)n);
    if (!padded)
        g->details[strcspn(g->details, "=")] = '\0';
}

static const struct {
    int64_t sec;
    int32_t nanos;
    int64_t wait_ms;
} delays[] = {{0, 0, 0},   {2, 500000000, 2500}, {70000, 0, 70000000}, {INT64_MAX, 0, 86400000},
              {-5, -1, 0}, {0, -5000000, 0}};

START_TEST(retry_info_makes_exhaustion_pass)
{
    for (int padded = 0; padded < 2; padded++) {
        struct otlp_grpc_status g = {.code = 8};
        struct otlp_answer a;

        put_details(&g, delays[_i].sec, delays[_i].nanos, padded);
        otlp_judge_grpc(200, &g, NULL, 0, &a);
        ck_assert_int_eq((int)a.verdict, OTLP_RETRY);
        ck_assert_int_eq(a.wait_ms, delays[_i].wait_ms);
        g.code = 14;
        otlp_judge_grpc(200, &g, NULL, 0, &a);
        ck_assert_int_eq(a.wait_ms, delays[_i].wait_ms);
    }
}
END_TEST

static const char *const nonsense[] = {"",    "=",    "====",     "A",       "AA",
                                       "AAA", "@@@@", "////////", "CgASABoA"};

START_TEST(nonsense_in_details_is_no_retry_info)
{
    struct otlp_grpc_status g = {.code = 8};
    struct otlp_answer a;

    snprintf(g.details, sizeof(g.details), "%s", nonsense[_i]);
    otlp_judge_grpc(200, &g, NULL, 0, &a);
    ck_assert_int_eq((int)a.verdict, OTLP_REFUSED);
    memset(g.details, 'A', sizeof(g.details) - 1);
    otlp_judge_grpc(200, &g, NULL, 0, &a);
    ck_assert_int_eq((int)a.verdict, OTLP_REFUSED);
}
END_TEST

#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

int main(void)
{
    Suite *s = suite_create("otlp_judge");
    TCase *t = tcase_create("otlp_judge");

    tcase_add_loop_test(t, http_statuses, 0, COUNT(statuses));
    tcase_add_test(t, partial_success_counts_and_says_why);
    tcase_add_test(t, an_http_error_says_why);
    tcase_add_loop_test(t, grpc_codes, 0, 17);
    tcase_add_test(t, without_a_grpc_status_the_http_one_counts);
    tcase_add_test(t, a_grpc_answer_is_a_frame);
    tcase_add_loop_test(t, retry_info_makes_exhaustion_pass, 0, COUNT(delays));
    tcase_add_loop_test(t, nonsense_in_details_is_no_retry_info, 0, COUNT(nonsense));
    suite_add_tcase(s, t);
    return suite_run(s);
}
