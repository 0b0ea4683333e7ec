#include "libcommon/daemon/health.h"

#include <curl/curl.h>
#include <string.h>

#include "libcommon/base/buf.h"

static size_t ignore_body(char *data, size_t one, size_t n, void *arg) /* NOLINT: libcurl's type */
{
    (void)data, (void)one, (void)arg;
    return n;
}

/* The address that reaches a server listening on addr; an empty host and the wildcards mean all. */
static bool put_url(struct buf *url, const char *addr, bool tls)
{
    char host[256];
    const char *to = host;
    uint16_t port;

    /* port 0: the kernel has chosen one, which nobody outside that process knows */
    if (!settings_split_addr(addr, host, sizeof(host), &port) || !port)
        return false;
    if (!*host || !strcmp(host, "0.0.0.0"))
        to = "127.0.0.1";
    else if (!strcmp(host, "::"))
        to = "::1";
    buf_printf(url, strchr(to, ':') ? "%s://[%s]:%u/healthz" : "%s://%s:%u/healthz",
               tls ? "https" : "http", to, port);
    return !url->failed;
}

/* The status of the answer, 0 without one, and then why. */
static long get(const char *url, char why[CURL_ERROR_SIZE])
{
    CURL *e = curl_easy_init();
    long status = 0;
    bool ok = e != NULL;

    snprintf(why, CURL_ERROR_SIZE, "no answer");
    ok = ok && !curl_easy_setopt(e, CURLOPT_URL, url);
    ok = ok && !curl_easy_setopt(e, CURLOPT_PROXY, "");
    ok = ok && !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    ok = ok && !curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)HEALTH_MS);
    /* We ask ourselves, by an address that the certificate need not name. */
    ok = ok && !curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 0L);
    ok = ok && !curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 0L);
    ok = ok && !curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, ignore_body);
    ok = ok && !curl_easy_setopt(e, CURLOPT_ERRORBUFFER, why);
    ok = ok && !curl_easy_perform(e);
    if (ok)
        curl_easy_getinfo(e, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(e);
    return status;
}

int health_check(const struct daemon_program *program)
{
    char why[CURL_ERROR_SIZE];
    struct buf faults = {0};
    struct buf url = {0};
    const char *addr;
    const char *certificate;
    long status;
    int rc = 1;

    /* Where and how alone matter here: other settings may be wrong, or not given to this process.
     */
    settings_load(program->groups, program->group_count, &faults);
    addr = settings_text(program->groups, program->group_count, "LISTEN_ADDR");
    certificate = settings_text(program->groups, program->group_count, "HTTP_TLS_CERT_FILE");
    if (!addr || !put_url(&url, addr, certificate && *certificate)) {
        fprintf(stderr, "%s: LISTEN_ADDR names no address that can be asked\n", program->name);
    } else {
        status = get(url.data, why);
        rc = status == 200 ? 0 : 1;
        if (!rc)
            printf("%s: %s answered 200\n", program->name, url.data);
        else if (status)
            fprintf(stderr, "%s: %s answered %ld\n", program->name, url.data, status);
        else
            fprintf(stderr, "%s: %s: %s\n", program->name, url.data, why);
    }
    settings_free(program->groups, program->group_count);
    buf_free(&faults);
    buf_free(&url);
    return rc;
}
