#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "libcommon/net/httpd_internal.h"

static uint64_t seed;
static pthread_once_t seeded = PTHREAD_ONCE_INIT;

static void draw_seed(void)
{
    seed = random_u64();
}

/* FNV-1a from where nobody knows: clients choose their addresses, and would choose those that fall
 * into one place. */
static unsigned hash_address(const void *address, size_t n)
{
    const unsigned char *bytes = address;
    uint64_t hash;

    pthread_once(&seeded, draw_seed);
    hash = seed;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return (unsigned)(hash ^ hash >> 32);
}

#define HASH_FUNCTION(key, n, hash) (hash) = hash_address(key, n)
#define uthash_fatal(what) must_fail(what, __FILE__, __LINE__)
#include <uthash.h>

#define V6_NETWORK_BITS 64 /* what one subscriber has, at least */

struct http_crowd {
    struct address from;
    int64_t connections;
    UT_hash_handle hh;
};

void http_peer_note(struct http_conn *c)
{
    const struct httpd *h = c->thread->server;
    char *text = NULL;

    evhttp_connection_get_peer(c->evcon, &text, &c->peer_port);
    c->known = text && address_parse(text, strcspn(text, "%"), &c->address);
    if (!c->known)
        return;
    address_format(&c->address, c->peer);
    c->trusted = networks_have(h->proxies, h->proxy_count, &c->address);
    if (c->trusted && h->settings.proxy_protocol)
        c->wire.state = WIRE_PROXY;
}

void http_peer_proxied(struct http_conn *c)
{
    const struct httpd *h = c->thread->server;

    c->wire.proxied.known = false;
    c->address = c->wire.proxied.client;
    c->peer_port = c->wire.proxied.port;
    address_format(&c->address, c->peer);
    c->trusted = networks_have(h->proxies, h->proxy_count, &c->address);
}

static struct address crowd_of(const struct http_conn *c)
{
    return address_is_v4(&c->address) ? c->address : address_cut(&c->address, V6_NETWORK_BITS);
}

/* One from there; false: there are as many as may be. */
static bool enter(struct httpd *h, const struct address *from)
{
    struct http_crowd *crowd;
    bool fits;

    pthread_mutex_lock(&h->crowds_lock);
    HASH_FIND(hh, h->crowds, from, sizeof(*from), crowd);
    if (!crowd) {
        crowd = must_alloc(1, sizeof(*crowd));
        crowd->from = *from;
        HASH_ADD(hh, h->crowds, from, sizeof(*from), crowd);
    }
    fits = crowd->connections < h->settings.address_connections;
    crowd->connections += fits;
    pthread_mutex_unlock(&h->crowds_lock);
    return fits;
}

bool http_peer_enter(struct http_conn *c)
{
    struct httpd *h = c->thread->server;
    struct address from = crowd_of(c);

    if (!h->settings.address_connections || !c->known || c->trusted)
        return true;
    c->counted = enter(h, &from);
    return c->counted;
}

void http_peer_leave(struct http_conn *c)
{
    struct httpd *h = c->thread->server;
    struct address from = crowd_of(c); /* the same as when it entered: no proxy was counted */
    struct http_crowd *crowd;

    if (!c->counted)
        return;
    pthread_mutex_lock(&h->crowds_lock);
    HASH_FIND(hh, h->crowds, &from, sizeof(from), crowd);
    MUST(crowd && crowd->connections > 0);
    if (!--crowd->connections) {
        HASH_DEL(h->crowds, crowd);
        free(crowd);
    }
    pthread_mutex_unlock(&h->crowds_lock);
}

/* One of X-Forwarded-For: an address, or one with a port, then in brackets if it is of IPv6. */
static bool parse_entry(const char *s, size_t n, struct address *out)
{
    const char *end = memchr(s, *s == '[' ? ']' : ':', n);

    if (*s == '[')
        return end && address_parse(s + 1, (size_t)(end - s) - 1, out);
    if (end && !memchr(end + 1, ':', n - (size_t)(end - s) - 1))
        n = (size_t)(end - s);
    return address_parse(s, n, out);
}

/* From right to left as long as proxies of ours have written. True: all of it. */
static bool go_left(const struct httpd *h, const char *value, struct address *client)
{
    for (size_t end = strlen(value); end;) {
        size_t begin = end;
        size_t from;

        while (begin && value[begin - 1] != ',')
            begin--;
        from = begin + strspn(value + begin, " \t");
        while (end > from && (value[end - 1] == ' ' || value[end - 1] == '\t'))
            end--;
        if (end <= from || !parse_entry(value + from, end - from, client) ||
            !networks_have(h->proxies, h->proxy_count, client))
            return false;
        end = begin ? begin - 1 : 0;
    }
    return true;
}

/* Each proxy writes behind the others whom it has heard. The last one that is no proxy of ours is
 * the client; what stands before it may be anybody's invention. */
void http_peer_forwarded(struct httpd_request *req)
{
    const struct evkeyvalq *headers = evhttp_request_get_input_headers(req->ev);
    struct address client = req->conn->address;
    const struct evkeyval *h;
    bool more = req->conn->trusted;
    char *text;

    for (h = TAILQ_LAST(headers, evkeyvalq); h && more; h = TAILQ_PREV(h, evkeyvalq, next))
        if (!strcasecmp(h->key, "X-Forwarded-For"))
            more = go_left(req->thread->server, h->value, &client);
    if (!memcmp(&client, &req->conn->address, sizeof(client)))
        return;
    text = http_input_text(req, ADDRESS_TEXT_SIZE);
    if (text)
        address_format(&client, text);
    req->peer = text ? text : "";
}

const char *httpd_peer(const struct httpd_request *req)
{
    return req->peer;
}
