#include "operator-sim/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/clock.h"
#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "operator-sim/hash.h"

#define CHUNK_ENTRIES 4096
#define ARENA_BYTES (256 * 1024)
#define NO_ENTRY UINT32_MAX
#define FIRST_BUCKETS 1024
#define LINE_MAX_BYTES 512

struct arena {
    struct arena *next;
    size_t used;
    char bytes[ARENA_BYTES];
};

struct ledger {
    size_t max;
    struct ledger_entry **chunks;
    struct arena *arenas; /* the newest first */
    uint32_t *buckets;
    size_t bucket_count; /* a power of two, never below the entries */
    struct hash_key key;
    struct ledger_counts counts;
    int fd;           /* -1: no file */
    off_t file_bytes; /* whole lines */
    struct buf line;  /* the next one */
};

static struct ledger_entry *entry_at(const struct ledger *l, uint32_t position)
{
    return &l->chunks[position / CHUNK_ENTRIES][position % CHUNK_ENTRIES];
}

static size_t bucket_of(const struct ledger *l, const char *reference)
{
    return hash_bytes(l->key, reference, strlen(reference)) & (l->bucket_count - 1);
}

static const char *keep(struct ledger *l, const char *text)
{
    size_t n = strlen(text) + 1;
    char *at;

    if (!l->arenas || l->arenas->used + n > ARENA_BYTES) {
        struct arena *fresh = malloc(sizeof(*fresh));

        if (!fresh)
            return NULL;
        fresh->next = l->arenas;
        fresh->used = 0;
        l->arenas = fresh;
    }
    at = l->arenas->bytes + l->arenas->used;
    memcpy(at, text, n);
    l->arenas->used += n;
    return at;
}

static void chain(struct ledger *l, uint32_t position)
{
    struct ledger_entry *e = entry_at(l, position);
    size_t bucket = bucket_of(l, e->reference);

    e->next = l->buckets[bucket];
    l->buckets[bucket] = position;
}

static bool grow_buckets(struct ledger *l)
{
    size_t wanted = l->bucket_count ? l->bucket_count * 2 : FIRST_BUCKETS;
    uint32_t *buckets = malloc(wanted * sizeof(*buckets));

    if (!buckets)
        return false;
    free(l->buckets);
    l->buckets = buckets;
    l->bucket_count = wanted;
    memset(buckets, 0xff, wanted * sizeof(*buckets)); /* NO_ENTRY */
    for (uint32_t i = 0; i < l->counts.seen; i++)
        chain(l, i);
    return true;
}

static struct ledger_entry *add(struct ledger *l, const char *reference)
{
    uint32_t position = (uint32_t)l->counts.seen;
    struct ledger_entry *e;
    const char *kept;

    if (position >= l->max || (position >= l->bucket_count && !grow_buckets(l)))
        return NULL;
    if (!l->chunks[position / CHUNK_ENTRIES]) {
        l->chunks[position / CHUNK_ENTRIES] = calloc(CHUNK_ENTRIES, sizeof(*e));
        if (!l->chunks[position / CHUNK_ENTRIES])
            return NULL;
    }
    kept = keep(l, reference);
    if (!kept)
        return NULL;
    e = entry_at(l, position);
    e->reference = kept;
    l->counts.seen++;
    chain(l, position);
    return e;
}

struct ledger_entry *ledger_find(struct ledger *l, const char *reference)
{
    uint32_t position = l->buckets[bucket_of(l, reference)];

    while (position != NO_ENTRY && strcmp(entry_at(l, position)->reference, reference) != 0)
        position = entry_at(l, position)->next;
    return position == NO_ENTRY ? NULL : entry_at(l, position);
}

struct ledger_entry *ledger_request(struct ledger *l, const char *reference)
{
    struct ledger_entry *e = ledger_find(l, reference);

    if (!e)
        e = add(l, reference);
    if (!e)
        return NULL;
    l->counts.requests++;
    e->requests++;
    if (e->accepted_us)
        l->counts.duplicates++;
    return e;
}

void ledger_count_lookup(struct ledger *l, struct ledger_entry *e)
{
    l->counts.lookups++;
    if (e)
        e->lookups++;
}

static int write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t done = write(fd, p, n);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return -1;
        p += done;
        n -= (size_t)done;
    }
    return 0;
}

static void put_text(struct buf *line, const char *text)
{
    buf_puts(line, text);
    buf_putc(line, '\t');
}

static void put_number(struct buf *line, uint64_t n)
{
    buf_put_uint(line, n);
    buf_putc(line, '\t');
}

