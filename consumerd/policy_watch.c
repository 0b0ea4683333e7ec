#include "consumerd/policy_watch.h"

#include <curl/curl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/daemon/readiness.h"
#include "libcommon/telemetry/log.h"

#define LOOK_EVERY_MS 10000 /* the API itself knows of a policy some seconds late */
#define RETRY_MS 5000       /* while the API does not answer, or not all queues are there yet */
#define ANSWER_MAX (256u << 10)
#define COLUMNS "?columns=policy,operator_policy,effective_policy_definition"

/* ---- what the API says ---- */

static const char *const limits[] = {"delivery-limit", "message-ttl", "expires", "max-length",
                                     "max-length-bytes"};

static void put_limits(struct buf *out, const json_t *definition, int64_t delivery_limit)
{
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        const json_t *value = json_object_get(definition, limits[i]);

        if (!json_is_integer(value) || (i == 0 && json_integer_value(value) >= delivery_limit))
            continue;
        buf_printf(out, "%s%s=%lld", out->len ? ", " : "", limits[i],
                   (long long)json_integer_value(value));
    }
}

/* The names of policies that may have set them: ours to choose and the operator's. */
static void put_names(struct buf *out, const json_t *answer)
{
    const char *name = json_string_value(json_object_get(answer, "policy"));
    const char *operators = json_string_value(json_object_get(answer, "operator_policy"));

    if (name)
        buf_printf(out, " \"%s\"", name);
    if (operators)
        buf_printf(out, "%s \"%s\" (operator policy)", name ? " and" : "", operators);
}

int policy_put_warning(struct buf *out, const char *queue, int64_t delivery_limit, const char *text,
                       size_t n)
{
    json_t *answer = json_loadb(text, n, 0, NULL);
    struct buf found = {0};

    /* An empty list is how the API writes an object without members. */
    if (!json_is_object(answer) && !(json_is_array(answer) && !json_array_size(answer))) {
        json_decref(answer);
        return -1;
    }
    put_limits(&found, json_object_get(answer, "effective_policy_definition"), delivery_limit);
    if (found.len) {
        buf_printf(out, "queue %s: the broker's policy", queue);
        put_names(out, answer);
        buf_printf(
            out,
            " sets %s: messages that reach a limit become dead letters, and dead letters are "
            "gone; take this queue out of it",
            found.data);
    }
    out->failed |= found.failed;
    buf_free(&found);
    json_decref(answer);
    return 0;
}

/* ---- asking ---- */

struct policy_watch {
    const struct settings *settings;
    pthread_t thread;
    struct pause pause;
    CURL *easy;
    struct buf answer;
    char why[CURL_ERROR_SIZE];
    bool complained; /* that the API does not answer */
};

static size_t take_answer(char *data, size_t one, size_t n, void *arg) /* NOLINT: libcurl's type */
{
    struct buf *answer = arg;

    if (answer->len + n > ANSWER_MAX)
        return 0;
    buf_put(answer, data, one * n);
    return n;
}

static void put_escaped(struct policy_watch *w, struct buf *url, const char *text)
{
    char *escaped = curl_easy_escape(w->easy, text, 0);

    buf_puts(url, escaped ? escaped : "");
    curl_free(escaped);
}

static bool put_url(struct policy_watch *w, struct buf *url, const char *queue)
{
    const char *base = w->settings->consumer.management_uri;
    char vhost[256];

    buf_put(url, base, strlen(base) - (base[strlen(base) - 1] == '/'));
    buf_puts(url, "/api/queues/");
    if (!broker_vhost(&w->settings->broker, vhost, sizeof(vhost)))
        return false;
    put_escaped(w, url, vhost);
    buf_putc(url, '/');
    put_escaped(w, url, queue);
    buf_puts(url, COLUMNS);
    return !url->failed;
}

