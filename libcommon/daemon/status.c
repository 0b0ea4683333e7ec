#include "libcommon/daemon/status.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/must.h"
#include "libcommon/daemon/status_page.h"
#include "libcommon/net/httpd.h"

static struct buf policy;
static pthread_once_t policy_once = PTHREAD_ONCE_INIT;

bool status_put_hash(struct buf *out, const char *html, size_t n, const char *element)
{
    unsigned char hash[EVP_MAX_MD_SIZE];
    unsigned char text[2 * EVP_MAX_MD_SIZE];
    char tag[16];
    const char *from;
    const char *to;
    size_t tag_len;

    tag_len = (size_t)snprintf(tag, sizeof(tag), "<%s>", element);
    from = memmem(html, n, tag, tag_len);
    if (!from)
        return false;
    from += tag_len;
    tag_len = (size_t)snprintf(tag, sizeof(tag), "</%s>", element);
    to = memmem(from, n - (size_t)(from - html), tag, tag_len);
    if (!to || !EVP_Digest(from, (size_t)(to - from), hash, NULL, EVP_sha256(), NULL))
        return false;
    EVP_EncodeBlock(text, hash, 32);
    buf_printf(out, "'sha256-%s'", (const char *)text);
    return true;
}

static void make_policy(void)
{
    const char *html = (const char *)status_page;

    buf_puts(&policy, "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
                      "form-action 'none'; frame-ancestors 'none'; script-src ");
    MUST(status_put_hash(&policy, html, status_page_len, "script"));
    buf_puts(&policy, "; style-src ");
    MUST(status_put_hash(&policy, html, status_page_len, "style"));
    MUST(!policy.failed);
}

void status_handle_page(struct httpd_request *req, void *arg)
{
    (void)arg;
    pthread_once(&policy_once, make_policy);
    httpd_set_header(req, "Content-Security-Policy", policy.data);
    httpd_set_header(req, "Referrer-Policy", "no-referrer");
    httpd_set_header(req, "Cache-Control", "no-cache");
    httpd_reply_constant(req, 200, "text/html; charset=utf-8", (const char *)status_page,
                         status_page_len);
}
