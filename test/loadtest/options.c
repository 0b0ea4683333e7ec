#include "test/loadtest/options.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "test/loadtest/pace.h"
#include "test/loadtest/zipf.h"

#define YEAR_US (365LL * 86400 * 1000000)

enum kind { KIND_STRING, KIND_COUNT, KIND_NUMBER, KIND_DURATION, KIND_FLAG };

struct option {
    const char *name;
    enum kind kind;
    size_t offset;
    const char *initial;
    double min, max;
    const char *help;
};

#define AT(field) offsetof(struct options, field)

static const struct option table[] = {
    {"base-url", KIND_STRING, AT(base_url), "http://localhost:8080", 0, 0, "where msg-api listens"},
    {"ca-file", KIND_STRING, AT(ca_file), "", 0, 0,
     "https: file with the authority of the server's certificate; empty: the system's"},
    {"api-key", KIND_STRING, AT(api_key), "", 0, 0,
     "API key, where msg-api asks for one; others on this machine see it among the processes"},
    {"api-key-file", KIND_STRING, AT(api_key_file), "", 0, 0, "file with the API key"},
    {"rps", KIND_NUMBER, AT(rps), "200", 0, 1e7,
     "sends a second, each due at a time of its own, from which its latency counts; 0: as fast as "
     "the workers get answers"},
    {"rate-curve", KIND_STRING, AT(rate_curve), "", 0, 0,
     "factors of -rps for equal parts of -duration, one after the other (0.5,2,1), their mean "
     "taken "
     "as 1; empty: even"},
    {"duration", KIND_DURATION, AT(duration_us), "30s", 0, 0, "how long to send"},
    {"concurrency", KIND_COUNT, AT(concurrency), "100", 1, 10000, "workers, a connection each"},
    {"user-start", KIND_COUNT, AT(user_start), "1", 1, 1e15, "first customer"},
    {"users", KIND_COUNT, AT(users), "1000", 1, 1e9, "customers"},
    {"users-zipf", KIND_NUMBER, AT(users_zipf), "0", 0, 10,
     "customers are drawn, the k-th with a share as 1/k^X, instead of taking turns; 0: they take "
     "turns"},
    {"recipients", KIND_COUNT, AT(recipients), "1", 1, 10000, "recipients of a send"},
    {"express-ratio", KIND_NUMBER, AT(express_ratio), "0.1", 0, 1, "share of express messages"},
    {"timeout", KIND_DURATION, AT(timeout_us), "3s", 0, 0, "longest wait for an answer"},
    {"seed-only", KIND_FLAG, AT(seed_only), "false", 0, 0, "seed balances and end"},
    {"seed-balance", KIND_COUNT, AT(seed_balance), "0", 0, 1e12,
     "deposit for each customer before the run, on top of what is there; 0: none"},
    {"seed-concurrency", KIND_COUNT, AT(seed_concurrency), "50", 1, 10000,
     "connections of -seed-method http"},
    {"seed-timeout", KIND_DURATION, AT(seed_timeout_us), "2m", 0, 0, "longest time seeding takes"},
    {"seed-desc", KIND_STRING, AT(seed_desc), "Load test seed", 0, 0,
     "description of the deposits"},
    {"seed-method", KIND_STRING, AT(seed_method), "db", 0, 0,
     "db: ledger and balances in the database; http: POST /balance/add"},
    {"seed-db-dsn", KIND_STRING, AT(seed_db_dsn),
     "message_user:message_pass@tcp(localhost:3306)/messaging_platform", 0, 0,
     "the database, for seeding and for -verify; whoever may list processes sees it: better in the "
     "environment, SEED_DB_DSN, or in the file that SEED_DB_DSN_FILE names"},
    {"verify", KIND_FLAG, AT(verify), "false", 0, 0,
     "wait until all is delivered, then check that accepted = charged = settled = accepted by the "
     "operators"},
    {"operators", KIND_STRING, AT(operators), "", 0, 0,
     "-verify: URLs of the simulators, comma-separated; without them their ledgers are not asked"},
    {"drain-timeout", KIND_DURATION, AT(drain_timeout_us), "2m", 0, 0,
     "-verify: longest wait for the last message"},
    {"json", KIND_FLAG, AT(json), "false", 0, 0, "print the results as one JSON object"},
    {"help", KIND_FLAG, AT(help), "false", 0, 0, "print this"},
};

