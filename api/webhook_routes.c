#include "api/webhook_routes.h"

#include <stdlib.h>
#include <string.h>

#include "api/query.h"
#include "api/settings.h"
#include "libcommon/base/clock.h"

#define PREFIX "/webhooks/"

static struct {
    struct admission *admission;
    void (*submit)(struct httpd_request *req, struct read_job *job);
} routes;

void webhook_routes_open(struct admission *admission,
                         void (*submit)(struct httpd_request *req, struct read_job *job))
{
    routes.admission = admission;
    routes.submit = submit;
}

/* What follows /webhooks/{id}, by method. */
enum method { GET, POST, DELETE, METHODS };

static const struct {
    const char *word;
    enum method method;
    enum webhook_act act;
} words[] = {
    {"", GET, WEBHOOK_SHOW},
    {"", DELETE, WEBHOOK_REMOVE},
    {"attempts", GET, WEBHOOK_ATTEMPTS},
    {"replay", POST, WEBHOOK_REPLAY},
    {"rotate", POST, WEBHOOK_ROTATE},
    {"enable", POST, WEBHOOK_ENABLE},
};

#define WORDS (sizeof(words) / sizeof(words[0]))

static void reply_no_memory(struct httpd_request *req)
{
    httpd_reply_retry(req, 503, "system_overloaded",
                      "The system is temporarily overloaded. Please retry later.", 1);
}

/* NULL: answered. */
static struct webhook_task *new_task(struct httpd_request *req, enum webhook_act act, uint64_t id)
{
    struct webhook_task *task = calloc(1, sizeof(*task));

    if (!task) {
        reply_no_memory(req);
        return NULL;
    }
    task->act = act;
    task->id = id;
    task->most = api_settings.webhooks_per_customer;
    task->grace_sec = api_settings.webhook_grace_sec;
    return task;
}

static void submit(struct httpd_request *req, struct webhook_task *task)
{
    struct read_job job = {.kind = READ_WEBHOOK, .task = task};

    task->customer_id = admission_identity(req)->customer_id;
    routes.submit(req, &job);
}

/* ---- all of a customer ---- */

static void reply_fault(struct httpd_request *req, const struct webhook_fault *fault)
{
    httpd_reply_error(req, 400, fault->code, fault->message, fault->field);
}

void webhook_handle_create(struct httpd_request *req, void *arg)
{
    int64_t own = admission_identity(req)->key.customer_id;
    struct webhook_task *task = new_task(req, WEBHOOK_CREATE, 0);
    struct webhook_fault fault;
    const char *body;
    size_t n;

    (void)arg;
    if (!task)
        return;
    body = httpd_body(req, &n);
    if (!webhook_task_parse(task, body, n, own, &fault)) {
        reply_fault(req, &fault);
        free(task);
    } else if (!admission_name(routes.admission, req, task->customer_id)) {
        free(task);
    } else {
        submit(req, task);
    }
}

void webhook_handle_list(struct httpd_request *req, void *arg)
{
    struct webhook_task *task = new_task(req, WEBHOOK_LIST, 0);

    (void)arg;
    if (task)
        submit(req, task);
}

/* ---- one ---- */

static void reply_method(struct httpd_request *req, const char *word)
{
    static const char *const names[METHODS] = {
        [GET] = "GET, HEAD", [POST] = "POST", [DELETE] = "DELETE"};
    struct buf allow = {0};

    for (size_t i = 0; i < WORDS; i++)
        if (!strcmp(words[i].word, word))
            buf_printf(&allow, "%s%s", allow.len ? ", " : "", names[words[i].method]);
    httpd_set_header(req, "Allow", allow.failed ? "" : allow.data);
    buf_free(&allow);
    httpd_reply_error(req, 405, "method_not_allowed", "The method is not allowed here.", NULL);
}

/* The row of words; WORDS: answered. */
static size_t find_word(struct httpd_request *req, const char *word, enum method method)
{
    bool known = false;

    for (size_t i = 0; i < WORDS; i++) {
        if (strcmp(words[i].word, word) != 0)
            continue;
        known = true;
        if (words[i].method == method)
            return i;
    }
    if (known)
        reply_method(req, word);
    else
        httpd_reply_error(req, 404, "not_found", "There is nothing at this path.", NULL);
    return WORDS;
}

/* What the query says beside the customer. False: answered. */
static bool take_query(struct httpd_request *req, struct webhook_task *task)
{
    const char *from = httpd_query(req, "from");

    if (task->act == WEBHOOK_ATTEMPTS)
        return query_number(req, "limit", 1, api_settings.page_max, api_settings.page_default,
                            &task->limit) &&
               query_number(req, "cursor", 1, INT64_MAX, INT64_MAX, &task->before);
    if (task->act != WEBHOOK_REPLAY || (from && clock_read_rfc3339(from, &task->from_us)))
        return true;
    httpd_reply_error(
        req, 400, "invalid_input",
        from ? "Must be a time as 2026-01-02T03:04:05Z." : "This parameter is required.", "from");
    return false;
}

static void handle_one(struct httpd_request *req, enum method method)
{
    struct webhook_task *task;
    const char *word;
    uint64_t id;
    size_t at;

    if (!webhook_task_path(httpd_path(req) + strlen(PREFIX), &id, &word)) {
        httpd_reply_error(req, 404, "not_found", "There is no such webhook.", NULL);
        return;
    }
    at = find_word(req, word, method);
    if (at == WORDS)
        return;
    task = new_task(req, words[at].act, id);
    if (!task)
        return;
    if (take_query(req, task))
        submit(req, task);
    else
        free(task);
}

void webhook_handle_get(struct httpd_request *req, void *arg)
{
    (void)arg;
    handle_one(req, GET);
}

void webhook_handle_post(struct httpd_request *req, void *arg)
{
    (void)arg;
    handle_one(req, POST);
}

void webhook_handle_delete(struct httpd_request *req, void *arg)
{
    (void)arg;
    handle_one(req, DELETE);
}
