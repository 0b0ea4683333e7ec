#include "test/unit/fake_db.h"

#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/db/db_internal.h"
#include "libcommon/domain/webhook_set.h"
#include "test/unit/complain.h"

#define STEPS_MAX 128
#define COLUMNS_MAX 32

struct db {
    bool connected;
    bool begins;            /* the next packet begins a transaction */
    bool open;              /* one is open */
    bool broken;            /* ... and a statement of it has failed */
    unsigned session, lost; /* which it has had, counted; the one that was lost last */
};

/* What MYSQL_RES is here: the cells of all rows, cut out of one copy of the text. */
struct st_mysql_res {
    size_t rows, columns, at;
    char **cells;
    unsigned long *lengths;
    char text[];
};

static struct {
    pthread_mutex_t lock;
    pthread_t thread; /* the test's own */
    struct fake_db_step steps[STEPS_MAX];
    char *sql[STEPS_MAX]; /* what ran for each step */
    size_t n, at;
    struct buf ran;
    size_t packet_max;
    bool takes_blocks;
} script = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Under the lock. */
#define complain(format, ...)            \
    (pthread_mutex_unlock(&script.lock), \
     complain_from(script.thread, format " (ran: %s)", __VA_ARGS__, fake_db_ran()))

/* ---- the script ---- */

static void forget(void)
{
    for (size_t i = 0; i < STEPS_MAX; i++) {
        free(script.sql[i]);
        script.sql[i] = NULL;
    }
    script.n = script.at = 0;
    buf_free(&script.ran);
    script.packet_max = FAKE_PACKET_MAX;
    script.takes_blocks = false;
}

void fake_db_begin(void)
{
    forget();
    script.thread = pthread_self();
    webhook_set_know(NULL, 0,
                     WEBHOOK_SET_FOR_GOOD); /* nobody is told of anything, unless a test says so */
}

void fake_db_end(void)
{
    pthread_mutex_lock(&script.lock);
    if (script.at < script.n)
        complain("%s was expected and never ran", script.steps[script.at].query);
    forget();
    pthread_mutex_unlock(&script.lock);
}

void fake_db_set_packet_max(size_t bytes)
{
    script.packet_max = bytes;
}

void fake_db_set_takes_blocks(bool yes)
{
    script.takes_blocks = yes;
}

void fake_db_expect(const struct fake_db_step *step)
{
    pthread_mutex_lock(&script.lock);
    MUST(script.n < STEPS_MAX);
    script.steps[script.n++] = *step;
    pthread_mutex_unlock(&script.lock);
}

const char *fake_db_ran(void)
{
    return script.ran.data ? script.ran.data : "";
}

const char *fake_db_sql(const char *query)
{
    for (size_t i = script.at; i--;)
        if (!strcmp(script.steps[i].query, query))
            return script.sql[i] ? script.sql[i] : "";
    ck_abort_msg("%s has not run", query);
}

static void record(const char *word)
{
    if (script.ran.len)
        buf_putc(&script.ran, ' ');
    buf_puts(&script.ran, word);
}

static bool is_next(const char *query)
{
    return script.at < script.n && !strcmp(script.steps[script.at].query, query);
}

static const struct fake_db_step *take_step(const char *query, const char *sql, size_t n)
{
    const struct fake_db_step *step = &script.steps[script.at];

    if (script.at == script.n)
        complain("nothing more was expected, but %s ran: %.*s", query, (int)n, sql);
    if (!is_next(query))
        complain("%s was expected, but %s ran: %.*s", step->query, query, (int)n, sql);
    free(script.sql[script.at]);
    script.sql[script.at] = strndup(sql, n);
    for (size_t i = 0; i < sizeof(step->has) / sizeof(*step->has) && step->has[i]; i++)
        if (!strstr(script.sql[script.at], step->has[i]))
            complain("%s does not say %s: %.*s", query, step->has[i], (int)n, sql);
    for (size_t i = 0; i < sizeof(step->lacks) / sizeof(*step->lacks) && step->lacks[i]; i++)
        if (strstr(script.sql[script.at], step->lacks[i]))
            complain("%s says %s: %.*s", query, step->lacks[i], (int)n, sql);
    script.at++;
    record(query);
    return step;
}