/* reference TAB to TAB type TAB bytes TAB crc TAB time TAB key TAB traceparent NL */
static int append(struct ledger *l, const struct ledger_entry *e, const char *to, struct err *err)
{
    char trace[TRACE_PARENT_SIZE] = "-";
    struct buf *line = &l->line;

    if (e->has_trace)
        trace_format(&e->trace, trace);
    buf_reset(line);
    put_text(line, e->reference);
    put_text(line, to);
    put_number(line, e->type);
    put_number(line, e->text_bytes);
    put_number(line, e->text_crc32);
    put_number(line, (uint64_t)clock_wall_us());
    put_number(line, e->has_key);
    buf_puts(line, trace);
    buf_putc(line, '\n');
    if (line->failed)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    if (write_all(l->fd, line->data, line->len)) {
        err_set(err, ERR_RETRY, (unsigned)errno, "ledger file: %s", strerror(errno));
        if (ftruncate(l->fd, l->file_bytes)) /* a half line would spoil the next one */
            err_set(err, ERR_RETRY, (unsigned)errno, "ledger file, cut: %s", strerror(errno));
        return -1;
    }
    l->file_bytes += (off_t)line->len;
    return 0;
}

int ledger_accept(struct ledger *l, struct ledger_entry *e, const struct ledger_message *m,
                  struct err *err)
{
    const char *to = keep(l, m->to);

    MUST(!e->accepted_us);
    if (!to)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    e->text_crc32 = hash_crc32(m->text, m->text_len);
    e->text_bytes = (uint16_t)m->text_len;
    e->type = (uint8_t)m->type;
    e->has_key = m->has_key;
    e->has_trace = m->trace != NULL;
    if (m->trace)
        e->trace = *m->trace;
    if (l->fd >= 0 && append(l, e, to, err))
        return -1;
    e->to = to;
    e->accepted_us = clock_wall_us();
    l->counts.accepted++;
    return 0;
}

/* One line of the file; false when it is not one of ours. */
static bool load_line(struct ledger *l, char *line)
{
    char *field[8];
    struct ledger_entry *e;
    size_t n = 0;

    for (char *at = line; n < 8 && at; n++)
        field[n] = strsep(&at, "\t");
    if (n != 8 || strlen(field[0]) > LEDGER_REFERENCE_MAX ||
        !message_recipient_ok(field[1], strlen(field[1])))
        return false;
    e = ledger_find(l, field[0]);
    if (!e)
        e = add(l, field[0]);
    if (!e || e->accepted_us)
        return e != NULL;
    e->to = keep(l, field[1]);
    e->type = strtoul(field[2], NULL, 10) == MESSAGE_EXPRESS ? MESSAGE_EXPRESS : MESSAGE_NORMAL;
    e->text_bytes = (uint16_t)strtoul(field[3], NULL, 10);
    e->text_crc32 = (uint32_t)strtoul(field[4], NULL, 10);
    e->accepted_us = strtoll(field[5], NULL, 10);
    e->has_key = *field[6] == '1';
    e->has_trace = trace_parse(field[7], &e->trace);
    if (!e->to || e->accepted_us <= 0)
        return false;
    e->requests = 1;
    l->counts.accepted++;
    l->counts.requests++;
    return true;
}

/* A last line without an end is a write that a crash cut short: it was never answered. */
static int load(struct ledger *l, const char *path, struct err *err)
{
    FILE *f = fopen(path, "re");
    char line[LINE_MAX_BYTES];
    int rc = 0;

    if (!f)
        return err_set(err, ERR_PERMANENT, (unsigned)errno, "%s: %s", path, strerror(errno));
    while (!rc && fgets(line, sizeof(line), f)) {
        size_t n = strlen(line);

        if (!n || line[n - 1] != '\n')
            break;
        l->file_bytes += (off_t)n;
        line[n - 1] = '\0';
        if (!load_line(l, line))
            rc = err_set(err, ERR_PERMANENT, 0, "%s: not a ledger, or larger than SIM_LEDGER_MAX",
                         path);
    }
    fclose(f);
    if (!rc && ftruncate(l->fd, l->file_bytes))
        rc = err_set(err, ERR_PERMANENT, (unsigned)errno, "%s: %s", path, strerror(errno));
    return rc;
}

struct ledger *ledger_open(size_t max, const char *file, struct err *err)
{
    struct ledger *l = must_alloc(1, sizeof(*l));

    l->max = max;
    l->fd = -1;
    l->chunks = must_alloc(max / CHUNK_ENTRIES + 1, sizeof(struct ledger_entry *));
    random_bytes(&l->key, sizeof(l->key));
    MUST(grow_buckets(l));
    if (!*file)
        return l;
    l->fd = open(file, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (l->fd < 0)
        err_set(err, ERR_PERMANENT, (unsigned)errno, "%s: %s", file, strerror(errno));
    else if (!load(l, file, err))
        return l;
    ledger_close(l);
    return NULL;
}

void ledger_close(struct ledger *l)
{
    if (!l)
        return;
    if (l->fd >= 0)
        close(l->fd);
    for (size_t i = 0; i <= l->max / CHUNK_ENTRIES; i++)
        free(l->chunks[i]);
    free(l->chunks);
    free(l->buckets);
    buf_free(&l->line);
    while (l->arenas) {
        struct arena *next = l->arenas->next;

        free(l->arenas);
        l->arenas = next;
    }
    free(l);
}

const struct ledger_entry *ledger_at(const struct ledger *l, size_t position)
{
    return position < l->counts.seen ? entry_at(l, (uint32_t)position) : NULL;
}

struct ledger_counts ledger_counts(const struct ledger *l)
{
    return l->counts;
}
