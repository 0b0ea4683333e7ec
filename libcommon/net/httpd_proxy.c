#include <string.h>

#include "libcommon/net/httpd_internal.h"

/* The PROXY protocol, versions 1 and 2: what a proxy says of its client before anything else. */

#define V1_MAX 107 /* bytes of a line */
#define V2_HEAD 16
#define V2_MAX 2048 /* bytes behind the head; addresses take 36, the rest is of no use to us */

static const char v1_begin[] = {'P', 'R', 'O', 'X', 'Y', ' '};
static const char v2_begin[] = {'\r', '\n', '\r', '\n', '\0', '\r', '\n', 'Q', 'U', 'I', 'T', '\n'};

/* The next word of a line; false: there is none. */
static bool take_word(const char **at, const char *end, const char **word, size_t *n)
{
    const char *space;

    if (*at >= end)
        return false;
    space = memchr(*at, ' ', (size_t)(end - *at));
    *word = *at;
    *n = (size_t)((space ? space : end) - *at);
    *at = space ? space + 1 : end;
    return *n > 0;
}

static bool take_address(const char **at, const char *end, bool v4, struct address *out)
{
    const char *word;
    size_t n;

    return take_word(at, end, &word, &n) && address_parse(word, n, out) &&
           v4 == !memchr(word, ':', n);
}

static bool take_port(const char **at, const char *end, uint16_t *out)
{
    const char *word;
    unsigned port = 0;
    size_t n;

    if (!take_word(at, end, &word, &n) || n > 5)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (word[i] < '0' || word[i] > '9')
            return false;
        port = port * 10 + (unsigned)(word[i] - '0');
    }
    *out = (uint16_t)port;
    return port <= UINT16_MAX;
}

/* Behind "PROXY ", without the line's end. */
static bool parse_v1(const char *at, const char *end, struct http_proxied *out)
{
    struct address ours;
    uint16_t our_port;
    const char *family;
    size_t n;
    bool v4;

    if (!take_word(&at, end, &family, &n))
        return false;
    if (n == 7 && !memcmp(family, "UNKNOWN", 7))
        return true;
    v4 = n == 4 && !memcmp(family, "TCP4", 4);
    if (!v4 && (n != 4 || memcmp(family, "TCP6", 4) != 0))
        return false;
    out->known = take_address(&at, end, v4, &out->client) && take_address(&at, end, v4, &ours) &&
                 take_port(&at, end, &out->port) && take_port(&at, end, &our_port) && at == end &&
                 end[-1] != ' ';
    return out->known;
}

static enum http_proxy_part read_v1(const char *p, size_t n, struct http_proxied *out, size_t *len)
{
    const char *end = memchr(p, '\n', n < V1_MAX ? n : V1_MAX);

    if (!end)
        return n < V1_MAX ? HTTP_PROXY_MORE : HTTP_PROXY_WRONG;
    *len = (size_t)(end - p) + 1;
    if (end[-1] != '\r' || !parse_v1(p + sizeof(v1_begin), end - 1, out))
        return HTTP_PROXY_WRONG;
    return HTTP_PROXY_WHOLE;
}

static unsigned word_at(const char *p)
{
    return (unsigned)(unsigned char)p[0] << 8 | (unsigned char)p[1];
}

/* The addresses of a connection over TCP; of any other, nobody is known. */
static bool parse_v2(unsigned family, const char *p, size_t n, struct http_proxied *out)
{
    size_t each = family == 0x11 ? 4 : family == 0x21 ? 16 : 0;
    static const char v4_prefix[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '\xff', '\xff'};

    if (!each)
        return true;
    if (n < 2 * each + 4)
        return false;
    memcpy(out->client.b, v4_prefix, sizeof(v4_prefix));
    memcpy(out->client.b + sizeof(out->client.b) - each, p, each);
    out->port = (uint16_t)word_at(p + 2 * each);
    out->known = true;
    return true;
}

static enum http_proxy_part read_v2(const char *p, size_t n, struct http_proxied *out, size_t *len)
{
    unsigned command = n > 12 ? (unsigned char)p[12] : 0x21;
    size_t more;

    if (command != 0x20 && command != 0x21)
        return HTTP_PROXY_WRONG;
    if (n < V2_HEAD)
        return HTTP_PROXY_MORE;
    more = word_at(p + 14);
    if (more > V2_MAX)
        return HTTP_PROXY_WRONG;
    if (n < V2_HEAD + more)
        return HTTP_PROXY_MORE;
    *len = V2_HEAD + more;
    /* 0x20: the proxy speaks for itself. */
    return command == 0x20 || parse_v2((unsigned char)p[13], p + V2_HEAD, more, out)
               ? HTTP_PROXY_WHOLE
               : HTTP_PROXY_WRONG;
}

static bool begins(const char *p, size_t n, const char *with, size_t len)
{
    return !memcmp(p, with, n < len ? n : len);
}

enum http_proxy_part http_proxy_read(const char *p, size_t n, struct http_proxied *out, size_t *len)
{
    *out = (struct http_proxied){0};
    if (begins(p, n, v2_begin, sizeof(v2_begin)))
        return read_v2(p, n, out, len);
    if (begins(p, n, v1_begin, sizeof(v1_begin)))
        return n < sizeof(v1_begin) ? HTTP_PROXY_MORE : read_v1(p, n, out, len);
    return HTTP_PROXY_WRONG;
}
