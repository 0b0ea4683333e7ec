#include "api/key_listing.h"

#include <stdio.h>
#include <string.h>

#include "api/key_store.h"
#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/terminal.h"

struct listing {
    bool json;
    size_t n;
    int64_t now_us;
};

static const char *state_of(const struct key_row *row, int64_t now_us)
{
    if (row->revoked_us && row->revoked_us <= now_us)
        return "revoked";
    if (row->expires_us && row->expires_us <= now_us)
        return "expired";
    return row->revoked_us ? "ending" : "active";
}

static void put_time(struct buf *b, const char *name, int64_t us)
{
    if (!us)
        return;
    buf_printf(b, " %s=", name);
    clock_put_rfc3339(b, us);
}

/* False: memory is out. */
static bool print_line(const struct key_row *row, const struct listing *l)
{
    struct buf b = {0};
    bool ok;

    buf_puts(&b, "\tscopes=");
    key_scopes_put(&b, row->scopes);
    if (row->customer_id)
        buf_printf(&b, " customer=%lld", (long long)row->customer_id);
    put_time(&b, "created_at", row->created_us);
    put_time(&b, "expires_at", row->expires_us);
    put_time(&b, "revoked_at", row->revoked_us);
    if (row->replaced_by)
        buf_printf(&b, " replaced_by=%llu", (unsigned long long)row->replaced_by);
    ok = !b.failed;
    printf("%llu\t%s\t", (unsigned long long)row->id, state_of(row, l->now_us));
    terminal_puts(stdout, row->label);
    if (ok)
        fwrite(b.data, 1, b.len, stdout);
    if (*row->networks)
        fputs(" networks=", stdout);
    terminal_puts(stdout, row->networks);
    putchar('\n');
    buf_free(&b);
    return ok;
}

/* "a,b" as ["a","b"]. */
static void put_json_list(struct buf *b, const char *list)
{
    buf_putc(b, '[');
    while (*list) {
        size_t n = strcspn(list, ",");

        buf_put_json(b, list, n);
        list += n;
        if (*list && *++list)
            buf_putc(b, ',');
    }
    buf_putc(b, ']');
}

static void put_json_time(struct buf *b, const char *name, int64_t us)
{
    buf_printf(b, ",\"%s\":%s", name, us ? "\"" : "null");
    if (!us)
        return;
    clock_put_rfc3339(b, us);
    buf_putc(b, '"');
}

static void put_json_number(struct buf *b, const char *name, uint64_t n)
{
    buf_printf(b, ",\"%s\":", name);
    if (n)
        buf_put_uint(b, n);
    else
        buf_puts(b, "null");
}

static bool print_json(const struct key_row *row, const struct listing *l)
{
    struct buf scopes = {0};
    struct buf b = {0};
    bool ok;

    key_scopes_put(&scopes, row->scopes);
    buf_printf(&b, "%s{\"id\":%llu,\"state\":\"%s\",\"label\":", l->n ? ",\n" : "",
               (unsigned long long)row->id, state_of(row, l->now_us));
    buf_put_json(&b, row->label, strlen(row->label));
    buf_puts(&b, ",\"scopes\":");
    put_json_list(&b, scopes.data ? scopes.data : "");
    put_json_number(&b, "customer_id", (uint64_t)row->customer_id);
    buf_puts(&b, ",\"networks\":");
    put_json_list(&b, row->networks);
    put_json_time(&b, "created_at", row->created_us);
    put_json_time(&b, "expires_at", row->expires_us);
    put_json_time(&b, "revoked_at", row->revoked_us);
    put_json_number(&b, "replaced_by", row->replaced_by);
    buf_putc(&b, '}');
    ok = !b.failed && !scopes.failed;
    if (ok)
        fwrite(b.data, 1, b.len, stdout);
    buf_free(&scopes);
    buf_free(&b);
    return ok;
}

static bool print_row(const struct key_row *row, void *arg)
{
    struct listing *l = arg;
    bool ok = l->json ? print_json(row, l) : print_line(row, l);

    l->n++;
    return ok;
}

int key_listing_print(struct db *db, bool json, struct err *err)
{
    struct listing l = {.json = json};
    struct key_store_state state;

    if (key_store_look(db, &state, err))
        return -1;
    l.now_us = state.now_us;
    if (json)
        fputs("[", stdout);
    if (key_store_each(db, false, print_row, &l, err))
        return -1;
    if (json)
        fputs("]\n", stdout);
    return 0;
}
