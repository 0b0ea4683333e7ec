#include "consumerd/letter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/base/terminal.h"

static int read_one(const struct letter *l, bundle_member_fn *fn, void *arg, struct err *err)
{
    struct bundle_member one = {.id = l->id,
                                .traceparent = l->traceparent,
                                .tracestate = l->tracestate,
                                .accepted_us = l->accepted_us,
                                .json = l->body,
                                .json_len = l->body_len};
    struct message message;
    struct err why;
    bool on;

    if (message_decode(l->body, l->body_len, &message, &why)) {
        one.why = why.msg;
        on = fn(&one, arg);
    } else {
        one.message = &message;
        on = fn(&one, arg);
        message_free(&message);
    }
    return on ? 0 : err_set(err, ERR_RETRY, 0, "a letter's message could not be taken");
}

int letter_read(const struct letter *l, bundle_member_fn *fn, void *arg, struct err *err)
{
    if (l->is_bundle)
        return bundle_read(l->bundle, l->body, l->body_len, fn, arg, err);
    return read_one(l, fn, arg, err);
}

static bool count_member(const struct bundle_member *m, void *arg)
{
    (void)m;
    ++*(size_t *)arg;
    return true;
}

static bool note_member(const struct bundle_member *m, void *arg)
{
    struct letter *l = arg;
    const char *id = m->message ? m->message->id : m->id;

    if (strlen(id) <= MESSAGE_ID_MAX)
        snprintf(l->members[l->member_count].id, sizeof(l->members->id), "%s", id);
    l->member_count++;
    return true;
}

/* One that cannot be read has none. */
static void note_members(struct letter *l)
{
    size_t n = 0;
    struct err err;

    if (letter_read(l, count_member, &n, &err) || !n)
        return;
    l->members = must_alloc(n, sizeof(*l->members));
    (void)letter_read(l, note_member, l, &err);
}

bool letter_take(struct letter *l, const struct broker_event *e, size_t place)
{
    *l = (struct letter){.tag = e->tag, .body = malloc(e->body_len + 1)};
    if (!l->body)
        return false;
    if (*e->message_id && strlen(e->message_id) <= MESSAGE_ID_MAX)
        snprintf(l->id, sizeof(l->id), "%s", e->message_id);
    else
        snprintf(l->id, sizeof(l->id), "#%zu", place);
    snprintf(l->traceparent, sizeof(l->traceparent), "%s", e->traceparent);
    l->message_id = must_strdup(e->message_id);
    l->tracestate = must_strdup(e->tracestate);
    l->death_reason = must_strdup(e->death_reason);
    l->death_queue = must_strdup(e->death_queue);
    l->accepted_us = e->accepted_us;
    l->delivery_count = e->delivery_count;
    l->is_bundle = e->is_bundle;
    l->bundle = e->bundle;
    memcpy(l->body, e->body, e->body_len);
    l->body_len = e->body_len;
    note_members(l);
    return true;
}

void letter_free(struct letter *l)
{
    free(l->message_id);
    free(l->tracestate);
    free(l->death_reason);
    free(l->death_queue);
    free(l->body);
    free(l->members);
}

struct member_place {
    struct letter_member *member;
    size_t letter;
};

size_t letter_bytes(const struct letter *l)
{
    return sizeof(*l) + l->body_len + strlen(l->tracestate) +
           l->member_count * (sizeof(*l->members) + sizeof(struct member_place));
}

static int by_id(const void *a, const void *b)
{
    const struct member_place *x = a, *y = b;
    int order = strcmp(x->member->id, y->member->id);

    return order ? order : (x->letter > y->letter) - (x->letter < y->letter);
}

static size_t place_members(struct letter *letters, size_t n, struct member_place *places)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < letters[i].member_count; k++, count++)
            if (places)
                places[count] = (struct member_place){&letters[i].members[k], i};
    return count;
}

/* Sorted: there may be as many as one bundle has times as many as there are letters. */
void letters_mark_copies(struct letter *letters, size_t n)
{
    size_t count = place_members(letters, n, NULL), first = 0;
    struct member_place *places = must_alloc(count + 1, sizeof(*places));

    place_members(letters, n, places);
    qsort(places, count, sizeof(*places), by_id);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(places[i].member->id, places[first].member->id) != 0)
            first = i;
        places[i].member->copy = *places[i].member->id && places[i].letter != places[first].letter;
    }
    free(places);
}

bool letter_is(const struct letter *l, const char *id)
{
    if (!strcmp(l->id, id))
        return true;
    for (size_t i = 0; i < l->member_count; i++)
        if (!strcmp(l->members[i].id, id))
            return true;
    return false;
}

struct broker_message letter_message(const struct letter *l)
{
    return (struct broker_message){
        .message_id = l->message_id,
        .bundle = l->is_bundle ? l->bundle : 0,
        .body = l->body,
        .body_len = l->body_len,
        .traceparent = l->traceparent,
        .tracestate = l->tracestate,
        .accepted_us = l->accepted_us,
    };
}

/* ---- in words ---- */

static void print_states(const size_t counts[RECIPIENT_STATES])
{
    const char *before = "";

    for (int i = 0; i < RECIPIENT_STATES; i++) {
        if (!counts[i])
            continue;
        printf("%s%zu %s", before, counts[i], recipient_state_name((enum recipient_state)i));
        before = ", ";
    }
    if (!*before)
        printf("no recipients known");
}

static void print_reason(const struct letter *l)
{
    putchar('\t');
    terminal_puts(stdout, *l->death_reason ? l->death_reason : "no reason");
    printf("%s", *l->death_queue ? " from " : "");
    terminal_puts(stdout, l->death_queue);
    putchar('\t');
}

struct printing {
    const struct letter *letter;
    size_t i;
};

static bool print_member(const struct bundle_member *m, void *arg)
{
    struct printing *p = arg;
    const struct letter *l = p->letter;
    const struct letter_member *member = &l->members[p->i++];
    const char *id = l->is_bundle ? *member->id ? member->id : "-" : l->id;

    printf("%s", l->is_bundle ? "  " : "");
    terminal_puts(stdout, id);
    printf("\t%zu bytes\t", m->json_len);
    if (m->message)
        printf("%s, customer %lld, %zu recipients", message_type_name(m->message->type),
               (long long)m->message->customer_id, m->message->recipient_count);
    else
        printf("not readable: %s", m->why);
    printf("%s", member->copy ? ", a copy" : "");
    print_reason(l);
    print_states(member->counts);
    putchar('\n');
    return true;
}

static void print_bundle(const struct letter *l)
{
    terminal_puts(stdout, l->id);
    printf("\t%zu bytes\t", l->body_len);
    if (l->member_count)
        printf("a bundle of %zu", l->member_count);
    else
        printf("not readable: a bundle of version %u", l->bundle);
    print_reason(l);
    printf("%s\n", l->member_count ? "its messages follow" : "no recipients known");
}

void letter_print(const struct letter *l)
{
    struct printing p = {.letter = l};
    struct err err;

    if (l->is_bundle)
        print_bundle(l);
    if (l->member_count)
        (void)letter_read(l, print_member, &p, &err);
}

void letter_show(const struct letter *l)
{
    printf("id: ");
    terminal_puts(stdout, l->id);
    printf("\ntraceparent: ");
    terminal_puts(stdout, l->traceparent);
    printf("\nbody: ");
    terminal_put(stdout, l->body, l->body_len);
    putchar('\n');
}
