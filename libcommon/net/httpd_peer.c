#include <event2/http.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/net/httpd_internal.h"

void http_peer_note(struct http_conn *c)
{
    static const char mapped[] = "::ffff:";
    char *address = NULL;

    evhttp_connection_get_peer(c->evcon, &address, &c->peer_port);
    if (!address)
        return;
    if (!strncmp(address, mapped, sizeof(mapped) - 1) && strchr(address, '.'))
        address += sizeof(mapped) - 1;
    snprintf(c->peer, sizeof(c->peer), "%.*s", (int)strcspn(address, "%"), address);
}

const char *httpd_peer(const struct httpd_request *req)
{
    return req->conn->peer;
}
