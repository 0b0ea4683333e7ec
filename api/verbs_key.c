#include <fcntl.h>
#include <openssl/crypto.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/admin_act.h"
#include "api/key_listing.h"
#include "api/key_store.h"
#include "api/restore.h"
#include "api/settings.h"
#include "api/verbs.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/pause.h"
#include "libcommon/db/schema.h"
#include "libcommon/telemetry/log.h"

#define PATIENCE_MS 15000 /* with a database that is away, or another process that is at it */
#define RETRY_MS 200
#define LOG_FLUSH_MS 5000

/* What was asked for, and what came of it. */
struct order {
    struct key_wish wish;
    uint64_t id;
    int64_t grace_sec;
    bool json;
    char text[KEY_TEXT_MAX]; /* a new key, until it is shown */
    uint8_t hash[KEY_HASH_LEN];
    uint64_t new_id;
    bool made;
};

typedef int order_fn(struct db *db, struct order *o, struct err *err);

/* ---- the database ---- */

static int try_once(struct db *db, order_fn *fn, struct order *o, struct err *err)
{
    int rc = db_acquire(db, err);

    if (!rc)
        rc = schema_need(db, err);
    if (!rc)
        rc = fn(db, o, err);
    db_release(db);
    return rc;
}

static bool may_help(const struct err *err)
{
    return (err->kind == ERR_RETRY || err->kind == ERR_UNKNOWN) && !db_is_forbidden(err);
}

static const char *advice(const struct err *err)
{
    if (db_is_forbidden(err))
        return " (the accounts of msg-api and of the migration may: sql/grants.sql)";
    return err->kind == ERR_UNKNOWN ? " (may have been done: see msg-api key list)" : "";
}

/* Each of them may be repeated (key_store.h). */
static int act(const char *verb, order_fn *fn, struct order *o)
{
    int64_t give_up_ms = clock_mono_ms() + PATIENCE_MS;
    struct db *db = db_new(&api_settings.db);
    struct err err;
    int rc = try_once(db, fn, o, &err);

    while (rc && may_help(&err) && clock_mono_ms() < give_up_ms) {
        pause_sleep(RETRY_MS);
        rc = try_once(db, fn, o, &err);
    }
    db_free(db);
    if (rc)
        fprintf(stderr, "msg-api key %s: %s%s\n", verb, err.msg, advice(&err));
    return rc;
}

/* ---- what is printed ---- */

