#include "libcommon/domain/operator_file.h"

#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "libcommon/base/must.h"
#include "libcommon/base/settings.h"
#include "libcommon/domain/operator_ini.h"
#include "libcommon/domain/operator_keys.h"

#define FILES_MAX 64
#define VALUE_MAX (32 * 1024)

/* ---- sets ---- */

static struct operator_config *config_new(const char *name, size_t n, enum operator_kind kind)
{
    struct operator_config *op = must_alloc(1, sizeof(*op));
    bool native = kind == OPERATOR_NATIVE;

    memcpy(op->name, name, n);
    op->kind = kind;
    op->gives_id = true;
    op->properties = (struct operator_properties){.can_lookup = native,
                                                  .repeat_is_safe = native,
                                                  .lookup_settles_ms = -1,
                                                  .timeout_ms = -1,
                                                  .tries = -1,
                                                  .in_flight_normal = -1,
                                                  .in_flight_express = -1};
    return op;
}

static void request_free(struct operator_request *r)
{
    operator_template_free(&r->target);
    operator_template_free(&r->head);
    operator_template_free(&r->body);
}

static void config_free(struct operator_config *op)
{
    request_free(&op->submit);
    request_free(&op->lookup);
    for (size_t i = 0; i < op->rule_count; i++)
        operator_condition_free(op->rules[i].condition);
    for (size_t i = 0; i < op->lookup_rule_count; i++)
        operator_condition_free(op->lookup_rules[i].condition);
    operator_spot_free(op->id);
    operator_spot_free(op->lookup_id);
    operator_spot_free(op->parts);
    operator_spot_free(op->cost);
    operator_spot_free(op->remaining);
    operator_receipts_free(&op->receipts);
    free(op->file);
    free(op);
}

static struct operator_set *set_new(void)
{
    struct operator_set *set = must_alloc(1, sizeof(*set));

    atomic_init(&set->users, 1);
    return set;
}

struct operator_set *operator_set_keep(struct operator_set *set)
{
    atomic_fetch_add(&set->users, 1);
    return set;
}

void operator_set_drop(struct operator_set *set)
{
    if (!set || atomic_fetch_sub(&set->users, 1) > 1)
        return;
    for (size_t i = 0; i < set->n; i++)
        config_free(set->all[i]);
    free(set);
}

const struct operator_config *operator_set_find(const struct operator_set *set, const char *name,
                                                size_t n)
{
    for (size_t i = 0; i < set->n; i++)
        if (strlen(set->all[i]->name) == n && !memcmp(set->all[i]->name, name, n))
            return set->all[i];
    return NULL;
}

static const char *const kind_names[OPERATOR_KINDS] = {
    [OPERATOR_NATIVE] = "native", [OPERATOR_HTTP] = "http"};

const char *operator_kind_name(enum operator_kind kind)
{
    return kind_names[kind];
}

bool operator_name_ok(const char *s, size_t n)
{
    if (n == 0 || n > OPERATOR_NAME_MAX)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') ||
              (s[i] >= '0' && s[i] <= '9') || s[i] == '_' || s[i] == '-'))
            return false;
    return true;
}

static size_t scheme_length(const char *s, size_t n)
{
    if (n > 7 && !strncmp(s, "http://", 7))
        return 7;
    return n > 8 && !strncmp(s, "https://", 8) ? 8 : 0;
}

bool operator_url_ok(const char *s, size_t n)
{
    char url[OPERATOR_URL_MAX + 1];
    size_t scheme = scheme_length(s, n);

    if (n > OPERATOR_URL_MAX || !scheme || s[scheme] == '/')
        return false;
    memcpy(url, s, n);
    url[n] = '\0';
    if (!settings_url_port_ok(url))
        return false;
    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] > '~' || strchr("@?#\"\\'", s[i]))
            return false;
    return true;
}

/* ---- OPERATORS ---- */

static struct operator_config *listed(const char *s, size_t n, char *why, size_t size)
{
    const char *equals = memchr(s, '=', n);
    size_t name = equals ? (size_t)(equals - s) : 0;
    size_t url = equals ? n - name - 1 : 0;
    struct operator_config *op;

    while (url && equals[url] == '/')
        url--;
    if (!equals || !operator_name_ok(s, name)) {
        snprintf(why, size, "must be name=url pairs; names have 1 to %d letters, digits, _ or -",
                 OPERATOR_NAME_MAX);
        return NULL;
    }
    if (!operator_url_ok(equals + 1, url)) {
        snprintf(why, size,
                 "must have http:// or https:// URLs of at most %d characters, without user, "
                 "query or fragment",
                 OPERATOR_URL_MAX);
        return NULL;
    }
    op = config_new(s, name, OPERATOR_NATIVE);
    memcpy(op->url, equals + 1, url);
    return op;
}

