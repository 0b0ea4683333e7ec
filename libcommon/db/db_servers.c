#include "libcommon/db/db_servers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/pause.h"
#include "libcommon/base/random.h"
#include "libcommon/db/db_connect.h"
#include "libcommon/db/db_internal.h"
#include "libcommon/telemetry/log.h"
#include "libcommon/telemetry/metrics.h"

#define ASK_EVERY_MS 500
#define ASK_TIMEOUT_SEC 1 /* the least that the client's library knows */

/* ---- the list ---- */

static bool parse_port(const char *text, size_t n, unsigned *port)
{
    unsigned value = 0;

    if (!n || n > 5)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (unsigned)(text[i] - '0');
    }
    *port = value;
    return value >= 1 && value <= 65535;
}

/* Where the host ends that begins with text, of n bytes; its port, if any, is behind a colon. */
static size_t host_end(const char *text, size_t n)
{
    const char *colon = memchr(text, ':', n);
    const char *end;

    if (*text == '[') {
        end = memchr(text, ']', n);
        return end ? (size_t)(end - text) + 1 : 0;
    }
    if (!colon || memchr(colon + 1, ':', n - (size_t)(colon + 1 - text)))
        return n; /* a name, or a bare IPv6 address */
    return (size_t)(colon - text);
}

static bool parse_server(const char *text, size_t n, unsigned port, struct db_server *server)
{
    size_t host = n ? host_end(text, n) : 0;
    bool bracketed = n && *text == '[';
    size_t len = bracketed && host ? host - 2 : host;

    if (!len || len > DB_SERVER_HOST_MAX)
        return false;
    *server = (struct db_server){.port = port};
    memcpy(server->host, text + bracketed, len);
    if (host == n)
        return true;
    return text[host] == ':' && parse_port(text + host + 1, n - host - 1, &server->port);
}

size_t db_servers_parse(const char *list, unsigned port, struct db_server servers[DB_SERVERS_MAX])
{
    for (size_t n = 0; n < DB_SERVERS_MAX; list++) {
        size_t len = strcspn(list, ",");

        if (!parse_server(list, len, port, &servers[n++]))
            return 0;
        list += len;
        if (!*list)
            return n;
    }
    return 0;
}

/* ---- the choice ---- */

struct db_servers_choice db_servers_choose(const enum db_server_state *states, size_t n, int before)
{
    struct db_servers_choice choice = {.current = before};
    size_t writable = 0;

    for (size_t i = 0; i < n; i++) {
        if (states[i] == DB_SERVER_UNKNOWN)
            return (struct db_servers_choice){.current = before};
        if (states[i] != DB_SERVER_WRITABLE)
            continue;
        choice.current = (int)i;
        writable++;
    }
    if (writable > 1)
        return (struct db_servers_choice){.current = before, .split = true};
    return choice;
}

/* ---- the watch ---- */

struct watcher {
    struct db_servers *parent;
    size_t server;
    pthread_t thread;
    MYSQL *mysql; /* NULL: closed */
    struct metric *state;
};

struct db_servers {
    struct db_settings
        settings; /* of its own: whoever joined first may be gone before the others */
    size_t users;
    struct db_servers *next;

    size_t n;
    struct db_server servers[DB_SERVERS_MAX];
    _Atomic unsigned generation;
    _Atomic bool writes_refused;
    struct pause pause; /* of the watchers */

    pthread_mutex_t lock;
    pthread_cond_t known; /* all have been asked once */
    enum db_server_state states[DB_SERVERS_MAX];
    struct db_servers_choice choice;
    struct db_servers_link *links;
    unsigned doubts;
    struct watcher watchers[DB_SERVERS_MAX];
};

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct db_servers *all;

static void put_name(const struct db_servers *s, size_t server, struct buf *out)
{
    const struct db_server *one = &s->servers[server];

    buf_printf(out, strchr(one->host, ':') ? "[%s]:%u" : "%s:%u", one->host, one->port);
}

static void put_names(const struct db_servers *s, enum db_server_state state, struct buf *out)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->states[i] != state)
            continue;
        if (out->len)
            buf_puts(out, ", ");
        put_name(s, i, out);
    }
}