#define OPTIONS (sizeof(table) / sizeof(table[0]))

bool options_duration(const char *text, int64_t *us)
{
    static const struct {
        const char *name;
        double us;
    } units[] = {{"us", 1}, {"ms", 1e3}, {"s", 1e6}, {"m", 60e6}, {"h", 3600e6}};
    double total = 0;

    if (!strcmp(text, "0")) {
        *us = 0;
        return true;
    }
    if (!*text)
        return false;
    while (*text) {
        char *end;
        double value;
        size_t i = 0;
        size_t n;

        value = strtod(text, &end);
        if (end == text || end != text + strspn(text, "0123456789."))
            return false;
        n = strcspn(end, "0123456789.");
        while (i < sizeof(units) / sizeof(units[0]) &&
               (strlen(units[i].name) != n || memcmp(units[i].name, end, n) != 0))
            i++;
        if (i == sizeof(units) / sizeof(units[0]))
            return false;
        total += value * units[i].us;
        text = end + n;
    }
    if (!(total <= (double)YEAR_US))
        return false;
    *us = llround(total);
    return true;
}

static char *cut(const char *from, const char *to)
{
    size_t n = (size_t)(to - from);
    char *s = must_alloc(n + 1, 1);

    memcpy(s, from, n);
    return s;
}

/* A password may hold any of the separators: the address is looked for from the right. */
static const char *last_of(const char *s, const char *word)
{
    const char *found = NULL;

    for (const char *at = strstr(s, word); at; at = strstr(at + 1, word))
        found = at;
    return found;
}

bool options_dsn(const char *dsn, struct db_settings *settings)
{
    const char *address = last_of(dsn, "@tcp(");
    const char *colon = strchr(dsn, ':');
    const char *close = address ? strchr(address, ')') : NULL;
    const char *port = close ? memchr(address + 5, ':', (size_t)(close - address - 5)) : NULL;
    char *end;
    int64_t number = 3306;

    if (!close || close[1] != '/' || close[2] == '\0' || close[2] == '?' || dsn == address)
        return false;
    if (port)
        number = strtoll(port + 1, &end, 10);
    if (port && (end != close || number < 1 || number > 65535))
        return false;
    *settings = (struct db_settings){
        .host = cut(address + 5, port ? port : close),
        .port = number,
        .name = cut(close + 2, close + 2 + strcspn(close + 2, "?")),
        .user = cut(dsn, colon && colon < address ? colon : address),
        .password = colon && colon < address ? cut(colon + 1, address) : must_strdup(""),
        .tls_ca = must_strdup(""),
        .max_open = 1,
        .max_idle = 1,
        .lifetime_sec = 86400,
        .connect_timeout_ms = 5000,
        .statement_timeout_ms = 600000,
        .lock_wait_sec = 30,
    };
    return true;
}

void options_dsn_free(struct db_settings *settings)
{
    free(settings->host);
    free(settings->name);
    free(settings->user);
    free(settings->password);
    free(settings->tls_ca);
    *settings = (struct db_settings){0};
}

static bool set_number(const struct option *o, const char *value, void *to)
{
    char *end;
    double number = strtod(value, &end);

    if (end == value || *end || !(number >= o->min && number <= o->max))
        return false;
    if (o->kind == KIND_NUMBER)
        *(double *)to = number;
    else if (number == floor(number))
        *(int64_t *)to = (int64_t)number;
    else
        return false;
    return true;
}

static bool set_value(const struct option *o, const char *value, struct options *options)
{
    void *to = (char *)options + o->offset;

    switch (o->kind) {
    case KIND_STRING:
        *(const char **)to = value;
        return true;
    case KIND_DURATION:
        return options_duration(value, to);
    case KIND_FLAG:
        *(bool *)to = !strcmp(value, "true");
        return *(bool *)to || !strcmp(value, "false");
    default:
        return set_number(o, value, to);
    }
}

static const struct option *find(const char *name, size_t n)
{
    for (size_t i = 0; i < OPTIONS; i++)
        if (strlen(table[i].name) == n && !memcmp(table[i].name, name, n))
            return &table[i];
    return NULL;
}

static int fault(char *why, size_t size, const char *what, const char *name)
{
    snprintf(why, size, "%s: %s", name, what);
    return -1;
}