/* False: the list is wrong. */
static bool add_listed(struct operator_set *set, const char *s, size_t n, char *why, size_t size)
{
    struct operator_config *op;

    if (set->n == OPERATORS_MAX) {
        snprintf(why, size, "must name at most %d operators", OPERATORS_MAX);
        return false;
    }
    op = listed(s, n, why, size);
    if (!op)
        return false;
    if (operator_set_find(set, op->name, strlen(op->name))) {
        snprintf(why, size, "must not name an operator twice");
        config_free(op);
        return false;
    }
    set->all[set->n++] = op;
    return true;
}

struct operator_set *operator_set_of_list(const char *list, char *why, size_t size)
{
    struct operator_set *set = set_new();

    for (const char *at = list;;) {
        size_t n = strcspn(at, ",");

        if (!add_listed(set, at, n, why, size)) {
            operator_set_drop(set);
            return NULL;
        }
        if (!at[n])
            return set;
        at += n + 1;
    }
}

/* ---- sections ---- */

struct entry {
    const struct operator_key *key;
    struct buf value;
    unsigned line;
};

/* The keys of the section that is being read. */
struct loader {
    struct operator_set *set;
    const struct operator_reading *how;
    const char *name; /* the file's */
    struct buf *errors;
    size_t faults;
    char section[OPERATOR_NAME_MAX + 1]; /* "": none, or one that is wrong */
    unsigned section_line;
    struct entry *entries;
    size_t count;
    bool skipping; /* the key before was wrong: what goes on with it is not looked at */
};

static void fault(struct loader *l, unsigned line, const char *why, const char *what)
{
    buf_printf(l->errors, "%s:%u: %s%s\n", l->name, line, why, what);
    l->faults++;
}

static void clear(struct loader *l)
{
    for (size_t i = 0; i < l->count; i++) {
        if (l->entries[i].value.data)
            explicit_bzero(l->entries[i].value.data, l->entries[i].value.cap);
        buf_free(&l->entries[i].value);
    }
    l->count = 0;
    l->section[0] = '\0';
}

static enum operator_kind kind_of(struct loader *l)
{
    for (size_t i = 0; i < l->count; i++) {
        const struct entry *e = &l->entries[i];

        if (strcmp(e->key->name, "kind") != 0)
            continue;
        for (int k = 0; k < OPERATOR_KINDS; k++)
            if (!strcmp(e->value.data, kind_names[k]))
                return (enum operator_kind)k;
        fault(l, e->line, "kind must be native or http", "");
        return OPERATOR_KINDS;
    }
    fault(l, l->section_line, "the section needs kind", "");
    return OPERATOR_KINDS;
}

static void set_keys(struct loader *l, struct operator_draft *d)
{
    for (size_t i = 0; i < l->count; i++) {
        const struct entry *e = &l->entries[i];
        const struct operator_text text = {e->value.data, e->line};

        if (e->key->kinds & OPERATOR_KIND_BIT(d->op->kind))
            e->key->set(d, e->key, &text);
        else
            operator_draft_fault(d, e->key->name, e->line, "is no key of kind %s",
                                 kind_names[d->op->kind]);
    }
}

static void finish_section(struct loader *l)
{
    enum operator_kind kind;
    struct operator_draft d;

    if (!*l->section)
        return;
    kind = kind_of(l);
    if (kind == OPERATOR_KINDS) {
        clear(l);
        return;
    }
    d = (struct operator_draft){
        .op = config_new(l->section, strlen(l->section), kind),
        .how = l->how,
        .name = l->name,
        .errors = l->errors,
    };
    d.op->file = must_strdup(l->name);
    d.op->line = l->section_line;
    set_keys(l, &d);
    operator_draft_finish(&d);
    l->faults += d.faults;
    l->set->all[l->set->n++] = d.op;
    clear(l);
}

static void begin_section(struct loader *l, const struct operator_ini_item *item)
{
    size_t n = strlen(item->section);

    finish_section(l);
    l->skipping = true;
    if (!operator_name_ok(item->section, n)) {
        fault(l, item->line, "an operator's name has 1 to 30 letters, digits, _ or -", "");
    } else if (operator_set_find(l->set, item->section, n)) {
        fault(l, item->line, "there is another operator of that name", "");
    } else if (l->set->n == OPERATORS_MAX) {
        fault(l, item->line, "more operators than the eight that there may be", "");
    } else {
        memcpy(l->section, item->section, n + 1);
        l->section_line = item->line;
        l->skipping = false;
    }
}

static bool is_there(const struct loader *l, const struct operator_key *key)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->entries[i].key == key)
            return true;
    return false;
}

