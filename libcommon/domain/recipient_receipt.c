#include "libcommon/domain/recipient_receipt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/domain/customer_move.h"
#include "libcommon/domain/ledger.h"
#include "libcommon/domain/recipient_internal.h"

static struct db_label find_label = {.query = "receipt_find"};
static struct db_label lock_label = {.query = "receipt_lock"};
static struct db_label update_label = {.query = "receipt_update"};
static struct db_label prove_label = {.query = "receipt_prove"};
static struct db_label look_label = {.query = "receipt_look_back"};

void recipient_receipt_register(void)
{
    db_label_register(&find_label);
    db_label_register(&lock_label);
    db_label_register(&update_label);
    db_label_register(&prove_label);
    db_label_register(&look_label);
    recipient_deliveries_register();
}

const char *receipt_result_name(enum receipt_result result)
{
    static const char *const names[RECEIPT_RESULTS] = {
        [RECEIPT_EARLY] = "early",       [RECEIPT_CHANGED] = "changed",   [RECEIPT_NOTED] = "noted",
        [RECEIPT_REPEATED] = "repeated", [RECEIPT_AFTER_REFUND] = "late", [RECEIPT_MOVED] = "moved",
    };

    return names[result];
}

/* ---- finding recipients ---- */

/* [k, message, position] or [k, operator, match_id] of those to be found that way. */
static size_t put_sought(struct buf *json, const struct recipient_receipt *receipts, size_t n,
                         bool by_reference)
{
    size_t count = 0;

    buf_putc(json, '[');
    for (size_t i = 0; i < n; i++) {
        const struct recipient_receipt *r = &receipts[i];

        if (by_reference ? !*r->message_id : *r->message_id || !*r->match_id)
            continue;
        buf_printf(json, "%s[%zu,", count++ ? "," : "", i);
        if (by_reference) {
            buf_put_json(json, r->message_id, strlen(r->message_id));
            buf_printf(json, ",%u]", r->position);
        } else {
            buf_put_json(json, r->operator_name, strlen(r->operator_name));
            buf_putc(json, ',');
            buf_put_json(json, r->match_id, strlen(r->match_id));
            buf_putc(json, ']');
        }
    }
    buf_putc(json, ']');
    return count;
}

static void put_list(struct db *db, struct buf *sql, const struct buf *json)
{
    if (json->failed)
        sql->failed = true;
    else
        db_put_quoted(db, sql, json->data, json->len);
}

/* A message's recipients are inserted by one statement, with numbers that follow each other: any of
 * them tells where the others are. Where that does not hold (a server that numbers in steps), they
 * are looked for (find_apart). */
static void put_by_reference(struct db *db, struct buf *sql, const struct buf *json)
{
    buf_puts(sql, "SELECT j.k,(SELECT CAST(s.id AS SIGNED)-CAST(s.position AS SIGNED) FROM "
                  "message_status s FORCE INDEX(uq_message_status_identifier_recipient) WHERE "
                  "s.message_identifier=j.m LIMIT 1)+j.p FROM JSON_TABLE(");
    put_list(db, sql, json);
    buf_puts(sql, ",'$[*]' COLUMNS(k INT PATH '$[0]',m VARCHAR(50) CHARACTER SET ascii COLLATE "
                  "ascii_bin PATH '$[1]',p BIGINT PATH '$[2]')) j");
}

/* Operators use their numbers again after months: the last one is meant. */
static void put_by_match(struct db *db, struct buf *sql, const struct buf *json)
{
    buf_puts(sql, "SELECT j.k,(SELECT d.status_id FROM deliveries d FORCE INDEX("
                  "idx_deliveries_match) WHERE d.operator=j.o AND d.match_id=j.m ORDER BY "
                  "d.status_id DESC LIMIT 1) FROM JSON_TABLE(");
    put_list(db, sql, json);
    buf_puts(sql,
             ",'$[*]' COLUMNS(k INT PATH '$[0]',o VARCHAR(30) CHARACTER SET ascii COLLATE "
             "ascii_bin PATH '$[1]',m VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH "
             "'$[2]')) j");
}