/* Whoever waits for an answer of it would wait in vain, or hear of what no longer counts. */
static void cut_links(struct db_servers *s, int but)
{
    for (struct db_servers_link *link = s->links; link; link = link->next)
        if ((int)link->server != but)
            shutdown(link->fd, SHUT_RDWR);
}

static void tell_choice(const struct db_servers *s, const struct db_servers_choice *before)
{
    struct buf names = {0};

    if (s->choice.split && !before->split) {
        put_names(s, DB_SERVER_WRITABLE, &names);
        log_error("database.split", L_STR("servers", names.data ? names.data : ""),
                  L_MSG("more than one server takes writes; none is used until one alone does"));
    } else if (s->choice.current != before->current && before->current != DB_SERVER_NONE) {
        put_name(s, (size_t)s->choice.current, &names);
        log_info("database.chosen", L_STR("server", names.data ? names.data : ""));
    }
    buf_free(&names);
}

static bool all_known(const struct db_servers *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->states[i] == DB_SERVER_UNKNOWN)
            return false;
    return true;
}

/* lock is held. */
static void decide(struct db_servers *s)
{
    const struct db_servers_choice before = s->choice;

    s->choice = db_servers_choose(s->states, s->n, before.current);
    if (all_known(s))
        pthread_cond_broadcast(&s->known);
    if (s->choice.current == before.current && s->choice.split == before.split)
        return;
    atomic_fetch_add(&s->generation, 1);
    if (s->choice.current != before.current)
        cut_links(s, s->choice.current);
    tell_choice(s, &before);
}

static void set_state(struct db_servers *s, size_t server, enum db_server_state state)
{
    static const int64_t shown[] = {
        [DB_SERVER_AWAY] = 0, [DB_SERVER_READ_ONLY] = 1, [DB_SERVER_WRITABLE] = 2};

    pthread_mutex_lock(&s->lock);
    s->states[server] = state;
    decide(s);
    pthread_mutex_unlock(&s->lock);
    metrics_set(s->watchers[server].state, shown[state]);
}

/* A row that says yes; false also when there is no answer. */
typedef bool row_fn(MYSQL_ROW row);

static bool ask(MYSQL *mysql, const char *sql, row_fn *says, bool *yes)
{
    MYSQL_RES *rows;

    if (mysql_real_query(mysql, sql, strlen(sql)))
        return false;
    rows = mysql_store_result(mysql);
    if (!rows)
        return false;
    *yes = says(mysql_fetch_row(rows));
    mysql_free_result(rows);
    return !mysql_errno(mysql);
}

static bool row_is_replicas(MYSQL_ROW row)
{
    return row && row[1] && strcmp(row[1], "0") != 0;
}

/* MySQL tells only those who may ask whether it replicates; there read_only alone decides. */
static enum db_server_state question(MYSQL *mysql)
{
    struct buf sql = {0};
    bool writable = false;
    bool replica = false;
    bool ok;

    db_put_ask_writable(mysql, &sql);
    ok = !sql.failed && ask(mysql, sql.data, db_row_is_writable, &writable) &&
         (!writable || !mariadb_connection(mysql) ||
          ask(mysql, "SHOW GLOBAL STATUS LIKE 'Slaves_running'", row_is_replicas, &replica));
    buf_free(&sql);
    if (!ok)
        return DB_SERVER_AWAY;
    return writable && !replica ? DB_SERVER_WRITABLE : DB_SERVER_READ_ONLY;
}

static enum db_server_state ask_server(struct watcher *w)
{
    static const struct db_patience patience = {ASK_TIMEOUT_SEC, ASK_TIMEOUT_SEC};
    const struct db_servers *s = w->parent;
    enum db_server_state state;
    struct err ignored;

    if (!w->mysql)
        w->mysql = db_connect(&s->settings, &s->servers[w->server], patience, &ignored);
    if (!w->mysql)
        return DB_SERVER_AWAY;
    state = question(w->mysql);
    if (state == DB_SERVER_AWAY) {
        shutdown((int)mysql_get_socket(w->mysql), SHUT_RDWR); /* it is not asked to say goodbye */
        mysql_close(w->mysql);
        w->mysql = NULL;
    }
    return state;
}