static int fail_with(const char *what, unsigned code, struct err *err)
{
    return err_set(err, db_error_kind(code), code, "%s: as scripted", what);
}

/* ---- connections ---- */

struct db *db_new(const struct db_settings *settings)
{
    (void)settings;
    return must_alloc(1, sizeof(struct db));
}

struct db *db_new_reader(const struct db_settings *settings)
{
    return db_new(settings);
}

struct db *db_new_copy_reader(const struct db_settings *settings)
{
    return db_new(settings);
}

struct db *fake_db_new(void)
{
    struct db *db = db_new(NULL);

    db->connected = true;
    db->session = 1;
    return db;
}

void db_free(struct db *db)
{
    free(db);
}

static void disconnect(struct db *db)
{
    *db = (struct db){.session = db->session, .lost = db->connected ? db->session : db->lost};
}

/* One that need not be expected. */
static int run_optional(struct db *db, const char *query, const char *text, struct err *err)
{
    const struct fake_db_step *step = is_next(query) ? take_step(query, text, strlen(text)) : NULL;

    if (!step || !step->error)
        return 0;
    if (db_error_is_lost(step->error))
        disconnect(db);
    return fail_with(query, step->error, err);
}

int db_acquire(struct db *db, struct err *err)
{
    int rc;

    pthread_mutex_lock(&script.lock);
    rc = run_optional(db, "acquire", "", err);
    if (!rc && !db->connected)
        db->session++;
    if (!rc)
        db->connected = true;
    pthread_mutex_unlock(&script.lock);
    return rc;
}

struct db_lost_session db_lost_session(const struct db *db)
{
    return (struct db_lost_session){.id = db->connected ? 0 : db->lost};
}

int db_end_lost_session(struct db *db, struct db_lost_session *lost, struct err *err)
{
    char text[64];
    int rc = 0;

    pthread_mutex_lock(&script.lock);
    if (lost->id) {
        if (!is_next("end_lost_session"))
            record("end_lost_session");
        snprintf(text, sizeof(text), "session %llu", (unsigned long long)lost->id);
        rc = run_optional(db, "end_lost_session", text, err);
        if (!rc)
            lost->id = 0;
    }
    pthread_mutex_unlock(&script.lock);
    return rc;
}

int db_ask_writable(struct db *db, struct db_label *label, struct err *err)
{
    return db_run(db, label, "", 0, NULL, err);
}

void db_drop(struct db *db)
{
    pthread_mutex_lock(&script.lock);
    if (db->connected)
        record("drop");
    disconnect(db);
    pthread_mutex_unlock(&script.lock);
}

void db_release(struct db *db)
{
    db->begins = false;
    if (db->open)
        db_rollback(db);
}

/* ---- answers ---- */

static size_t count(const char *text, char what)
{
    size_t n = 0;

    for (; *text; text++)
        n += *text == what;
    return n;
}

static struct st_mysql_res *parse_rows(const char *text)
{
    size_t len = strlen(text);
    struct st_mysql_res *r = must_alloc(1, sizeof(*r) + len + 1);
    char *at = r->text;
    size_t cells;

    memcpy(r->text, text, len + 1);
    r->rows = len ? count(text, '\n') + 1 : 0;
    r->columns = r->rows ? (count(text, '|') + r->rows) / r->rows : 0;
    cells = r->rows * r->columns;
    MUST(r->columns <= COLUMNS_MAX && (!len || cells == count(text, '|') + r->rows));
    r->cells = must_alloc(cells + 1, sizeof(char *));
    r->lengths = must_alloc(cells + 1, sizeof(unsigned long));
    for (size_t i = 0; i < cells; i++) {
        r->lengths[i] = strcspn(at, "|\n");
        at[r->lengths[i]] = '\0';
        r->cells[i] = strcmp(at, "\\N") != 0 ? at : NULL;
        at += r->lengths[i] + 1;
    }
    return r;
}