static void begin_value(struct loader *l, const struct operator_ini_item *item)
{
    const struct operator_key *key = operator_key_find(item->key);

    l->skipping = true;
    if (!key) {
        fault(l, item->line, "unknown key ", item->key);
    } else if (!key->repeated && is_there(l, key)) {
        fault(l, item->line, "a second ", item->key);
    } else if (!*item->value) {
        fault(l, item->line, item->key, " has no value");
    } else {
        l->entries = realloc(l->entries, (l->count + 1) * sizeof(*l->entries));
        MUST(l->entries != NULL);
        l->entries[l->count++] = (struct entry){.key = key, .line = item->line};
        buf_puts(&l->entries[l->count - 1].value, item->value);
        l->skipping = false;
    }
}

static void continue_value(struct loader *l, const struct operator_ini_item *item)
{
    struct entry *e = &l->entries[l->count - 1];

    if (e->value.len + strlen(item->value) > VALUE_MAX) {
        fault(l, item->line, "makes a value that is too long", "");
        l->skipping = true;
        return;
    }
    if (e->key->joined_by_blank)
        buf_putc(&e->value, ' ');
    buf_puts(&e->value, item->value);
}

static void on_item(const struct operator_ini_item *item, void *arg)
{
    struct loader *l = arg;

    if (!item->key)
        begin_section(l, item);
    else if (!*item->section)
        fault(l, item->line, "stands before the first [section]", "");
    else if (!*l->section || (item->continued && l->skipping))
        return;
    else if (item->continued)
        continue_value(l, item);
    else
        begin_value(l, item);
}

static void load_text(struct loader *l, const char *text, size_t n)
{
    l->faults += operator_ini_read(text, n, l->name, on_item, l, l->errors);
    finish_section(l);
}

/* ---- files ---- */

static void load_file(struct loader *l, const char *path)
{
    struct buf text = {0};
    FILE *f = fopen(path, "re");
    size_t n = 1;

    l->name = path;
    if (!f) {
        buf_printf(l->errors, "%s: cannot be read: %s\n", path, strerror(errno));
        l->faults++;
        return;
    }
    setvbuf(f, NULL, _IONBF, 0);
    while (n && text.len <= OPERATOR_INI_BYTES_MAX && buf_reserve(&text, 4096)) {
        n = fread(text.data + text.len, 1, 4096, f);
        text.len += n;
    }
    if (ferror(f)) {
        buf_printf(l->errors, "%s: cannot be read: %s\n", path, strerror(errno));
        l->faults++;
    } else {
        load_text(l, text.data, text.len);
    }
    fclose(f);
    explicit_bzero(text.data, text.cap);
    buf_free(&text);
}

static int is_ini(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);

    return *entry->d_name != '.' && n > 4 && !strcmp(entry->d_name + n - 4, ".ini");
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void load_folder(struct loader *l, const char *path)
{
    struct dirent **names = NULL;
    int n = scandir(path, &names, is_ini, by_name);
    struct buf file = {0};

    if (n <= 0 || n > FILES_MAX) {
        buf_printf(l->errors, "%s: %s\n", path,
                   n < 0    ? "cannot be read"
                   : n == 0 ? "has no *.ini in it"
                            : "has too many *.ini in it");
        l->faults++;
    }
    for (int i = 0; i < n; i++) {
        buf_reset(&file);
        buf_printf(&file, "%s/%s", path, names[i]->d_name);
        if (n <= FILES_MAX)
            load_file(l, file.data);
        free(names[i]);
    }
    free(names);
    buf_free(&file);
}

static struct operator_set *loaded(struct loader *l, const char *name, size_t *faults)
{
    if (!l->faults && !l->set->n) {
        buf_printf(l->errors, "%s: names no operator\n", name);
        l->faults = 1;
    }
    free(l->entries);
    *faults = l->faults;
    if (!l->faults)
        return l->set;
    operator_set_drop(l->set);
    return NULL;
}

struct operator_set *operator_set_read(const char *path, const struct operator_reading *how,
                                       struct buf *errors, size_t *faults)
{
    struct loader l = {.set = set_new(), .how = how, .errors = errors};
    struct stat st;

    if (!stat(path, &st) && S_ISDIR(st.st_mode))
        load_folder(&l, path);
    else
        load_file(&l, path);
    return loaded(&l, path, faults);
}

struct operator_set *operator_set_parse(const char *text, size_t n, const char *name,
                                        const struct operator_reading *how, struct buf *errors,
                                        size_t *faults)
{
    struct loader l = {.set = set_new(), .how = how, .name = name, .errors = errors};

    load_text(&l, text, n);
    return loaded(&l, name, faults);
}