static void read_found(struct db_set *set, struct recipient_receipt *receipts, size_t n)
{
    char **row;

    while ((row = db_next(set))) {
        size_t k = strtoul(row[0], NULL, 10);

        if (k < n && row[1])
            receipts[k].status_id = strtoull(row[1], NULL, 10);
    }
}

static int find_all(struct db *db, struct recipient_receipt *receipts, size_t n, struct err *err)
{
    struct db_packet packet = {0};
    struct db_results results;
    struct buf references = {0};
    struct buf matches = {0};
    size_t by_reference = put_sought(&references, receipts, n, true);
    size_t by_match = put_sought(&matches, receipts, n, false);
    int rc = 0;

    if (by_reference)
        put_by_reference(db, db_statement(&packet, "references"), &references);
    if (by_match)
        put_by_match(db, db_statement(&packet, "matches"), &matches);
    if (by_reference || by_match) {
        rc = db_run_packet(db, &find_label, &packet, &results, err);
        if (!rc && by_reference)
            read_found(db_result(&results, "references"), receipts, n);
        if (!rc && by_match)
            read_found(db_result(&results, "matches"), receipts, n);
        if (!rc)
            db_results_free(&results);
    }
    db_packet_free(&packet);
    buf_free(&references);
    buf_free(&matches);
    return rc;
}