static struct db_set set_of(const char *rows, uint64_t affected)
{
    struct db_set set = {.affected = affected};

    if (rows) {
        set.rows = parse_rows(rows);
        set.affected = set.rows->rows;
    }
    return set;
}

static void check_names(const struct fake_db_step *step, const struct db_packet *p)
{
    for (size_t i = 0; i < 4 && step->answers[i].name; i++) {
        size_t k = 0;

        while (k < p->named && strcmp(p->names[k].name, step->answers[i].name) != 0)
            k++;
        if (k == p->named)
            complain("%s has no statement named %s", step->query, step->answers[i].name);
    }
}

static void answer_packet(const struct fake_db_step *step, const struct db_packet *p,
                          struct db_results *to)
{
    check_names(step, p);
    for (size_t k = 0; to && k < p->named; k++) {
        to->names[k] = p->names[k].name;
        to->set[k] = set_of("", 0);
        for (size_t i = 0; i < 4 && step->answers[i].name; i++)
            if (!strcmp(step->answers[i].name, p->names[k].name)) {
                db_results_free(&(struct db_results){.n = 1, .set = {to->set[k]}});
                to->set[k] = set_of(step->answers[i].rows, step->answers[i].affected);
            }
        to->n++;
    }
}

void db_results_free(struct db_results *results)
{
    for (size_t i = 0; i < results->n; i++) {
        if (!results->set[i].rows)
            continue;
        free(results->set[i].rows->cells);
        free(results->set[i].rows->lengths);
        free(results->set[i].rows);
    }
    results->n = 0;
}

char **db_next(struct db_set *set)
{
    struct st_mysql_res *r = set->rows;
    size_t at;

    if (!r || r->at == r->rows)
        return NULL;
    at = r->at++ * r->columns;
    set->lengths = &r->lengths[at];
    return &r->cells[at];
}

static bool ends_in_commit(const char *sql, size_t n)
{
    return n >= 6 && !memcmp(sql + n - 6, "COMMIT", 6);
}

static bool is_block(const char *sql, size_t n)
{
    static const char begin[] = "BEGIN NOT ATOMIC ";

    return n > strlen(begin) && !memcmp(sql, begin, strlen(begin));
}

/* To a savepoint: what failed after it is undone. */
static bool goes_back(const char *sql, size_t n)
{
    static const char back[] = "ROLLBACK TO SAVEPOINT ";

    return n > strlen(back) && !memcmp(sql, back, strlen(back));
}

static int fail_step(struct db *db, const struct fake_db_step *step, struct err *err)
{
    db->broken = db->open;
    if (db_error_is_lost(step->error))
        disconnect(db);
    else if (db_error_ends_session(step->error))
        *db = (struct db){.session = db->session, .lost = db->lost};
    return fail_with(step->query, step->error, err);
}

static int run(struct db *db, const char *query, const char *sql, size_t n,
               const struct db_packet *p, struct db_results *results, struct err *err)
{
    const struct fake_db_step *step;

    if (results)
        *results = (struct db_results){0};
    if (!db->connected) {
        db->begins = false;
        return err_set(err, ERR_RETRY, 2006, "%s: not connected", query);
    }
    if (goes_back(sql, n))
        db->broken = false;
    if (db->broken)
        complain("%s ran after a failure in its transaction", query);
    if (n > script.packet_max) {
        record("too_large");
        return fail_with(query, FAKE_TOO_LARGE, err);
    }
    if (db->begins) {
        record("begin");
        db->begins = false;
        db->open = true;
    }
    step = take_step(query, sql, n);
    if (is_block(sql, n))
        db->open = step->error; /* one that fails leaves its transaction behind */
    if (step->meanwhile) {
        pthread_mutex_unlock(&script.lock);
        step->meanwhile();
        pthread_mutex_lock(&script.lock);
    }
    if (step->error)
        return fail_step(db, step, err);
    if (ends_in_commit(sql, n))
        db->open = false;
    if (p) {
        answer_packet(step, p, results);
    } else if (results) {
        results->n = 1;
        results->set[0] = set_of(step->rows, step->affected);
    }
    return 0;
}

