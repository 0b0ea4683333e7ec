#include <event2/http.h>
#include <string.h>

#include "libcommon/net/httpd_internal.h"

void http_peer_note(struct http_conn *c)
{
    char *text = NULL;

    evhttp_connection_get_peer(c->evcon, &text, &c->peer_port);
    c->known = text && address_parse(text, strcspn(text, "%"), &c->address);
    if (c->known)
        address_format(&c->address, c->peer);
}

const char *httpd_peer(const struct httpd_request *req)
{
    return req->conn->peer;
}
