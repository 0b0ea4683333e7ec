/*
 * What a proxy says before the first request: it is read the same whenever its bytes come, and the
 * client that it names is an address.
 */

#include <stdlib.h>

#include "libcommon/net/httpd_internal.h"
#include "test/fuzz/fuzz.h"

static enum http_proxy_part read_first(const uint8_t *data, size_t n, struct http_proxied *out,
                                       size_t *len)
{
    char *part = malloc(n);
    enum http_proxy_part said;

    MUST(part != NULL);
    memcpy(part, data, n);
    said = http_proxy_read(part, n, out, len);
    free(part);
    return said;
}

static void check_client(const struct http_proxied *proxied)
{
    char text[ADDRESS_TEXT_SIZE];
    struct address again;

    if (!proxied->known)
        return;
    address_format(&proxied->client, text);
    MUST(address_parse(text, strlen(text), &again) &&
         !memcmp(&again, &proxied->client, sizeof(again)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum http_proxy_part all;
    struct http_proxied whole;
    size_t len = 0;
    size_t most = size < 4096 ? size : 4096;

    if (!size)
        return -1;
    all = read_first(data, size, &whole, &len);
    if (all == HTTP_PROXY_WHOLE) {
        MUST(len > 0 && len <= size);
        check_client(&whole);
    }
    for (size_t n = 1; n <= most; n += 1 + n / 64) {
        struct http_proxied proxied;
        size_t taken = 0;
        enum http_proxy_part part = read_first(data, n, &proxied, &taken);

        if (all == HTTP_PROXY_WHOLE)
            MUST(part == (n < len ? HTTP_PROXY_MORE : HTTP_PROXY_WHOLE));
        else
            MUST(part == HTTP_PROXY_MORE || part == all);
        MUST(part != HTTP_PROXY_WHOLE || taken == len);
    }
    return 0;
}
