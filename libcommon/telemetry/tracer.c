#include "libcommon/telemetry/tracer_internal.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/base/must.h"
#include "libcommon/telemetry/metrics.h"

/* A ring that many write and one reads, without a lock. sequence is the position whose writer may
 * take the place; a writer that is done adds one; the reader adds the length of the ring. */
struct place {
    _Atomic uint64_t sequence;
    struct tracer_record record;
};

_Atomic bool tracer_running;

static struct {
    /* Each on a cache line that the others do not share. */
    _Alignas(64) _Atomic uint64_t tail; /* the next position to be written */
    _Alignas(64) _Atomic uint64_t head; /* the next position to be read */
    _Alignas(64) struct place *places;  /* from here on hardly ever written */
    struct tracer_config config;
    uint64_t threshold; /* of 63 bits of a trace id: below it a root is sampled */
    struct metric *results[TRACER_RESULTS], *length;
    _Atomic bool woken;
} t;

static struct place *place_of(uint64_t position)
{
    return &t.places[position % t.config.queue_max];
}

/* ---- sampling ---- */

static bool sample_root(const struct trace_context *c)
{
    uint64_t random = 0;

    if (t.config.sampler != TRACER_SAMPLE_RATIO)
        return t.config.sampler == TRACER_SAMPLE_ON;
    for (size_t i = 8; i < 16; i++)
        random = random << 8 | c->trace_id[i];
    return random >> 1 < t.threshold;
}

void tracer_sample(struct trace_context *c, bool has_parent)
{
    if (!tracer_on() || (has_parent && t.config.parent_based))
        return;
    c->flags &= (uint8_t)~TRACE_SAMPLED;
    if (sample_root(c))
        c->flags |= TRACE_SAMPLED;
}

/* ---- recording ---- */

/* Copies a text, cut at a character; its offset, or 0 when it is empty or there is no room. */
static uint16_t put_text(struct tracer_record *r, const char *s, size_t longest)
{
    size_t n = s ? strnlen(s, longest + 1) : 0;
    uint16_t at = r->text_len;

    if (n > longest)
        for (n = longest; n && ((unsigned char)s[n] & 0xc0) == 0x80;)
            n--;
    if (!n || at + n + 1 > sizeof(r->texts))
        return 0;
    memcpy(r->texts + at, s, n);
    r->texts[at + n] = '\0';
    r->text_len = (uint16_t)(at + n + 1);
    return at;
}

static void put_attr(struct tracer_record *r, const struct tracer_attr *a)
{
    struct tracer_value *v = &r->attrs[r->attr_count];

    if (a->type == TRACER_STR && (!a->v.str || !*a->v.str))
        return;
    if (r->attr_count == TRACER_ATTRS_MAX) {
        r->attrs_dropped++;
        return;
    }
    v->key = a->key;
    v->type = a->type;
    switch (a->type) {
    case TRACER_STR:
        v->v.text = put_text(r, a->v.str, TRACER_VALUE_MAX);
        if (!v->v.text) {
            r->attrs_dropped++;
            return;
        }
        break;
    case TRACER_INT:
        v->v.num = a->v.num;
        break;
    case TRACER_BOOL:
        v->v.flag = a->v.flag;
        break;
    }
    r->attr_count++;
}

static void fill(struct tracer_record *r, const struct tracer_span *s)
{
    size_t links = s->link_count < TRACER_LINKS_MAX ? s->link_count : TRACER_LINKS_MAX;

    r->context = *s->context;
    if (s->parent)
        memcpy(r->parent_id, s->parent->span_id, sizeof(r->parent_id));
    else
        memset(r->parent_id, 0, sizeof(r->parent_id));
    r->parent_remote = s->parent && s->parent_remote;
    r->kind = (uint8_t)s->kind;
    r->status = (uint8_t)s->status;
    r->start_us = s->start_us;
    r->end_us = s->end_us < s->start_us ? s->start_us : s->end_us; /* the wall clock may step */
    r->texts[0] = '\0';
    r->text_len = 1;
    r->name = put_text(r, s->name, TRACER_NAME_MAX);
    r->state = put_text(r, s->state, TRACE_STATE_MAX);
    r->message = put_text(r, s->message, TRACER_NAME_MAX);
    r->attr_count = 0;
    r->attrs_dropped = 0;
    for (size_t i = 0; i < s->attr_count; i++)
        put_attr(r, &s->attrs[i]);
    r->link_count = (uint8_t)links;
    r->links_dropped = (uint32_t)(s->link_count - links);
    if (links)
        memcpy(r->links, s->links, links * sizeof(r->links[0]));
}