static int find_apart(struct db *db, struct recipient_receipt *r, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    buf_puts(&sql, "SELECT id FROM message_status FORCE INDEX("
                   "uq_message_status_identifier_recipient) WHERE message_identifier=");
    db_put_quoted(db, &sql, r->message_id, strlen(r->message_id));
    buf_printf(&sql, " AND position=%u", r->position);
    rc = db_run_buf(db, &find_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    r->status_id = (uint64_t)db_number(db_only(&results));
    db_results_free(&results);
    return 0;
}

/* ---- recipients, locked ---- */

/* A recipient that somebody tells of. */
struct heard {
    uint64_t id;
    enum recipient_state state;
    enum recipient_delivery delivery;
    bool refunded; /* failed, or undelivered and paid back */
    int64_t user_id, price;
    unsigned position, attempt;
    const char *message_id, *provider, *unknown; /* texts belong to the rows */
    size_t first_line;                           /* an index beyond 0 */

    /* Whether its customer is on the way out or in: CUSTOMER_LIVES, or what the row must wait for.
     */
    enum customer_move_state move;
    bool proven; /* by the operator of this line */
    const struct recipient_line *prover;
    const struct recipient_receipt *proof;
    enum recipient_transition report; /* what it has become, or RECIPIENT_TRANSITIONS */
};

struct hearing {
    struct db *db;
    const struct recipient_hearing *how;
    struct recipient_receipt *receipts;
    size_t n;

    uint64_t *ids; /* sorted, each once */
    size_t id_count;
    struct heard *heard; /* by id */
    size_t heard_count;
    struct recipient_line *lines; /* the first is none */
    size_t line_count;
    struct db_results results; /* what texts belong to */
};

static void hearing_free(struct hearing *h)
{
    free(h->ids);
    free(h->heard);
    free(h->lines);
    db_results_free(&h->results);
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void collect_ids(struct hearing *h)
{
    size_t n = 0;
    size_t kept = 0;

    for (size_t i = 0; i < h->n; i++)
        if (h->receipts[i].status_id)
            h->ids[n++] = h->receipts[i].status_id;
    if (n)
        qsort(h->ids, n, sizeof(*h->ids), by_number);
    for (size_t i = 0; i < n; i++)
        if (!kept || h->ids[kept - 1] != h->ids[i])
            h->ids[kept++] = h->ids[i];
    h->id_count = kept;
}

static void put_locked(struct buf *sql, const uint64_t *ids, size_t n)
{
    buf_puts(sql, "SELECT id,status,delivery,delivery_refunded,user_id,price,position,"
                  "message_identifier,provider,unknown_operators,attempt FROM message_status "
                  "FORCE INDEX(PRIMARY) WHERE id IN (");
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(sql, ',');
        buf_put_uint(sql, ids[i]);
    }
    buf_puts(sql, ") ORDER BY id FOR UPDATE");
}

static bool read_heard(char **row, struct heard *heard)
{
    *heard = (struct heard){
        .id = strtoull(row[0], NULL, 10),
        .delivery = recipient_delivery_read(row[2]),
        .user_id = strtoll(row[4], NULL, 10),
        .price = strtoll(row[5], NULL, 10),
        .position = (unsigned)strtoul(row[6], NULL, 10),
        .message_id = row[7],
        .provider = row[8],
        .unknown = row[9],
        .attempt = (unsigned)strtoul(row[10], NULL, 10),
        .report = RECIPIENT_TRANSITIONS,
    };
    if (!recipient_state_parse(row[1], &heard->state))
        return false;
    heard->refunded = recipient_is_refunded(heard->state) || row[3][0] == '1';
    return true;
}

static struct heard *heard_of(struct hearing *h, uint64_t id)
{
    size_t from = 0;
    size_t to = h->heard_count;

    while (from < to) {
        size_t at = from + (to - from) / 2;

        if (h->heard[at].id == id)
            return &h->heard[at];
        if (h->heard[at].id < id)
            from = at + 1;
        else
            to = at;
    }
    return NULL;
}

static struct recipient_line *add_line(struct hearing *h, struct heard *heard)
{
    struct recipient_line *line = &h->lines[h->line_count];

    line->next = heard->first_line;
    heard->first_line = h->line_count++;
    return line;
}

/* Few customers move at a time. */
static void read_moves(struct hearing *h)
{
    struct db_set *moves = db_result(&h->results, "moves");
    char **row;

    while ((row = db_next(moves)))
        for (size_t i = 0; i < h->heard_count; i++)
            if (h->heard[i].user_id == strtoll(row[0], NULL, 10))
                h->heard[i].move = customer_move_state_read(row[1]);
}

/* As many lines as there are rows, and one that each receipt may make. */
static int read_locked(struct hearing *h, struct err *err)
{
    struct db_set *recipients = db_result(&h->results, "recipients");
    struct db_set *lines = db_result(&h->results, "lines");
    char **row;

    h->heard = calloc(recipients->affected + 1, sizeof(*h->heard));
    h->lines = calloc(lines->affected + h->n + 1, sizeof(*h->lines));
    h->line_count = 1;
    if (!h->heard || !h->lines)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    while ((row = db_next(recipients)))
        if (!read_heard(row, &h->heard[h->heard_count++]))
            return err_set(err, ERR_BUG, 0, "receipt: a state that nobody knows");
    read_moves(h);
    while ((row = db_next(lines))) {
        struct recipient_line line;
        struct heard *heard;

        recipient_read_line(row, lines->lengths, &line);
        heard = heard_of(h, line.status_id);
        if (!heard)
            continue;
        line.next = heard->first_line;
        *add_line(h, heard) = line;
    }
    return 0;
}

static int lock_all(struct hearing *h, struct err *err)
{
    struct db_packet packet = {0};
    int rc;

    customer_move_put_hold(db_statement(&packet, NULL));
    put_locked(db_statement(&packet, "recipients"), h->ids, h->id_count);
    recipient_put_lines(db_statement(&packet, "lines"), h->ids, h->id_count);
    customer_move_put_of_recipients(db_statement(&packet, "moves"), h->ids, h->id_count);
    rc = db_run_packet(h->db, &lock_label, &packet, &h->results, err);
    db_packet_free(&packet);
    return rc ? -1 : read_locked(h, err);
}

/* ---- what a receipt says ---- */

static struct recipient_line *line_of(struct hearing *h, struct heard *heard, const char *name)
{
    for (size_t at = heard->first_line; at; at = h->lines[at].next)
        if (!strcmp(h->lines[at].name, name))
            return &h->lines[at];
    return NULL;
}

/* A receipt with our reference is the first that we know of an operator that has the recipient. */
static struct recipient_line *make_line(struct hearing *h, struct heard *heard,
                                        const struct recipient_receipt *r)
{
    struct recipient_line *line = add_line(h, heard);

    line->status_id = heard->id;
    line->state = RECIPIENT_DELIVERY_WAITING;
    line->parts = 1;
    line->waited_ms = -1;
    line->fresh = true;
    snprintf(line->name, sizeof(line->name), "%s", r->operator_name);
    snprintf(line->match_id, sizeof(line->match_id), "%s", r->match_id);
    return line;
}

/* FNV-1a: tells a few parts of one message apart. */
static void put_part(const char *part, uint8_t out[RECIPIENT_PART_BYTES])
{
    uint32_t hash = 2166136261u;

    for (; *part; part++)
        hash = (hash ^ (uint8_t)*part) * 16777619u;
    for (unsigned i = 0; i < RECIPIENT_PART_BYTES; i++)
        out[i] = (uint8_t)(hash >> (8 * i));
}

/* Whether it was not there. */
static bool see_part(struct recipient_line *line, const char *part)
{
    uint8_t bytes[RECIPIENT_PART_BYTES];

    put_part(part, bytes);
    for (size_t i = 0; i < line->seen_count; i++)
        if (!memcmp(line->seen + i * RECIPIENT_PART_BYTES, bytes, RECIPIENT_PART_BYTES))
            return false;
    if (line->seen_count == RECIPIENT_PARTS_MAX)
        return false;
    memcpy(line->seen + line->seen_count++ * RECIPIENT_PART_BYTES, bytes, RECIPIENT_PART_BYTES);
    return true;
}

static unsigned part_number(const struct recipient_receipt *r)
{
    char *end;
    unsigned long number = strtoul(r->part, &end, 10);

    return *r->part && !*end && number <= RECIPIENT_PARTS_MAX ? (unsigned)number : 0;
}

/* Whether the part that it is about says nothing of the whole, by the operator's rule. */
static bool is_beside(const struct recipient_line *line, const struct recipient_receipt *r)
{
    unsigned number = part_number(r);

    if (line->parts <= 1 || !number)
        return false;
    if (r->rule == RECEIPT_PARTS_FIRST)
        return number != 1;
    return r->rule == RECEIPT_PARTS_LAST && number < line->parts;
}

/* Whether this part settles that all of it has arrived. *news: it was not known. */
static bool completes(struct recipient_line *line, const struct recipient_receipt *r, bool *news)
{
    *news = true;
    if (line->parts <= 1 || r->rule == RECEIPT_PARTS_FIRST ||
        (r->rule == RECEIPT_PARTS_LAST && part_number(r)))
        return true;
    *news = see_part(line, r->part);
    return line->seen_count >= line->parts;
}

/* False: it changes nothing. A part's failure is all of the message's; what then arrives after all
 * does so for all parts. */
static bool note(struct recipient_line *line, const struct recipient_receipt *r)
{
    bool news;

    if (line->state == RECIPIENT_DELIVERY_DELIVERED || is_beside(line, r))
        return false;
    if (!r->delivered) {
        if (line->state == RECIPIENT_DELIVERY_UNDELIVERED)
            return false;
        line->state = RECIPIENT_DELIVERY_UNDELIVERED;
        line->decided = r;
    } else if (completes(line, r, &news)) {
        line->state = RECIPIENT_DELIVERY_DELIVERED;
        line->decided = r;
    } else if (!news) {
        return false;
    }
    line->dirty = true;
    return true;
}

/* ---- what becomes of the recipient ---- */

static bool has_said_undelivered(struct hearing *h, struct heard *heard, const char *name, size_t n)
{
    char text[sizeof(h->lines->name)];
    const struct recipient_line *line;

    if (n >= sizeof(text))
        return false;
    memcpy(text, name, n);
    text[n] = '\0';
    line = line_of(h, heard, text);
    return line && line->state == RECIPIENT_DELIVERY_UNDELIVERED;
}

/* A mark instead of a name has said nothing, and never will. */
static bool have_all_said_undelivered(struct hearing *h, struct heard *heard)
{
    const char *provider = heard->proven ? heard->prover->name : heard->provider;

    if (!has_said_undelivered(h, heard, provider, strlen(provider)))
        return false;
    for (const char *at = heard->unknown; *at;) {
        size_t n = strcspn(at, ",");

        if (n && !has_said_undelivered(h, heard, at, n))
            return false;
        at += n + (at[n] == ',');
    }
    return true;
}

static bool is_settled(enum recipient_delivery delivery)
{
    return delivery == RECIPIENT_DELIVERY_DELIVERED || delivery == RECIPIENT_DELIVERY_UNDELIVERED;
}

static enum receipt_result turn(struct hearing *h, struct heard *heard,
                                const struct recipient_line *line)
{
    bool delivered = line->state == RECIPIENT_DELIVERY_DELIVERED;

    if (heard->refunded)
        return delivered ? RECEIPT_AFTER_REFUND : RECEIPT_NOTED;
    if (is_settled(heard->delivery))
        return RECEIPT_NOTED;
    if (delivered) {
        heard->delivery = RECIPIENT_DELIVERY_DELIVERED;
        heard->report = RECIPIENT_REPORT_DELIVERED;
        return RECEIPT_CHANGED;
    }
    if (line->state == RECIPIENT_DELIVERY_UNDELIVERED && have_all_said_undelivered(h, heard)) {
        heard->delivery = RECIPIENT_DELIVERY_UNDELIVERED;
        heard->report = RECIPIENT_REPORT_UNDELIVERED;
        heard->refunded = h->how->refund_undelivered;
        return RECEIPT_CHANGED;
    }
    return RECEIPT_NOTED;
}

/* What is pending waits for its next try, which then finds it done. */
static void prove(struct heard *heard, const struct recipient_line *line,
                  const struct recipient_receipt *r)
{
    heard->proven = true;
    heard->prover = line;
    heard->proof = r;
    heard->state = RECIPIENT_DONE;
    heard->delivery = RECIPIENT_DELIVERY_WAITING;
}

static void hear_one(struct hearing *h, struct heard *heard, struct recipient_receipt *r)
{
    bool to_prove = recipient_may(RECIPIENT_PROVE, heard->state);
    struct recipient_line *line = line_of(h, heard, r->operator_name);

    r->user_id = heard->user_id;
    if (!line)
        line = make_line(h, heard, r);
    r->waited_ms = line->waited_ms;
    if (!note(line, r) && !to_prove) {
        r->result = RECEIPT_REPEATED;
        return;
    }
    line->dirty = true;
    if (to_prove)
        prove(heard, line, r);
    r->result = turn(h, heard, line);
    if (to_prove)
        r->result = RECEIPT_CHANGED;
}

/* Who has it now settles it soon, one way or the other; and who is on the way here, comes. */
static bool has_to_wait(const struct heard *heard)
{
    return !heard || heard->move == CUSTOMER_ARRIVING ||
           (!recipient_is_final(heard->state) && !recipient_may(RECIPIENT_PROVE, heard->state));
}

/* Its customer has left, or is about to: the other cell has to know, by a reference. */
static void hand_on(const struct heard *heard, struct recipient_receipt *r)
{
    r->result = RECEIPT_MOVED;
    r->user_id = heard->user_id;
    snprintf(r->message_id, sizeof(r->message_id), "%s", heard->message_id);
    r->position = heard->position;
}

static bool has_left(const struct heard *heard)
{
    return heard && (heard->move == CUSTOMER_FROZEN || heard->move == CUSTOMER_MOVED);
}

/* The number of a recipient that was found by counting may be another one's. */
static bool is_meant(const struct heard *heard, const struct recipient_receipt *r)
{
    return !*r->message_id ||
           (heard && !strcmp(heard->message_id, r->message_id) && heard->position == r->position);
}

static void hear_all(struct hearing *h)
{
    for (size_t i = 0; i < h->n; i++) {
        struct recipient_receipt *r = &h->receipts[i];
        struct heard *heard = heard_of(h, r->status_id);

        if (r->status_id && has_left(heard))
            hand_on(heard, r);
        else if (r->status_id && !has_to_wait(heard))
            hear_one(h, heard, r);
    }
}

/* ---- writing ---- */

/* unknown_operators without the one that has turned out to have it. */
static void put_others(struct buf *out, const char *unknown, const char *name)
{
    for (const char *at = unknown; *at;) {
        size_t n = strcspn(at, ",");

        if (n && (n != strlen(name) || memcmp(at, name, n) != 0)) {
            if (out->len)
                buf_putc(out, ',');
            buf_put(out, at, n);
        }
        at += n + (at[n] == ',');
    }
}

static int write_proof(struct hearing *h, struct heard *heard, struct err *err)
{
    struct buf others = {0};
    struct buf sql = {0};
    struct db_results results;
    int rc;

    put_others(&others, heard->unknown, heard->prover->name);
    buf_printf(&sql, "UPDATE message_status FORCE INDEX(PRIMARY) SET status='%s',provider=",
               recipient_to_name(RECIPIENT_PROVE));
    db_put_quoted(h->db, &sql, heard->prover->name, strlen(heard->prover->name));
    buf_puts(&sql, ",provider_message_id=");
    db_put_quoted(h->db, &sql, heard->proof->match_id, strlen(heard->proof->match_id));
    buf_puts(&sql, ",unknown_operators=");
    db_put_quoted(h->db, &sql, others.len ? others.data : "", others.len);
    sql.failed |= others.failed;
    buf_printf(&sql,
               ",delivery=%d,owner=0,last_error=''," RECIPIENT_ROOM_SETTLED
               " WHERE id=%llu AND status IN (",
               RECIPIENT_DELIVERY_WAITING, (unsigned long long)heard->id);
    recipient_put_from(&sql, RECIPIENT_PROVE);
    buf_putc(&sql, ')');
    rc = db_run_buf(h->db, &prove_label, &sql, &results, err);
    buf_free(&others);
    buf_free(&sql);
    if (rc)
        return -1;
    if (db_only(&results)->affected != 1)
        rc = err_set(err, ERR_BUG, 0, "receipt: a recipient changed under its lock");
    db_results_free(&results);
    return rc;
}

static enum recipient_delivery delivery_of(enum recipient_transition report)
{
    switch (report) {
    case RECIPIENT_REPORT_DELIVERED:
        return RECIPIENT_DELIVERY_DELIVERED;
    case RECIPIENT_REPORT_UNDELIVERED:
        return RECIPIENT_DELIVERY_UNDELIVERED;
    default:
        return RECIPIENT_DELIVERY_UNREPORTED;
    }
}

static struct recipient_change change_of(const struct heard *heard)
{
    return (struct recipient_change){
        .id = heard->id,
        .attempt = heard->attempt,
        .position = heard->position,
        .message_id = heard->message_id,
        .user_id = heard->user_id,
        .price = heard->price,
        .provider = heard->proven ? heard->prover->name : heard->provider,
        .provider_id = "",
        .result = RECIPIENT_HELD,
    };
}

/* changes: n of one kind. */
static int report(struct db *db, enum recipient_transition transition, bool refunded,
                  struct recipient_change *changes, size_t n, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    int rc;

    if (!n)
        return 0;
    buf_printf(&sql,
               "UPDATE message_status FORCE INDEX(PRIMARY) SET delivery=%d,delivery_refunded=%d "
               "WHERE id IN (",
               delivery_of(transition), refunded);
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(&sql, ',');
        buf_put_uint(&sql, changes[i].id);
    }
    buf_puts(&sql, ") AND status IN (");
    recipient_put_from(&sql, transition);
    buf_printf(&sql, ") AND delivery NOT IN (%d,%d)", RECIPIENT_DELIVERY_DELIVERED,
               RECIPIENT_DELIVERY_UNDELIVERED);
    rc = db_run_buf(db, &update_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    if (db_only(&results)->affected != n)
        rc = err_set(err, ERR_BUG, 0, "receipt: a recipient changed under its lock");
    else
        rc = recipient_pass(db, transition, changes, n, err);
    db_results_free(&results);
    return rc;
}

static int refund(struct db *db, const struct recipient_change *changes, size_t n, struct err *err)
{
    struct ledger_refund *refunds = calloc(n + 1, sizeof(*refunds));
    int rc;

    if (!refunds)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    for (size_t i = 0; i < n; i++)
        refunds[i] = (struct ledger_refund){.user_id = changes[i].user_id,
                                            .amount = changes[i].price,
                                            .message_id = changes[i].message_id,
                                            .position = changes[i].position};
    rc = ledger_refund(db, refunds, n, err);
    free(refunds);
    return rc;
}

static size_t collect(const struct hearing *h, enum recipient_transition transition,
                      struct recipient_change *changes)
{
    size_t n = 0;

    for (size_t i = 0; i < h->heard_count; i++) {
        if (h->heard[i].report != transition)
            continue;
        changes[n] = change_of(&h->heard[i]);
        changes[n++].transition = transition;
    }
    return n;
}

static int write_proofs(struct hearing *h, struct recipient_change *changes, struct err *err)
{
    size_t n = 0;

    for (size_t i = 0; i < h->heard_count; i++) {
        if (!h->heard[i].proven)
            continue;
        if (write_proof(h, &h->heard[i], err))
            return -1;
        changes[n] = change_of(&h->heard[i]);
        changes[n++].transition = RECIPIENT_PROVE;
    }
    return recipient_pass(h->db, RECIPIENT_PROVE, changes, n, err);
}

static int write_all(struct hearing *h, struct recipient_change *changes, struct err *err)
{
    bool refunds = h->how->refund_undelivered;
    size_t n;

    if (write_proofs(h, changes, err) ||
        recipient_write_lines(h->db, h->lines, h->line_count, h->how->wait_hours, err))
        return -1;
    n = collect(h, RECIPIENT_REPORT_DELIVERED, changes);
    if (report(h->db, RECIPIENT_REPORT_DELIVERED, false, changes, n, err))
        return -1;
    n = collect(h, RECIPIENT_REPORT_UNDELIVERED, changes);
    if (report(h->db, RECIPIENT_REPORT_UNDELIVERED, refunds, changes, n, err))
        return -1;
    return refunds ? refund(h->db, changes, n, err) : 0;
}

/* Locks what was found; what was not the one meant is looked for, and the rest is locked anew. */
static int lock_meant(struct hearing *h, struct err *err)
{
    bool strange = false;

    if (!h->id_count)
        return 0;
    if (lock_all(h, err))
        return -1;
    for (size_t i = 0; i < h->n; i++) {
        struct recipient_receipt *r = &h->receipts[i];

        if (!r->status_id || is_meant(heard_of(h, r->status_id), r))
            continue;
        if (find_apart(h->db, r, err))
            return -1;
        strange = true;
    }
    if (!strange)
        return 0;
    free(h->heard);
    free(h->lines);
    h->heard = NULL;
    h->lines = NULL;
    h->heard_count = 0;
    db_results_free(&h->results);
    collect_ids(h);
    return h->id_count ? lock_all(h, err) : 0;
}

int recipient_hear(struct db *db, const struct recipient_hearing *how,
                   struct recipient_receipt *receipts, size_t n, struct err *err)
{
    struct hearing h = {.db = db, .how = how, .receipts = receipts, .n = n};
    struct recipient_change *changes = calloc(n + 1, sizeof(*changes));
    int rc;

    for (size_t i = 0; i < n; i++) {
        receipts[i].result = RECEIPT_EARLY;
        receipts[i].status_id = 0;
        receipts[i].user_id = 0;
        receipts[i].waited_ms = -1;
    }
    h.ids = calloc(n + 1, sizeof(*h.ids));
    if (!h.ids || !changes) {
        rc = err_set(err, ERR_RETRY, 0, "out of memory");
    } else {
        rc = find_all(db, receipts, n, err);
        if (!rc) {
            collect_ids(&h);
            rc = lock_meant(&h, err);
        }
        if (!rc && h.heard_count) {
            hear_all(&h);
            rc = write_all(&h, changes, err);
        }
    }
    free(changes);
    hearing_free(&h);
    return rc;
}

/* ---- what nobody tells ---- */

static void put_ids(struct buf *sql, const uint64_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(sql, ',');
        buf_put_uint(sql, ids[i]);
    }
    buf_putc(sql, ')');
}