struct doubt {
    struct db_servers *servers;
    unsigned seen;
};

static bool has_new_doubt(void *arg)
{
    struct doubt *d = arg;

    return d->servers->doubts != d->seen;
}

static void *watch_main(void *arg)
{
    struct watcher *w = arg;
    struct db_servers *s = w->parent;
    struct doubt doubt = {.servers = s};

    do {
        set_state(s, w->server, ask_server(w));
        /* A doubt that came meanwhile is answered by this very question, or by the next. */
        pthread_mutex_lock(&s->pause.lock);
        doubt.seen = s->doubts;
        pthread_mutex_unlock(&s->pause.lock);
    } while (!pause_for_or(&s->pause, ASK_EVERY_MS, has_new_doubt, &doubt));
    if (w->mysql)
        mysql_close(w->mysql);
    return NULL;
}

static void start_watcher(struct db_servers *s, size_t server)
{
    struct watcher *w = &s->watchers[server];
    struct buf labels = {0};

    *w = (struct watcher){.parent = s, .server = server};
    buf_puts(&labels, "server=\"");
    put_name(s, server, &labels);
    buf_puts(&labels, "\"");
    w->state = metrics_gauge("db_server_state",
                             "Each server of a list: 0 away, 1 takes no writes, 2 takes writes.",
                             labels.data);
    buf_free(&labels);
    MUST(pthread_create(&w->thread, NULL, watch_main, w) == 0);
    pthread_setname_np(w->thread, "db servers");
}

/* ---- those who share it ---- */

static void copy_settings(struct db_settings *to, const struct db_settings *from)
{
    *to = *from;
    to->host = must_strdup(from->host);
    to->name = must_strdup(from->name);
    to->user = must_strdup(from->user);
    to->password = must_strdup(from->password);
    to->tls_ca = must_strdup(from->tls_ca);
}

static void free_settings(struct db_settings *s)
{
    explicit_bzero(s->password, strlen(s->password));
    free(s->host);
    free(s->name);
    free(s->user);
    free(s->password);
    free(s->tls_ca);
}

static struct db_servers *make(const struct db_settings *settings)
{
    struct db_servers *s = must_alloc(1, sizeof(*s));

    copy_settings(&s->settings, settings);
    s->n = db_servers_parse(s->settings.host, (unsigned)settings->port, s->servers);
    MUST(s->n > 0);
    s->choice.current = s->n == 1 ? 0 : DB_SERVER_NONE;
    pthread_mutex_init(&s->lock, NULL);
    pause_cond_init(&s->known);
    pause_init(&s->pause);
    for (size_t i = 0; s->n > 1 && i < s->n; i++)
        start_watcher(s, i);
    return s;
}

static void destroy(struct db_servers *s)
{
    pause_stop(&s->pause);
    for (size_t i = 0; s->n > 1 && i < s->n; i++)
        pthread_join(s->watchers[i].thread, NULL);
    MUST(!s->links);
    pause_destroy(&s->pause);
    pthread_cond_destroy(&s->known);
    pthread_mutex_destroy(&s->lock);
    free_settings(&s->settings);
    free(s);
}

struct db_servers *db_servers_join(const struct db_settings *settings)
{
    struct db_servers *s;

    pthread_mutex_lock(&all_lock);
    for (s = all;
         s && (strcmp(s->settings.host, settings->host) != 0 || s->settings.port != settings->port);
         s = s->next)
        ;
    if (!s) {
        s = make(settings);
        s->next = all;
        all = s;
    }
    s->users++;
    pthread_mutex_unlock(&all_lock);
    return s;
}

void db_servers_leave(struct db_servers *s)
{
    struct db_servers **at = &all;
    bool last;

    pthread_mutex_lock(&all_lock);
    last = --s->users == 0;
    while (last && *at != s)
        at = &(*at)->next;
    if (last)
        *at = s->next;
    pthread_mutex_unlock(&all_lock);
    if (last)
        destroy(s);
}

