#include "libcommon/broker/broker_nodes.h"

#include <amqp.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/base/must.h"
#include "libcommon/base/random.h"

static bool begins_uri(const char *text)
{
    return !strncmp(text, "amqp://", 7) || !strncmp(text, "amqps://", 8);
}

/* The comma that ends this URI of the list, or the list's end. */
static const char *end_of(const char *uri)
{
    for (;; uri++) {
        uri += strcspn(uri, ",");
        if (!*uri || begins_uri(uri + 1))
            return uri;
    }
}

size_t broker_nodes_count(const char *list)
{
    size_t n = 1;

    for (list = end_of(list); *list; list = end_of(list + 1))
        n++;
    return n;
}

char *broker_nodes_copy(const char *list, size_t i)
{
    size_t len;
    char *uri;

    while (i--) {
        list = end_of(list);
        MUST(*list == ',');
        list++;
    }
    len = (size_t)(end_of(list) - list);
    uri = must_alloc(len + 1, 1);
    memcpy(uri, list, len);
    return uri;
}

void broker_nodes_wipe(char *uri, size_t len)
{
    explicit_bzero(uri, len);
    free(uri);
}

const char *broker_nodes_vhost(const struct amqp_connection_info *to)
{
    return to->vhost && *to->vhost ? to->vhost : "/";
}

/* vhost: of the node before, NULL at the first; takes the place of it. */
static bool check_node(const char *list, size_t i, char **vhost, char *why, size_t size)
{
    char *uri = broker_nodes_copy(list, i);
    size_t len = strlen(uri);
    struct amqp_connection_info to;
    bool ok =
        uri[len ? len - 1 : 0] != ',' && amqp_parse_url(uri, &to) == AMQP_STATUS_OK && to.port > 0;

    if (!ok) {
        snprintf(why, size, "must look like amqp://user:password@host:5672/vhost (or amqps://)");
    } else if (*vhost && strcmp(*vhost, broker_nodes_vhost(&to)) != 0) {
        snprintf(why, size, "the nodes of a cluster must have the same vhost");
        ok = false;
    }
    free(*vhost);
    *vhost = ok ? must_strdup(broker_nodes_vhost(&to)) : NULL;
    broker_nodes_wipe(uri, len);
    return ok;
}

bool broker_nodes_check(const char *value, char *why, size_t size)
{
    size_t n = broker_nodes_count(value);
    char *vhost = NULL;
    bool ok = n <= BROKER_NODES_MAX;

    snprintf(why, size, "at most %d nodes", BROKER_NODES_MAX);
    for (const char *c = value; ok && *c; c++) {
        ok = (unsigned char)*c > ' ' && *c != 0x7f && strncmp(c, "%00", 3) != 0;
        snprintf(why, size, "must look like amqp://user:password@host:5672/vhost (or amqps://)");
    }
    for (size_t i = 0; ok && i < n; i++)
        ok = check_node(value, i, &vhost, why, size);
    free(vhost);
    return ok;
}

static pthread_once_t first_once = PTHREAD_ONCE_INIT;
static _Atomic uint64_t next_home;

static void choose_first(void)
{
    atomic_store(&next_home, random_u64() % BROKER_NODES_MAX);
}

size_t broker_nodes_home(size_t n)
{
    pthread_once(&first_once, choose_first);
    return (size_t)(atomic_fetch_add(&next_home, 1) % n);
}

static bool connects(const struct addrinfo *to, int timeout_ms)
{
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int fault = 0;
    socklen_t size = sizeof(fault);
    bool ok;

    if (fd < 0)
        return false;
    ok = !connect(fd, to->ai_addr, to->ai_addrlen) ||
         (errno == EINPROGRESS && poll(&p, 1, timeout_ms) == 1 &&
          !getsockopt(fd, SOL_SOCKET, SO_ERROR, &fault, &size) && !fault);
    close(fd);
    return ok;
}

bool broker_nodes_answers(const char *host, int port, int timeout_ms)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    char service[16];
    bool ok = false;

    snprintf(service, sizeof(service), "%d", port);
    if (getaddrinfo(host, service, &hints, &found))
        return false;
    for (const struct addrinfo *a = found; a && !ok; a = a->ai_next)
        ok = connects(a, timeout_ms);
    freeaddrinfo(found);
    return ok;
}