/* Past the buffers of stdio, which would keep it. */
static int show_key(struct order *o)
{
    size_t n = strlen(o->text);
    bool shown;

    o->text[n++] = '\n';
    shown = write(STDOUT_FILENO, o->text, n) == (ssize_t)n;
    OPENSSL_cleanse(o->text, sizeof(o->text));
    if (!shown && o->new_id)
        fprintf(stderr, "key %llu was made and could not be shown: revoke it\n",
                (unsigned long long)o->new_id);
    return shown ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* A key that nobody would see is not made. */
static bool can_show(const char *verb)
{
    if (fcntl(STDOUT_FILENO, F_GETFD) >= 0)
        return true;
    fprintf(stderr, "msg-api key %s: stdout is closed, and the key would be lost\n", verb);
    return false;
}

static void describe_wish(const struct key_wish *w, struct buf *out)
{
    buf_puts(out, "scopes=");
    key_scopes_put(out, w->scopes);
    buf_printf(out, " customer=%lld networks=%s expires_sec=%lld", (long long)w->customer_id,
               w->networks, (long long)w->expires_sec);
}

/* ---- create, rotate, revoke ---- */

static int create_in(struct db *db, struct order *o, struct err *err)
{
    return key_store_create(db, &o->wish, o->hash, &o->new_id, err);
}

static int run_create(struct order *o)
{
    struct buf what = {0};

    if (!can_show("create"))
        return EXIT_FAILURE;
    key_text_new(o->text, api_settings.key_cell, o->hash);
    if (act("create", create_in, o))
        return EXIT_FAILURE;
    describe_wish(&o->wish, &what);
    admin_act_log("create", o->new_id, what.data);
    fprintf(stderr, "key %llu is made (%s); this is the only time that it is shown\n",
            (unsigned long long)o->new_id, what.data ? what.data : "");
    buf_free(&what);
    return show_key(o);
}

static int rotate_in(struct db *db, struct order *o, struct err *err)
{
    return key_store_rotate(db, o->id, o->grace_sec, o->hash, &o->new_id, err);
}

static int run_rotate(struct order *o)
{
    char what[96];

    if (!can_show("rotate"))
        return EXIT_FAILURE;
    key_text_new(o->text, api_settings.key_cell, o->hash);
    if (act("rotate", rotate_in, o))
        return EXIT_FAILURE;
    snprintf(what, sizeof(what), "replaced_by=%llu grace_sec=%lld", (unsigned long long)o->new_id,
             (long long)o->grace_sec);
    admin_act_log("rotate", o->id, what);
    fprintf(stderr,
            "key %llu takes the place of %llu, which ends in %lld s; this is the only time that it "
            "is shown\n",
            (unsigned long long)o->new_id, (unsigned long long)o->id, (long long)o->grace_sec);
    return show_key(o);
}

static int revoke_in(struct db *db, struct order *o, struct err *err)
{
    return key_store_revoke(db, o->id, err);
}

static int run_revoke(struct order *o)
{
    if (act("revoke", revoke_in, o))
        return EXIT_FAILURE;
    admin_act_log("revoke", o->id, NULL);
    fprintf(stderr, "key %llu is revoked; no replica serves it in three seconds\n",
            (unsigned long long)o->id);
    return EXIT_SUCCESS;
}

/* ---- the first key ---- */

static int bootstrap_in(struct db *db, struct order *o, struct err *err)
{
    return key_store_bootstrap(db, o->hash, &o->new_id, &o->made, err);
}

/* Whether the key is one that was given to us; it is needed no longer. */
static bool take_given(struct order *o)
{
    bool given = *api_settings.admin_key;

    if (given)
        key_text_read(api_settings.admin_key, strlen(api_settings.admin_key), o->hash);
    OPENSSL_cleanse(api_settings.admin_key, strlen(api_settings.admin_key));
    return given;
}

static int run_bootstrap(struct order *o)
{
    bool given = take_given(o);

    if (!given) {
        if (!can_show("bootstrap"))
            return EXIT_FAILURE;
        key_text_new(o->text, api_settings.key_cell, o->hash);
    }
    if (act("bootstrap", bootstrap_in, o))
        return EXIT_FAILURE;
    if (!o->new_id) {
        fprintf(stderr, "there is or was an admin key: nothing was done%s\n",
                given ? "; API_ADMIN_KEY is none that is known" : "");
        return EXIT_SUCCESS;
    }
    if (given && !o->made) {
        fprintf(stderr, "API_ADMIN_KEY is key %llu already: nothing was done\n",
                (unsigned long long)o->new_id);
        return EXIT_SUCCESS;
    }
    admin_act_log("bootstrap", o->new_id, given ? "given" : "made");
    fprintf(stderr, "key %llu is the first admin key%s\n", (unsigned long long)o->new_id,
            given ? "" : "; this is the only time that it is shown");
    return given ? EXIT_SUCCESS : show_key(o);
}

/* For who installs: it becomes a key by bootstrap. */
static int run_generate(struct order *o)
{
    key_text_new(o->text, api_settings.key_cell, o->hash);
    return show_key(o);
}

/* ---- list ---- */

/* Not repeated: a part of it may have been printed. */
static int run_list(struct order *o)
{
    struct db *db = db_new_reader(&api_settings.db);
    struct err err;
    int rc = db_acquire(db, &err);

    if (!rc)
        rc = schema_need(db, &err);
    if (!rc)
        rc = key_listing_print(db, o->json, &err);
    db_release(db);
    db_free(db);
    if (rc)
        fprintf(stderr, "msg-api key list: %s\n", err.msg);
    else if (fflush(stdout) || ferror(stdout))
        rc = -1;
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ---- words ---- */

/* "--name=value" or "--name value"; NULL: another word, or nothing after it. */
static const char *value_of(const char *name, int argc, char **argv, int *i)
{
    const char *word = argv[*i];
    size_t n = strlen(name);

    if (!word || strncmp(word, name, n) != 0)
        return NULL;
    if (word[n] == '=')
        return word + n + 1;
    return !word[n] && *i + 1 < argc ? argv[++*i] : NULL;
}

static bool parse_number(const char *text, uint64_t *number)
{
    size_t n = strlen(text);

    *number = strtoull(text, NULL, 10);
    return n > 0 && n <= 18 && strspn(text, "0123456789") == n && *number > 0;
}

static bool say(const char *fault)
{
    fprintf(stderr, "msg-api key: %s\n", fault);
    return false;
}

static bool parse_create_word(int argc, char **argv, int *i, struct key_wish *w)
{
    const char *value;
    uint64_t number;

    if ((value = value_of("--label", argc, argv, i))) {
        w->label = value;
        return true;
    }
    if ((value = value_of("--scopes", argc, argv, i)))
        return key_scopes_read(value, &w->scopes) ||
               say("scopes are send, read, topup, admin, metrics and webhooks, each once, with "
                   "commas");
    if ((value = value_of("--customer", argc, argv, i))) {
        if (!parse_number(value, &number))
            return say("a customer is a whole number above 0");
        w->customer_id = (int64_t)number;
        return true;
    }
    if ((value = value_of("--expires", argc, argv, i)))
        return (restore_parse_age(value, &w->expires_sec) && w->expires_sec > 0) ||
               say("an age is like 90s, 15m, 36h or 90d, at most 3650d");
    if ((value = value_of("--from", argc, argv, i)) && *value) {
        w->networks = value;
        return true;
    }
    return false;
}

static bool parse_create(int argc, char **argv, struct order *o)
{
    const char *fault;

    o->wish.networks = "";
    for (int i = 0; i < argc; i++)
        if (!parse_create_word(argc, argv, &i, &o->wish))
            return false;
    fault = key_wish_fault(&o->wish);
    return !fault || say(fault);
}

static bool parse_nothing(int argc, char **argv, struct order *o)
{
    (void)argv;
    (void)o;
    return argc == 0;
}

static bool parse_list(int argc, char **argv, struct order *o)
{
    o->json = argc == 1 && !strcmp(argv[0], "--json");
    return argc == 0 || o->json;
}

static bool parse_revoke(int argc, char **argv, struct order *o)
{
    return argc == 1 && parse_number(argv[0], &o->id);
}

static bool parse_rotate(int argc, char **argv, struct order *o)
{
    if (argc < 1 || !parse_number(argv[0], &o->id))
        return false;
    for (int i = 1; i < argc; i++) {
        const char *value = value_of("--grace", argc, argv, &i);

        if (!value || !restore_parse_age(value, &o->grace_sec))
            return false;
    }
    return true;
}

static const struct {
    const char *name;
    bool (*parse)(int argc, char **argv, struct order *o);
    int (*run)(struct order *o);
} words[] = {
    {"create", parse_create, run_create},        {"list", parse_list, run_list},
    {"revoke", parse_revoke, run_revoke},        {"rotate", parse_rotate, run_rotate},
    {"bootstrap", parse_nothing, run_bootstrap}, {"generate", parse_nothing, run_generate},
};

int verbs_key(int argc, char **argv)
{
    struct order o = {0};
    size_t word = 0;
    int rc;

    while (argc && word < sizeof(words) / sizeof(words[0]) &&
           strcmp(argv[0], words[word].name) != 0)
        word++;
    if (!argc || word == sizeof(words) / sizeof(words[0]) ||
        !words[word].parse(argc - 1, argv + 1, &o))
        return DAEMON_USAGE;
    signal(SIGPIPE, SIG_IGN); /* who does not read a new key shall know which one it was */
    key_store_register();
    log_to_stderr();
    log_start(api_program.name, LOG_INFO);
    rc = words[word].run(&o);
    OPENSSL_cleanse(o.text, sizeof(o.text));
    log_stop(LOG_FLUSH_MS);
    return rc;
}