/* ---- picking ---- */

const struct db_server *db_servers_at(const struct db_servers *s, size_t server)
{
    return &s->servers[server];
}

static int none_to_pick(const struct db_servers *s, struct err *err)
{
    struct buf names = {0};
    unsigned code = 0;

    if (s->choice.split) {
        put_names(s, DB_SERVER_WRITABLE, &names);
        err_set(err, ERR_RETRY, DB_E_READ_ONLY,
                "connect: more than one server of DB_HOST takes writes, so none is used: %s",
                names.data ? names.data : "");
        buf_free(&names);
        return -1;
    }
    for (size_t i = 0; i < s->n; i++)
        if (s->states[i] == DB_SERVER_READ_ONLY)
            code = DB_E_READ_ONLY;
    return err_set(err, ERR_RETRY, code, "connect: %s",
                   code ? "no server of DB_HOST takes writes"
                        : "no server of DB_HOST can be reached");
}

/* Another one for each, so that reading is spread; the next when that one is away. */
static int pick_copy(const struct db_servers *s, size_t *server, struct err *err)
{
    size_t first = (size_t)(random_u64() % s->n);

    for (size_t i = 0; i < s->n; i++) {
        *server = (first + i) % s->n;
        if (s->states[*server] != DB_SERVER_AWAY)
            return 0;
    }
    return err_set(err, ERR_RETRY, 0, "connect: no server of DB_READ_HOST can be reached");
}

static int pick(const struct db_servers *s, enum db_use use, size_t *server, struct err *err)
{
    int current = s->choice.current;

    if (use == DB_USE_COPY)
        return pick_copy(s, server, err);
    if (current == DB_SERVER_NONE ||
        (use == DB_USE_WRITES && (s->choice.split || s->states[current] == DB_SERVER_READ_ONLY)))
        return none_to_pick(s, err);
    *server = (size_t)current;
    return 0;
}

int db_servers_pick(struct db_servers *s, enum db_use use, size_t *server, struct err *err)
{
    struct timespec until = pause_until(s->settings.connect_timeout_ms);
    int rc;

    *server = 0;
    if (s->n == 1)
        return 0;
    pthread_mutex_lock(&s->lock);
    while (!all_known(s) && pause_cond_wait(&s->known, &s->lock, &until))
        ;
    rc = pick(s, use, server, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

unsigned db_servers_generation(const struct db_servers *s)
{
    return atomic_load(&s->generation);
}

void db_servers_refused(struct db_servers *s, size_t server, unsigned generation)
{
    if (generation == db_servers_generation(s) && !atomic_exchange(&s->writes_refused, true))
        atomic_fetch_add(&s->generation, 1);
    if (s->n == 1)
        return;
    pthread_mutex_lock(&s->lock);
    if (s->states[server] == DB_SERVER_WRITABLE)
        s->states[server] = DB_SERVER_READ_ONLY;
    pthread_mutex_unlock(&s->lock);
    db_servers_doubt(s);
}

void db_servers_took_writes(struct db_servers *s)
{
    if (atomic_exchange(&s->writes_refused, false))
        atomic_fetch_add(&s->generation, 1);
}

void db_servers_doubt(struct db_servers *s)
{
    if (s->n == 1)
        return;
    pthread_mutex_lock(&s->pause.lock);
    s->doubts++;
    pthread_mutex_unlock(&s->pause.lock);
    pause_poke(&s->pause);
}

void db_servers_add(struct db_servers *s, struct db_servers_link *link)
{
    pthread_mutex_lock(&s->lock);
    link->at = &s->links;
    link->next = s->links;
    if (link->next)
        link->next->at = &link->next;
    s->links = link;
    pthread_mutex_unlock(&s->lock);
}

void db_servers_remove(struct db_servers *s, struct db_servers_link *link)
{
    if (!link->at)
        return;
    pthread_mutex_lock(&s->lock);
    *link->at = link->next;
    if (link->next)
        link->next->at = link->at;
    link->at = NULL;
    pthread_mutex_unlock(&s->lock);
}