/* ids: room for limit. */
static int find_due(struct db *db, size_t limit, uint64_t *ids, size_t *n, struct err *err)
{
    struct db_results results;
    struct buf sql = {0};
    char **row;
    int rc;

    buf_printf(&sql,
               "SELECT status_id FROM deliveries FORCE INDEX(idx_deliveries_look) WHERE "
               "look_at<=NOW(6) ORDER BY look_at LIMIT %zu",
               limit);
    rc = db_run_buf(db, &look_label, &sql, &results, err);
    buf_free(&sql);
    if (rc)
        return -1;
    for (*n = 0; *n < limit && (row = db_next(db_only(&results)));)
        ids[(*n)++] = strtoull(row[0], NULL, 10);
    db_results_free(&results);
    if (*n)
        qsort(ids, *n, sizeof(*ids), by_number);
    return 0;
}

/* What becomes due meanwhile is of recipients that are locked, too. */
static void put_look(struct db_packet *packet, const uint64_t *ids, size_t n, int64_t keep_days)
{
    struct buf *sql = db_statement(packet, NULL);

    put_locked(sql, ids, n);
    sql = db_statement(packet, "deleted");
    buf_puts(sql, "DELETE d FROM deliveries d FORCE INDEX(PRIMARY) WHERE d.looked=1 AND "
                  "d.look_at<=NOW(6) AND d.status_id IN (");
    put_ids(sql, ids, n);
    sql = db_statement(packet, "looked");
    buf_printf(sql,
               "UPDATE deliveries FORCE INDEX(PRIMARY) SET state=IF(state=%d,%d,state),looked=1,"
               "look_at=NOW(6)+INTERVAL %lld DAY WHERE look_at<=NOW(6) AND status_id IN (",
               RECIPIENT_DELIVERY_WAITING, RECIPIENT_DELIVERY_UNREPORTED, (long long)keep_days);
    put_ids(sql, ids, n);
    sql = db_statement(packet, "unreported");
    buf_puts(
        sql,
        "SELECT s.id,s.message_identifier,s.position,s.user_id,s.price,s.provider,s.attempt FROM "
        "message_status s FORCE INDEX(PRIMARY) WHERE s.status IN (");
    recipient_put_from(sql, RECIPIENT_REPORT_NOTHING);
    buf_printf(sql,
               ") AND s.delivery=%d AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE "
               "d.status_id=s.id AND d.state=%d) AND s.id IN (",
               RECIPIENT_DELIVERY_WAITING, RECIPIENT_DELIVERY_WAITING);
    put_ids(sql, ids, n);
}