/* A place of our own, or NULL: the ring is full. */
static struct place *take_place(uint64_t *position)
{
    uint64_t at = atomic_load_explicit(&t.tail, memory_order_relaxed);

    for (;;) {
        struct place *p = place_of(at);
        uint64_t sequence = atomic_load_explicit(&p->sequence, memory_order_acquire);

        if (sequence < at)
            return NULL;
        if (sequence > at) {
            at = atomic_load_explicit(&t.tail, memory_order_relaxed);
        } else if (atomic_compare_exchange_weak(&t.tail, &at, at + 1)) {
            *position = at;
            return p;
        }
    }
}

void tracer_span(const struct tracer_span *span)
{
    uint64_t at;
    struct place *p;

    if (!tracer_on())
        return;
    p = take_place(&at);
    if (!p) {
        tracer_count(TRACER_QUEUE_FULL, 1);
        return;
    }
    fill(&p->record, span);
    atomic_store_explicit(&p->sequence, at + 1, memory_order_release);
    /* Sequentially consistent, as tracer_arm and tracer_queued: either the consumer sees this span
     * before it sleeps, or it has armed and is woken. */
    if (tracer_queued() >= t.config.wake_at && !atomic_load(&t.woken) &&
        !atomic_exchange(&t.woken, true))
        t.config.wake(t.config.arg);
}

/* ---- the consumer ---- */

void tracer_register(void)
{
    static const char *const labels[TRACER_RESULTS] = {
        [TRACER_EXPORTED] = "result=\"exported\"",
        [TRACER_QUEUE_FULL] = "result=\"queue_full\"",
        [TRACER_REJECTED] = "result=\"rejected\"",
        [TRACER_REFUSED] = "result=\"refused\"",
        [TRACER_UNREACHABLE] = "result=\"unreachable\"",
        [TRACER_STOPPED] = "result=\"stopped\"",
    };

    for (int i = 0; i < TRACER_RESULTS; i++)
        t.results[i] =
            metrics_counter("msg_trace_spans_total",
                            "Spans by what became of them; all but exported are lost.", labels[i]);
    t.length = metrics_gauge("msg_trace_queue_spans", "Spans that wait for their export.", "");
}

void tracer_start(const struct tracer_config *config)
{
    MUST(config->queue_max >= 2 && t.length);
    free(t.places);
    t.config = *config;
    t.threshold = config->ratio >= 1 ? UINT64_MAX : (uint64_t)(config->ratio * 0x1p63);
    t.places = must_alloc(config->queue_max, sizeof(*t.places));
    for (size_t i = 0; i < config->queue_max; i++)
        atomic_init(&t.places[i].sequence, i);
    atomic_store(&t.tail, 0);
    atomic_store(&t.head, 0);
    atomic_store(&t.woken, false);
    atomic_store(&tracer_running, true);
}

void tracer_stop(void)
{
    atomic_store(&tracer_running, false);
}

void tracer_arm(void)
{
    atomic_store(&t.woken, false);
}

size_t tracer_queued(void)
{
    uint64_t head = atomic_load(&t.head); /* first: it may only grow towards the tail */

    return (size_t)(atomic_load(&t.tail) - head);
}

struct tracer_record *tracer_peek(size_t i)
{
    uint64_t at = atomic_load_explicit(&t.head, memory_order_relaxed) + i;
    struct place *p = place_of(at);

    return i < t.config.queue_max &&
                   atomic_load_explicit(&p->sequence, memory_order_acquire) == at + 1
               ? &p->record
               : NULL;
}

void tracer_release(size_t n)
{
    uint64_t head = atomic_load_explicit(&t.head, memory_order_relaxed);

    for (size_t i = 0; i < n; i++)
        atomic_store_explicit(&place_of(head + i)->sequence, head + i + t.config.queue_max,
                              memory_order_release);
    atomic_store(&t.head, head + n);
}

void tracer_count(enum tracer_result result, uint64_t n)
{
    if (n)
        metrics_add(t.results[result], n);
}

void tracer_observe(void)
{
    if (t.length)
        metrics_set(t.length, tracer_on() ? (int64_t)tracer_queued() : 0);
}
