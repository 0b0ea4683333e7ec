/*
 * A trace collector that costs as little as one can: it reads requests of OTLP over HTTP, looks at
 * nothing in them and answers 200. Prints its port, and on SIGTERM what it was sent:
 * "requests=<n> bytes=<n>".
 *
 * usage: msg-bench-receiver
 */

#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/base/must.h"

static _Atomic unsigned long long requests, bytes;

/* False: the client has gone, or speaks something else. */
static bool read_request(FILE *in)
{
    static const char name[] = "content-length:";
    char line[8192];
    char body[65536];
    size_t left = 0;

    do {
        if (!fgets(line, sizeof(line), in))
            return false;
        if (!strncasecmp(line, name, sizeof(name) - 1))
            left = strtoul(line + sizeof(name) - 1, NULL, 10);
    } while (strcmp(line, "\r\n") != 0);
    atomic_fetch_add(&bytes, left);
    while (left) {
        size_t n = fread(body, 1, left < sizeof(body) ? left : sizeof(body), in);

        if (!n)
            return false;
        left -= n;
    }
    return true;
}

static void *serve(void *arg)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"
                                 "Content-Length: 0\r\n\r\n";
    FILE *in = arg;

    while (read_request(in)) {
        atomic_fetch_add(&requests, 1);
        if (write(fileno(in), answer, sizeof(answer) - 1) != (ssize_t)sizeof(answer) - 1)
            break;
    }
    fclose(in);
    return NULL;
}

static void *take_connections(void *arg)
{
    const int *listener = arg;

    for (;;) {
        int fd = accept(*listener, NULL, NULL);
        FILE *in = fd < 0 ? NULL : fdopen(fd, "r");
        pthread_t thread;

        if (in && pthread_create(&thread, NULL, serve, in) == 0)
            pthread_detach(thread);
    }
    return NULL;
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    sigset_t end;
    pthread_t thread;
    int number;

    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigaddset(&end, SIGINT);
    pthread_sigmask(SIG_BLOCK, &end, NULL);
    signal(SIGPIPE, SIG_IGN);
    MUST(listener >= 0 && bind(listener, (struct sockaddr *)&address, size) == 0 &&
         listen(listener, 16) == 0 &&
         getsockname(listener, (struct sockaddr *)&address, &size) == 0);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    MUST(pthread_create(&thread, NULL, take_connections, &listener) == 0);
    sigwait(&end, &number);
    printf("requests=%llu bytes=%llu\n", atomic_load(&requests), atomic_load(&bytes));
    return EXIT_SUCCESS;
}
