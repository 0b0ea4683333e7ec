#include <event2/http.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/net/httpd_internal.h"

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
    struct address from = crowd_of(c);
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

const char *httpd_peer(const struct httpd_request *req)
{
    return req->conn->peer;
}
