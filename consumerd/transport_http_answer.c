#include "consumerd/transport_http_answer.h"

#include <jansson.h>
#include <string.h>
#include <strings.h>

#define REST_DEFAULT_MS 1000 /* a 429 that says nothing we can use */
#define REST_MAX_SEC 86400

/* What an operator that has a message says of it. */
static const char *const words[] = {"accepted",   "queued",  "pending", "scheduled",
                                    "processing", "sending", "sent",    "delivered"};

static bool says_it_has_it(const json_t *status)
{
    const char *word = json_string_value(status);

    if (!status || json_is_null(status))
        return true;
    for (size_t i = 0; word && i < sizeof(words) / sizeof(words[0]); i++)
        if (!strcasecmp(word, words[i]))
            return true;
    return false;
}

static bool keep(const char *s, size_t n, char id[PROVIDER_ID_MAX + 1])
{
    if (!n || n > PROVIDER_ID_MAX)
        return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < ' ' || s[i] == '\x7f')
            return false;
    memcpy(id, s, n);
    id[n] = '\0';
    return true;
}

static const char *skip_blanks(const char *p, const char *end)
{
    while (p < end && strchr(" \t\r\n", *p))
        p++;
    return p;
}

/* p: behind the quote that opens a string; returns what follows the one that closes it. */
static const char *skip_string(const char *p, const char *end)
{
    while (p < end && *p != '"')
        p += *p == '\\' ? 2 : 1;
    return p + 1;
}

/* Where the value of "id" begins in the text of a JSON object; NULL: the name is written in another
 * way. jansson has read the text: it is well-formed. */
static const char *find_id(const char *p, const char *end)
{
    int depth = 0;

    while (p < end) {
        const char *name = p++;

        if (*name == '{' || *name == '[') {
            depth++;
        } else if (*name == '}' || *name == ']') {
            depth--;
        } else if (*name == '"') {
            p = skip_string(p, end);
            if (depth != 1 || p - name != 4 || memcmp(name, "\"id\"", 4) != 0)
                continue;
            p = skip_blanks(p, end);
            if (p < end && *p == ':') /* else it is a value */
                return skip_blanks(p + 1, end);
        }
    }
    return NULL;
}

/* A number's digits as they stand in the text: it may be longer than any integer type. */
static bool keep_integer(const char *body, size_t n, char id[PROVIDER_ID_MAX + 1])
{
    const char *end = body + n;
    const char *from = find_id(body, end);
    const char *p = from;

    if (!p)
        return false;
    p += *p == '-';
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    if (p < end && strchr(".eE", *p))
        return false;
    return keep(from, (size_t)(p - from), id);
}

static bool has_it(const char *body, size_t n, char id[PROVIDER_ID_MAX + 1])
{
    json_t *root =
        body ? json_loadb(body, n, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, NULL) : NULL;
    const json_t *value = json_object_get(root, "id");
    bool kept = false;

    if (!says_it_has_it(json_object_get(root, "status")))
        kept = false;
    else if (json_is_string(value))
        kept = keep(json_string_value(value), json_string_length(value), id);
    else if (json_is_real(value))
        kept = keep_integer(body, n, id);
    json_decref(root);
    return kept;
}

enum verdict http_answer_to_post(long status, const char *body, size_t n,
                                 char id[PROVIDER_ID_MAX + 1], enum unfit *unfit)
{
    enum verdict verdict = verdict_of_status((int)status, unfit);

    id[0] = '\0';
    if (status >= 200 && status < 300)
        return has_it(body, n, id) ? VERDICT_ACCEPTED : VERDICT_UNKNOWN;
    return verdict;
}

enum lookup_answer http_answer_to_get(long status, const char *body, size_t n,
                                      char id[PROVIDER_ID_MAX + 1])
{
    id[0] = '\0';
    if (status == 404)
        return LOOKUP_NOT_FOUND;
    return status == 200 && has_it(body, n, id) ? LOOKUP_FOUND : LOOKUP_UNREACHABLE;
}

int64_t http_answer_rest_ms(int64_t retry_after_sec)
{
    if (retry_after_sec <= 0)
        return REST_DEFAULT_MS;
    return (retry_after_sec < REST_MAX_SEC ? retry_after_sec : REST_MAX_SEC) * 1000;
}
