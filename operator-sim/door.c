#include "operator-sim/door.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/telemetry/log.h"

#define SHUT_MS 300  /* for answers under way */
#define RETRY_MS 500 /* the port may be in other hands for a moment */
#define FOREVER INT64_MAX

struct door {
    struct httpd_config config;
    struct httpd_settings settings;
    char addr[300];       /* with the port that was given first */
    struct httpd *server; /* the door's thread alone, once that runs */
    pthread_t thread;
    bool running;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool refuse, stopping; /* wanted */
    int64_t until_ms;      /* refuse until then */
    int drain_ms;
};

static int open_door(struct door *d, struct err *err)
{
    char host[256];
    uint16_t port;

    d->server = httpd_new(&d->config, err);
    if (!d->server)
        return -1;
    if (httpd_start(d->server, err)) {
        httpd_free(d->server);
        d->server = NULL;
        return -1;
    }
    if (settings_split_addr(d->settings.listen_addr, host, sizeof(host), &port) && !port) {
        snprintf(d->addr, sizeof(d->addr), strchr(host, ':') ? "[%s]:%u" : "%s:%u", host,
                 httpd_port(d->server));
        d->settings.listen_addr = d->addr;
    }
    return 0;
}

static void shut_door(struct door *d, int drain_ms)
{
    if (!d->server)
        return;
    httpd_drain(d->server);
    httpd_wait_drained(d->server, drain_ms);
    httpd_free(d->server);
    d->server = NULL;
}

/* Waits for another wish, at most until until_ms; the lock is held. */
static void wait_until_ms(struct door *d, int64_t until_ms)
{
    struct timespec at = pause_until(until_ms - clock_mono_ms());

    if (until_ms == FOREVER)
        pthread_cond_wait(&d->changed, &d->lock);
    else
        pause_cond_wait(&d->changed, &d->lock, &at);
}

static void act(struct door *d, bool refuse)
{
    struct err err;

    if (refuse) {
        shut_door(d, SHUT_MS);
        log_info("door.shut", L_MSG("connections are refused"));
    } else if (open_door(d, &err)) {
        log_warn("door.stuck", L_ERR(&err));
    } else {
        log_info("door.open", L_MSG("connections are taken"));
    }
}

static void *door_main(void *arg)
{
    struct door *d = arg;
    int64_t retry_ms = 0;

    pthread_mutex_lock(&d->lock);
    while (!d->stopping) {
        int64_t now_ms = clock_mono_ms();
        bool refuse;

        if (d->refuse && now_ms >= d->until_ms)
            d->refuse = false;
        refuse = d->refuse;
        if (refuse == !d->server) {
            wait_until_ms(d, refuse ? d->until_ms : FOREVER);
        } else if (!refuse && now_ms < retry_ms) {
            wait_until_ms(d, retry_ms);
        } else {
            pthread_mutex_unlock(&d->lock);
            act(d, refuse);
            pthread_mutex_lock(&d->lock);
            retry_ms = clock_mono_ms() + RETRY_MS;
        }
    }
    pthread_mutex_unlock(&d->lock);
    shut_door(d, d->drain_ms);
    return NULL;
}

static void set_wanted(struct door *d, bool refuse, int64_t refuse_ms)
{
    d->refuse = refuse;
    d->until_ms = refuse_ms ? clock_mono_ms() + refuse_ms : FOREVER;
}

struct door *door_new(const struct httpd_config *config, bool refuse, int64_t refuse_ms,
                      struct err *err)
{
    struct door *d = must_alloc(1, sizeof(*d));
    sigset_t all;
    sigset_t before;

    d->config = *config;
    d->settings = *config->settings;
    d->config.settings = &d->settings;
    pthread_mutex_init(&d->lock, NULL);
    pause_cond_init(&d->changed);
    set_wanted(d, refuse, refuse_ms);
    if (!refuse && open_door(d, err)) {
        door_free(d);
        return NULL;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    MUST(pthread_create(&d->thread, NULL, door_main, d) == 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    d->running = true;
    return d;
}

void door_refuse(struct door *d, bool refuse, int64_t refuse_ms)
{
    pthread_mutex_lock(&d->lock);
    set_wanted(d, refuse, refuse_ms);
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

bool door_is_refusing(struct door *d)
{
    bool refusing;

    pthread_mutex_lock(&d->lock);
    refusing = d->refuse && clock_mono_ms() < d->until_ms;
    pthread_mutex_unlock(&d->lock);
    return refusing;
}

void door_drain(struct door *d, int timeout_ms)
{
    pthread_mutex_lock(&d->lock);
    d->stopping = true;
    d->drain_ms = timeout_ms;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->thread, NULL);
    d->running = false;
}

void door_free(struct door *d)
{
    if (!d)
        return;
    if (d->running)
        door_drain(d, 0);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    free(d);
}
