#include "libcommon/daemon/health.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "libcommon/net/address.h"

static size_t ignore_body(char *data, size_t one, size_t n, void *arg) /* NOLINT: libcurl's type */
{
    (void)data, (void)one, (void)arg;
    return n;
}

static const char *text(const struct daemon_program *program, const char *name)
{
    const char *value = settings_text(program->groups, program->group_count, name);

    return value ? value : "";
}

/* The address that reaches a server listening on addr; an empty host and the wildcards mean all. */
static bool choose_host(const char *addr, char *host, size_t size, uint16_t *port)
{
    /* port 0: the kernel has chosen one, which nobody outside that process knows */
    if (!settings_split_addr(addr, host, size, port) || !*port)
        return false;
    if (!*host || !strcmp(host, "0.0.0.0"))
        snprintf(host, size, "127.0.0.1");
    else if (!strcmp(host, "::"))
        snprintf(host, size, "::1");
    return true;
}

/* Whether who asks there is taken for a proxy that has to say whom it speaks for: what reaches an
 * address of ours comes from it. */
static bool is_proxy(const struct daemon_program *program, const char *host)
{
    const bool *spoken =
        settings_flag(program->groups, program->group_count, "HTTP_PROXY_PROTOCOL");
    struct network *proxies;
    struct address from;
    size_t count;
    bool is;

    if (!spoken || !*spoken)
        return false;
    if (!address_parse(host, strlen(host), &from)) /* a name: localhost, as a rule */
        (void)address_parse("127.0.0.1", 9, &from);
    proxies = networks_parse(text(program, "TRUSTED_PROXIES"), &count);
    is = networks_have(proxies, count, &from);
    free(proxies);
    return is;
}

/* The status of the answer, 0 without one, and then why. */
static long get(const char *url, bool proxy, char why[CURL_ERROR_SIZE])
{
    CURL *e = curl_easy_init();
    long status = 0;
    bool ok = e != NULL;

    snprintf(why, CURL_ERROR_SIZE, "no answer");
    ok = ok && !curl_easy_setopt(e, CURLOPT_URL, url);
    ok = ok && !curl_easy_setopt(e, CURLOPT_PROXY, "");
    ok = ok && !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    ok = ok && !curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)HEALTH_MS);
    ok = ok && !curl_easy_setopt(e, CURLOPT_HAPROXYPROTOCOL, (long)proxy);
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
    char why[CURL_ERROR_SIZE] = "out of memory";
    struct buf faults = {0};
    struct buf url = {0};
    char host[256];
    uint16_t port;
    bool tls;
    long status;
    int rc = 1;

    /* Where and how alone matter here: other settings may be wrong, or not given to this process.
     */
    settings_load(program->groups, program->group_count, &faults);
    tls = *text(program, "HTTP_TLS_CERT_FILE");
    if (!choose_host(text(program, "LISTEN_ADDR"), host, sizeof(host), &port)) {
        fprintf(stderr, "%s: LISTEN_ADDR names no address that can be asked\n", program->name);
    } else {
        buf_printf(&url, strchr(host, ':') ? "%s://[%s]:%u/healthz" : "%s://%s:%u/healthz",
                   tls ? "https" : "http", host, port);
        status = url.failed ? 0 : get(url.data, is_proxy(program, host), why);
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