/* The first line of the file. */
static int read_key(struct options *options, char *why, size_t size)
{
    FILE *from = fopen(options->api_key_file, "re");
    bool read = from && fgets(options->key_read, sizeof(options->key_read), from);

    if (from)
        fclose(from);
    if (!read)
        return fault(why, size, "cannot be read", "-api-key-file");
    options->key_read[strcspn(options->key_read, "\r\n")] = '\0';
    options->api_key = options->key_read;
    return 0;
}

static int check(const struct options *options, char *why, size_t size)
{
    struct db_settings settings;
    struct pace pace;

    if (strcmp(options->seed_method, "db") != 0 && strcmp(options->seed_method, "http") != 0)
        return fault(why, size, "must be db or http", "-seed-method");
    if (!options_dsn(options->seed_db_dsn, &settings))
        return fault(why, size, "must be user:password@tcp(host:port)/name", "-seed-db-dsn");
    options_dsn_free(&settings);
    if (!pace_init(&pace, 1, 1, options->rate_curve))
        return fault(why, size, "must be up to 288 factors, as 0.5,2,1", "-rate-curve");
    if (*options->rate_curve && options->rps <= 0)
        return fault(why, size, "needs an -rps", "-rate-curve");
    if (options->users_zipf > 0 && options->users > ZIPF_MAX)
        return fault(why, size, "takes at most 10,000,000 -users", "-users-zipf");
    if (strpbrk(options->api_key, "\r\n"))
        return fault(why, size, "must be one line", "-api-key");
    if (options->seed_only && !options->seed_balance)
        return fault(why, size, "needs a -seed-balance", "-seed-only");
    return 0;
}

/* What the command line says wins. */
static bool take_environment(struct options *options)
{
    const char *dsn = getenv("SEED_DB_DSN");
    const char *path = getenv("SEED_DB_DSN_FILE");
    FILE *f;

    if (dsn && *dsn)
        options->seed_db_dsn = dsn;
    if ((dsn && *dsn) || !path || !*path)
        return true;
    f = fopen(path, "re");
    if (!f || !fgets(options->dsn_of_file, sizeof(options->dsn_of_file), f))
        options->dsn_of_file[0] = '\0';
    if (f)
        fclose(f);
    options->dsn_of_file[strcspn(options->dsn_of_file, "\r\n")] = '\0';
    options->seed_db_dsn = options->dsn_of_file;
    return *options->seed_db_dsn;
}

int options_parse(struct options *options, int argc, char **argv, char *why, size_t size)
{
    *options = (struct options){0};
    for (size_t i = 0; i < OPTIONS; i++)
        MUST(set_value(&table[i], table[i].initial, options));
    if (!take_environment(options))
        return fault(why, size, "cannot be read, or is empty", "SEED_DB_DSN_FILE");
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i] + strspn(argv[i], "-");
        size_t n = strcspn(name, "=");
        const struct option *o = find(name, n);
        const char *value = name[n] ? name + n + 1 : NULL;

        if (name == argv[i] || name - argv[i] > 2 || !o)
            return fault(why, size, "no such option (-help lists them)", argv[i]);
        if (!value && o->kind == KIND_FLAG)
            value = "true";
        else if (!value && i + 1 < argc)
            value = argv[++i];
        if (!value)
            return fault(why, size, "needs a value", argv[i]);
        if (!set_value(o, value, options)) {
            snprintf(why, size, "-%s: a value that cannot be", o->name);
            return -1;
        }
    }
    if (options->help)
        return 0;
    if (*options->api_key_file && read_key(options, why, size))
        return -1;
    return check(options, why, size);
}

void options_print_help(FILE *to)
{
    static const char *const kinds[] = {
        [KIND_STRING] = "TEXT",  [KIND_COUNT] = "N", [KIND_NUMBER] = "X",
        [KIND_DURATION] = "DUR", [KIND_FLAG] = "",
    };

    fputs("usage: msg-loadtest [-option value]...\n"
          "Sends messages to msg-api, measures, and with -verify proves that nothing was lost or "
          "doubled.\nExit: 0, 1 something failed, was lost or doubled, 2 wrong usage.\n\n",
          to);
    for (size_t i = 0; i < OPTIONS; i++) {
        const struct option *o = &table[i];

        fprintf(to, "  -%s %s\n        %s", o->name, kinds[o->kind], o->help);
        if (o->kind != KIND_FLAG && *o->initial)
            fprintf(to, " (%s)", o->initial);
        fputc('\n', to);
    }
}
