#include "api/entrance.h"

#include <stdlib.h>
#include <string.h>

#include "api/settings.h"
#include "libcommon/base/must.h"
#include "libcommon/daemon/daemon.h"
#include "libcommon/telemetry/log.h"

/* Whoever watches needs few: the rest are the first listener's. */
#define ADMIN_CONNECTIONS 32
#define ADMIN_DESCRIPTORS (ADMIN_CONNECTIONS + 4) /* and its thread's */
#define ADMIN_BYTES (4 << 20)                     /* 36 KiB each over TLS, and pages of metrics */

/* Of the keys: followed within AUTH_MONEY_STALE_MS, with two tries to spare. */
#define REFRESH_MS 1000
#define FIRST_READING_MS 2000

struct entrance {
    struct httpd *httpd;
    struct httpd *admin;    /* NULL: the first one has all routes */
    struct httpd *receipts; /* likewise */
    struct key_ring *ring;
    struct admission *admission;
};

static bool admit(struct httpd_request *req, void *arg)
{
    struct entrance *e = arg;

    return admission_enter(e->admission, req);
}

static enum admission_access access_of(const char *word)
{
    return !strcmp(word, "open") ? ACCESS_OPEN : !strcmp(word, "key") ? ACCESS_KEY : ACCESS_OFF;
}

/* Says how it stands where nobody is asked for a key. */
static void tell_auth_is_off(void)
{
    static const char text[] =
        "nobody is asked for an API key: whoever reaches this address sends, "
        "reads and tops up for any customer; API_AUTH=required ends that";

    if (settings_keys_off_in_the_open(&api_settings))
        log_warn("auth.off", L_STR("address", api_settings.httpd.listen_addr), L_MSG(text));
    else
        log_info("auth.off", L_STR("address", api_settings.httpd.listen_addr), L_MSG(text));
}

static void open_admission(struct entrance *e, const struct entrance_config *c)
{
    const struct api_settings *s = &api_settings;
    const bool keys = settings_asks_for_keys(s);
    struct admission_config config = {
        .global_rps = s->global_rps,
        .global_burst = s->global_burst,
        .customer_rps = s->user_rps,
        .customer_burst = s->user_burst,
        .reads_rps = s->user_read_rps,
        .reads_burst = s->user_read_burst,
        .access = {[GROUP_API] = keys ? ACCESS_KEY : ACCESS_OPEN,
                   [GROUP_METRICS] = access_of(s->metrics_access),
                   [GROUP_STATUS] = access_of(s->status_access),
                   [GROUP_SWAGGER] = access_of(s->swagger_access)},
        .stale_ms = s->keys_stale_sec * 1000,
        .failure_rps = s->auth_failure_rps,
        .failure_burst = s->auth_failure_burst,
    };

    if (keys)
        e->ring = key_ring_start(&s->db, REFRESH_MS);
    else
        tell_auth_is_off();
    config.ring = e->ring;
    config.moves = c->moves;
    e->admission = admission_new(&config);
}

/* The listener that everybody reaches. */
static int open_first(struct entrance *e, const struct entrance_config *c, struct err *err)
{
    const struct api_settings *s = &api_settings;
    const size_t elsewhere = *s->receipts_listen_addr ? c->receipts : 0;
    const struct httpd_config config = {
        .settings = &s->httpd,
        .routes = c->routes + elsewhere,
        .route_count = c->count - elsewhere - (*s->admin_listen_addr ? c->watch : 0),
        .arg = e,
        .admit = admit,
        .beside = c->beside + (*s->admin_listen_addr ? ADMIN_DESCRIPTORS : 0),
        .body_bytes = c->body_bytes,
    };

    e->httpd = httpd_new(&config, err);
    return e->httpd ? 0 : -1;
}

/* One thread: a scrape every few seconds needs no more. */
static int open_second(struct entrance *e, const struct entrance_config *c, struct err *err)
{
    struct httpd_settings settings = api_settings.httpd;
    const struct httpd_config config = {
        .settings = &settings,
        .routes = c->routes + c->count - c->operation,
        .route_count = c->operation,
        .arg = e,
        .admit = admit,
        .beside = c->beside,
    };

    settings.listen_addr = api_settings.admin_listen_addr;
    settings.threads = 1;
    settings.memory_bytes = ADMIN_BYTES;
    if (settings.max_connections > ADMIN_CONNECTIONS)
        settings.max_connections = ADMIN_CONNECTIONS;
    e->admin = httpd_new(&config, err);
    return e->admin ? 0 : -1;
}

/* As many threads and connections as the first. */
static int open_receipts(struct entrance *e, const struct entrance_config *c, struct err *err)
{
    struct httpd_settings settings = api_settings.httpd;
    const struct httpd_config config = {
        .settings = &settings,
        .routes = c->routes,
        .route_count = c->receipts,
        .arg = e,
        .beside = c->beside,
        .body_bytes = c->receipt_bytes,
    };

    settings.listen_addr = api_settings.receipts_listen_addr;
    e->receipts = httpd_new(&config, err);
    return e->receipts ? 0 : -1;
}

struct entrance *entrance_open(const struct entrance_config *config, struct err *err)
{
    struct entrance *e = must_alloc(1, sizeof(*e));

    if (open_first(e, config, err) ||
        (*api_settings.admin_listen_addr && open_second(e, config, err)) ||
        (*api_settings.receipts_listen_addr && open_receipts(e, config, err))) {
        httpd_free(e->httpd);
        httpd_free(e->admin);
        free(e);
        return NULL;
    }
    open_admission(e, config);
    return e;
}

struct admission *entrance_admission(struct entrance *e)
{
    return e->admission;
}

/* Who replaces another replica under load would refuse until it knows the keys. */
int entrance_start(struct entrance *e, struct err *err)
{
    if (e->ring)
        key_ring_await(e->ring, FIRST_READING_MS);
    if (httpd_start(e->httpd, err) || (e->admin && httpd_start(e->admin, err)) ||
        (e->receipts && httpd_start(e->receipts, err)))
        return -1;
    log_info("server.listening", L_INT("port", httpd_port(e->httpd)));
    if (e->admin)
        log_info("server.listening", L_INT("port", httpd_port(e->admin)),
                 L_STR("for", "metrics and status"));
    if (e->receipts)
        log_info("server.listening", L_INT("port", httpd_port(e->receipts)),
                 L_STR("for", "receipts"));
    return 0;
}

static bool drain_one(struct httpd *h)
{
    if (!h)
        return true;
    httpd_drain(h);
    return httpd_wait_drained(h, daemon_drain_left_ms());
}

bool entrance_drain(struct entrance *e)
{
    bool done = drain_one(e->httpd);

    done = drain_one(e->receipts) && done;
    return drain_one(e->admin) && done;
}

/* The ring last: it is asked for as long as a listener's threads run. */
void entrance_free(struct entrance *e)
{
    if (!e)
        return;
    httpd_free(e->admin);
    httpd_free(e->receipts);
    httpd_free(e->httpd);
    admission_free(e->admission);
    key_ring_free(e->ring);
    free(e);
}