static int run_locked(struct db *db, const struct db_label *label, const struct buf *sql,
                      const struct db_packet *p, struct db_results *results, struct err *err)
{
    int rc;

    pthread_mutex_lock(&script.lock);
    if (!label->ok)
        complain("%s ran before its label was registered", label->query);
    if (sql->failed && db->connected)
        complain("%s could not be put together", label->query);
    rc = run(db, label->query, sql->data, sql->len, p, results, err);
    pthread_mutex_unlock(&script.lock);
    return rc;
}

int db_run_packet(struct db *db, struct db_label *label, const struct db_packet *p,
                  struct db_results *results, struct err *err)
{
    return run_locked(db, label, &p->sql, p, results, err);
}

int db_run_buf(struct db *db, struct db_label *label, const struct buf *sql,
               struct db_results *results, struct err *err)
{
    return run_locked(db, label, sql, NULL, results, err);
}

int db_run(struct db *db, struct db_label *label, const char *sql, size_t n,
           struct db_results *results, struct err *err)
{
    struct buf copy = {0};
    int rc;

    buf_put(&copy, sql, n);
    rc = run_locked(db, label, &copy, NULL, results, err);
    buf_free(&copy);
    return rc;
}

bool db_takes_blocks(const struct db *db)
{
    (void)db;
    return script.takes_blocks;
}

int db_run_prepared(struct db *db, struct db_label *label, const struct buf *sql, uint64_t *rows,
                    struct err *err)
{
    struct db_results results;
    int rc = db_run_buf(db, label, sql, &results, err);

    *rows = !rc && results.set[0].rows ? results.set[0].rows->rows : 0;
    db_results_free(&results);
    return rc;
}

size_t db_packet_max(const struct db *db)
{
    (void)db;
    return script.packet_max;
}

void db_label_register(struct db_label *label)
{
    static char registered;

    label->ok = (struct metric *)(void *)&registered;
}

/* ---- transactions ---- */

void db_begin(struct db *db)
{
    pthread_mutex_lock(&script.lock);
    if (db->broken)
        complain("%s where one had failed and was not rolled back", "a transaction began");
    db->begins = true;
    pthread_mutex_unlock(&script.lock);
}

int db_commit(struct db *db, struct err *err)
{
    int rc = 0;

    pthread_mutex_lock(&script.lock);
    if (db->begins)
        db->begins = false; /* nothing was done in it */
    else
        rc = run(db, "commit", "COMMIT", 6, NULL, NULL, err);
    if (rc && db_outcome_unknown(err))
        err->kind = ERR_UNKNOWN;
    pthread_mutex_unlock(&script.lock);
    return rc;
}

void db_rollback(struct db *db)
{
    pthread_mutex_lock(&script.lock);
    if (db->connected)
        record("rollback");
    db->begins = db->open = db->broken = false;
    pthread_mutex_unlock(&script.lock);
}

/* ---- literals ---- */

void db_put_quoted(struct db *db, struct buf *sql, const char *s, size_t n)
{
    if (!db->connected)
        sql->failed = true;
    buf_putc(sql, '\'');
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\'' || s[i] == '\\')
            buf_putc(sql, '\\');
        buf_putc(sql, s[i]);
    }
    buf_putc(sql, '\'');
}

void db_put_bytes(struct buf *sql, const void *p, size_t n)
{
    buf_puts(sql, "x'");
    buf_put_hex(sql, p, n);
    buf_putc(sql, '\'');
}
