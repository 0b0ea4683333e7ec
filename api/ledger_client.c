#include "api/ledger_client.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"

#define CONNECT_TIMEOUT_MS 2000L
#define TIMEOUT_MS 30000L
#define ANSWER_MAX (8u << 20)

struct ledger_client {
    CURL *easy;
    struct curl_slist *headers;
    struct buf base, url, answer;
};

static size_t on_answer(char *data, size_t one, size_t n, void *arg)
{
    struct buf *answer = arg;

    if (answer->len + one * n > ANSWER_MAX)
        return 0;
    buf_put(answer, data, one * n);
    return answer->failed ? 0 : one * n;
}

struct ledger_client *ledger_client_new(const char *base_url, size_t len)
{
    struct ledger_client *c = must_alloc(1, sizeof(*c));

    while (len && base_url[len - 1] == '/')
        len--;
    buf_put(&c->base, base_url, len);
    c->easy = curl_easy_init();
    MUST(c->easy);
    c->headers = curl_slist_append(NULL, "Content-Type: application/json");
    curl_easy_setopt(c->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->easy, CURLOPT_PROXY, "");
    curl_easy_setopt(c->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c->easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    curl_easy_setopt(c->easy, CURLOPT_TIMEOUT_MS, TIMEOUT_MS);
    curl_easy_setopt(c->easy, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(c->easy, CURLOPT_WRITEDATA, &c->answer);
    return c;
}

void ledger_client_free(struct ledger_client *c)
{
    if (!c)
        return;
    curl_easy_cleanup(c->easy);
    curl_slist_free_all(c->headers);
    buf_free(&c->base);
    buf_free(&c->url);
    buf_free(&c->answer);
    free(c);
}

/* Where the page after the one at cursor begins; -1: there is none; cursor itself: that cannot be.
 */
static int64_t next_of(const json_t *root, int64_t cursor)
{
    const char *next = json_string_value(json_object_get(root, "next_cursor"));
    int64_t at = next ? strtoll(next, NULL, 10) : -1;

    return next && at < cursor ? cursor : at;
}

json_t *ledger_page_read(const char *text, size_t n, int64_t *cursor)
{
    json_t *root = json_loadb(text, n, 0, NULL);
    int64_t next = next_of(root, *cursor);
    json_t *entries = NULL;

    if (json_is_array(json_object_get(root, "ledger")) && next != *cursor) {
        entries = json_incref(json_object_get(root, "ledger"));
        *cursor = next;
    }
    json_decref(root);
    return entries;
}

/* c->url is set. The entries of what is answered; NULL on failure. */
static json_t *exchange(struct ledger_client *c, int64_t *cursor, struct err *err)
{
    json_t *entries = NULL;
    long status = 0;
    CURLcode rc;

    if (c->url.failed) {
        err_set(err, ERR_RETRY, 0, "ledger: out of memory");
        return NULL;
    }
    buf_reset(&c->answer);
    curl_easy_setopt(c->easy, CURLOPT_URL, c->url.data);
    rc = curl_easy_perform(c->easy);
    if (rc) {
        err_set(err, ERR_RETRY, (unsigned)rc, "ledger: %s", curl_easy_strerror(rc));
        return NULL;
    }
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status == 200)
        entries = ledger_page_read(c->answer.len ? c->answer.data : "", c->answer.len, cursor);
    if (!entries)
        err_set(err, ERR_PERMANENT, (unsigned)status, "ledger: status %ld is no ledger's answer",
                status);
    return entries;
}

int ledger_client_find(struct ledger_client *c, const struct buf *body, json_t **entries,
                       struct err *err)
{
    int64_t cursor = 0; /* all at once */
    json_t *found;

    buf_reset(&c->url);
    buf_printf(&c->url, "%s/ledger/find", c->base.data);
    curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, c->headers);
    curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, body->data);
    curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE, (long)body->len);
    found = exchange(c, &cursor, err);
    if (!found)
        return -1;
    *entries = found;
    return 0;
}

int ledger_client_page(struct ledger_client *c, int64_t *cursor, json_t **entries, struct err *err)
{
    json_t *found;

    buf_reset(&c->url);
    buf_printf(&c->url, "%s/ledger?cursor=%lld", c->base.data, (long long)*cursor);
    curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, NULL);
    curl_easy_setopt(c->easy, CURLOPT_HTTPGET, 1L);
    found = exchange(c, cursor, err);
    if (!found)
        return -1;
    *entries = found;
    return 0;
}