/* The status of the answer; 0: none, and why. */
static long get(struct policy_watch *w, const char *url)
{
    CURL *e = w->easy;
    long status = 0;
    bool ok;

    buf_reset(&w->answer);
    snprintf(w->why, sizeof(w->why), "no answer");
    curl_easy_reset(e);
    ok = !curl_easy_setopt(e, CURLOPT_URL, url) && !curl_easy_setopt(e, CURLOPT_PROXY, "") &&
         !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) &&
         !curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)POLICY_WATCH_MS) &&
         !curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) &&
         !curl_easy_setopt(e, CURLOPT_CAINFO, w->settings->broker.tls_ca) &&
         !curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, take_answer) &&
         !curl_easy_setopt(e, CURLOPT_WRITEDATA, &w->answer) &&
         !curl_easy_setopt(e, CURLOPT_ERRORBUFFER, w->why) && !curl_easy_perform(e);
    if (ok)
        curl_easy_getinfo(e, CURLINFO_RESPONSE_CODE, &status);
    return w->answer.failed ? 0 : status;
}

static void complain(struct policy_watch *w, long status)
{
    if (!w->complained)
        log_warn("broker.policies_unknown", L_INT("status", status), L_STR("error", w->why),
                 L_MSG("RABBIT_MANAGEMENT_URI does not tell whether policies limit our queues"));
    w->complained = true;
}

/* False: it is not known. */
static bool look_at(struct policy_watch *w, const char *queue)
{
    const struct broker_settings *b = &w->settings->broker;
    struct buf warning = {0};
    struct buf topic = {0};
    struct buf url = {0};
    long status = put_url(w, &url, queue) ? get(w, url.data) : 0;
    bool known = status == 200 &&
                 !policy_put_warning(&warning, queue, b->delivery_limit,
                                     w->answer.data ? w->answer.data : "", w->answer.len) &&
                 !warning.failed;

    buf_printf(&topic, "policy %s", queue);
    if (known && !topic.failed && readiness_warn(topic.data, warning.len ? warning.data : "") &&
        warning.len)
        log_warn("broker.policy_limits", L_STR("queue", queue), L_MSG(warning.data));
    if (known)
        w->complained = false;
    else if (status != 404) /* not declared yet: it will be */
        complain(w, status);
    buf_free(&warning);
    buf_free(&topic);
    buf_free(&url);
    return known;
}

static bool look(struct policy_watch *w)
{
    const struct broker_settings *b = &w->settings->broker;
    struct buf dead = {0};
    bool all = true;

    buf_printf(&dead, "%s" BROKER_DEAD, b->exchange);
    for (size_t i = 0; i < BROKER_QUEUES && !pause_stopping(&w->pause); i++)
        all = look_at(w, b->queues[i]) && all;
    if (!dead.failed && !pause_stopping(&w->pause))
        all = look_at(w, dead.data) && all;
    buf_free(&dead);
    return all;
}

static void *watch_main(void *arg)
{
    struct policy_watch *w = arg;

    while (!pause_for(&w->pause, look(w) ? LOOK_EVERY_MS : RETRY_MS))
        ;
    return NULL;
}

struct policy_watch *policy_watch_start(const struct settings *settings)
{
    struct policy_watch *w;

    if (!*settings->consumer.management_uri)
        return NULL;
    w = must_alloc(1, sizeof(*w));
    w->settings = settings;
    w->easy = curl_easy_init();
    MUST(w->easy != NULL);
    pause_init(&w->pause);
    MUST(pthread_create(&w->thread, NULL, watch_main, w) == 0);
    pthread_setname_np(w->thread, "policies");
    return w;
}

void policy_watch_begin_stop(struct policy_watch *w)
{
    if (w)
        pause_stop(&w->pause);
}

void policy_watch_stop(struct policy_watch *w)
{
    if (!w)
        return;
    pause_stop(&w->pause);
    pthread_join(w->thread, NULL);
    curl_easy_cleanup(w->easy);
    buf_free(&w->answer);
    pause_destroy(&w->pause);
    free(w);
}