static int report_nothing(struct db *db, struct db_set *set, struct err *err)
{
    struct recipient_change *changes = calloc(set->affected + 1, sizeof(*changes));
    size_t n = 0;
    char **row;
    int rc;

    if (!changes)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    while ((row = db_next(set)))
        changes[n++] = (struct recipient_change){.id = strtoull(row[0], NULL, 10),
                                                 .transition = RECIPIENT_REPORT_NOTHING,
                                                 .message_id = row[1],
                                                 .position = (unsigned)strtoul(row[2], NULL, 10),
                                                 .user_id = strtoll(row[3], NULL, 10),
                                                 .price = strtoll(row[4], NULL, 10),
                                                 .provider = row[5],
                                                 .attempt = (unsigned)strtoul(row[6], NULL, 10),
                                                 .provider_id = "",
                                                 .result = RECIPIENT_HELD};
    rc = report(db, RECIPIENT_REPORT_NOTHING, false, changes, n, err);
    free(changes);
    return rc;
}

static int look_at_ids(struct db *db, const uint64_t *ids, size_t n, int64_t keep_days,
                       uint64_t *looked, uint64_t *unreported, struct err *err)
{
    struct db_packet packet = {0};
    struct db_results results;
    int rc;

    put_look(&packet, ids, n, keep_days);
    rc = db_run_packet(db, &look_label, &packet, &results, err);
    db_packet_free(&packet);
    if (rc)
        return -1;
    *looked = db_result(&results, "deleted")->affected + db_result(&results, "looked")->affected;
    *unreported = db_result(&results, "unreported")->affected;
    rc = report_nothing(db, db_result(&results, "unreported"), err);
    db_results_free(&results);
    return rc;
}

int recipient_look_back(struct db *db, int64_t keep_days, size_t limit, uint64_t *looked,
                        uint64_t *unreported, struct err *err)
{
    uint64_t *ids = calloc(limit + 1, sizeof(*ids));
    size_t n = 0;
    int rc;

    *looked = *unreported = 0;
    if (!ids)
        return err_set(err, ERR_RETRY, 0, "out of memory");
    rc = find_due(db, limit, ids, &n, err);
    if (!rc && n) {
        db_begin(db);
        rc = look_at_ids(db, ids, n, keep_days, looked, unreported, err);
        if (!rc)
            rc = db_commit(db, err);
        if (rc)
            db_rollback(db);
    }
    free(ids);
    return rc;
}
