#include "test/loadtest/report.h"

#include <string.h>

#include "libcommon/base/buf.h"

static const double shares[] = {0.5, 0.9, 0.95, 0.99, 0.999};

static double ms(int64_t us)
{
    return (double)us / 1e3;
}

static unsigned long long count(uint64_t n)
{
    return (unsigned long long)n;
}

static double rate(const struct load_result *l)
{
    return l->elapsed_us ? (double)l->ok * 1e6 / (double)l->elapsed_us : 0;
}

static void print_load(const struct options *o, const struct load_result *l, FILE *to)
{
    const struct histogram *h = &l->latency;

    fprintf(to, "endpoint=%s/messages/send\n", o->base_url);
    fprintf(to, "sent=%llu ok=%llu non2xx=%llu http_err=%llu elapsed=%.2fs achieved_rps=%.1f\n",
            count(l->sent), count(l->ok), count(l->non2xx), count(l->http_err),
            (double)l->elapsed_us / 1e6, rate(l));
    fprintf(to, "latency p50=%.2fms p90=%.2fms p95=%.2fms p99=%.2fms max=%.2fms\n",
            ms(histogram_at(h, shares[0])), ms(histogram_at(h, shares[1])),
            ms(histogram_at(h, shares[2])), ms(histogram_at(h, shares[3])), ms(h->max));
    fprintf(to, "tail p99.9=%.2fms unsent=%llu", ms(histogram_at(h, shares[4])), count(l->unsent));
    for (int i = 0; i < LOAD_STATUSES; i++)
        if (l->by_status[i])
            fprintf(to, " %d=%llu", i, count(l->by_status[i]));
    fputc('\n', to);
}

static void print_lane(const char *lane, const char *what, const struct lane_latency *l, FILE *to)
{
    fprintf(to, "%s %s=%llu p50=%.2fms p90=%.2fms p99=%.2fms p99.9=%.2fms max=%.2fms\n", lane, what,
            count(l->count), ms(l->p50_us), ms(l->p90_us), ms(l->p99_us), ms(l->p999_us),
            ms(l->max_us));
}

static void print_verified(const struct verify_result *r, FILE *to)
{
    const struct book_verdict *v = &r->verdict;

    for (int i = 0; i < MESSAGE_LANES; i++) {
        const char *lane = message_type_name((enum message_type)i);

        if (r->operators_asked)
            print_lane(lane, "handed", &r->handed[i], to);
        print_lane(lane, "done", &r->done[i], to);
    }
    fprintf(to, "drain=%.2fs drained=%s\n", (double)r->drain_us / 1e6, r->drained ? "yes" : "no");
    fprintf(to,
            "audit accepted=%llu rows=%llu charged=%llu done=%llu failed=%llu refunded=%llu "
            "delivered=",
            count(v->accepted), count(v->rows), count(v->charged), count(v->done), count(v->failed),
            count(v->refunded));
    if (r->operators_asked)
        fprintf(to, "%llu", count(v->delivered));
    else
        fputs("unasked", to);
    fprintf(to,
            "\naudit lost=%llu doubled=%llu doubled_unknown=%llu unanswered=%llu strange=%llu "
            "charged_units=%lld refunded_units=%lld owed_units=%lld balances=%s\n",
            count(v->lost), count(v->doubled), count(v->unknown_doubled), count(v->unanswered),
            count(v->strange), (long long)r->charged_amount, (long long)r->refunded_amount,
            (long long)r->owed_amount, r->balances_add_up ? "ok" : "wrong");
}

static void put_statuses(struct buf *b, const struct load_result *l)
{
    bool any = false;

    buf_puts(b, "\"statuses\":{");
    for (int i = 0; i < LOAD_STATUSES; i++) {
        if (!l->by_status[i])
            continue;
        buf_printf(b, "%s\"%d\":%llu", any ? "," : "", i, count(l->by_status[i]));
        any = true;
    }
    buf_puts(b, "}");
}

static void put_load(struct buf *b, const struct options *o, const struct load_result *l)
{
    static const char *const names[] = {"p50", "p90", "p95", "p99", "p99.9"};

    buf_puts(b, "{\"endpoint\":");
    buf_put_json(b, o->base_url, strlen(o->base_url));
    buf_printf(b,
               ",\"sent\":%llu,\"ok\":%llu,\"non2xx\":%llu,\"http_err\":%llu,\"unsent\":%llu,"
               "\"elapsed_sec\":%.3f,\"achieved_rps\":%.1f,",
               count(l->sent), count(l->ok), count(l->non2xx), count(l->http_err), count(l->unsent),
               (double)l->elapsed_us / 1e6, rate(l));
    put_statuses(b, l);
    buf_puts(b, ",\"latency_ms\":{");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        buf_printf(b, "\"%s\":%.3f,", names[i], ms(histogram_at(&l->latency, shares[i])));
    buf_printf(b, "\"max\":%.3f}", ms(l->latency.max));
}

/* "lanes":{"normal":{"done":3,"p50":…},…} */
static void put_lanes(struct buf *b, const char *name, const char *what,
                      const struct lane_latency *lanes)
{
    buf_printf(b, ",\"%s\":{", name);
    for (int i = 0; i < MESSAGE_LANES; i++) {
        const struct lane_latency *l = &lanes[i];

        buf_printf(b,
                   "%s\"%s\":{\"%s\":%llu,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p99.9\":%.3f,"
                   "\"max\":%.3f}",
                   i ? "," : "", message_type_name((enum message_type)i), what, count(l->count),
                   ms(l->p50_us), ms(l->p90_us), ms(l->p99_us), ms(l->p999_us), ms(l->max_us));
    }
    buf_putc(b, '}');
}

static void put_verified(struct buf *b, const struct verify_result *r)
{
    const struct book_verdict *v = &r->verdict;

    put_lanes(b, "lanes", "done", r->done);
    if (r->operators_asked)
        put_lanes(b, "handed", "handed", r->handed);
    buf_printf(b,
               ",\"drained\":%s,\"drain_sec\":%.3f,\"audit\":{\"accepted\":%llu,\"rows\":%llu,"
               "\"charged\":%llu,\"done\":%llu,\"failed\":%llu,\"refunded\":%llu,",
               r->drained ? "true" : "false", (double)r->drain_us / 1e6, count(v->accepted),
               count(v->rows), count(v->charged), count(v->done), count(v->failed),
               count(v->refunded));
    if (r->operators_asked)
        buf_printf(b, "\"delivered\":%llu,", count(v->delivered));
    buf_printf(b,
               "\"lost\":%llu,\"doubled\":%llu,\"doubled_unknown\":%llu,\"unanswered\":%llu,"
               "\"strange\":%llu,\"charged_units\":%lld,\"refunded_units\":%lld,\"owed_units\":"
               "%lld,\"balances_add_up\":%s}",
               count(v->lost), count(v->doubled), count(v->unknown_doubled), count(v->unanswered),
               count(v->strange), (long long)r->charged_amount, (long long)r->refunded_amount,
               (long long)r->owed_amount, r->balances_add_up ? "true" : "false");
}

void report_print(const struct options *options, const struct load_result *load,
                  const struct verify_result *verified, bool ok, FILE *to)
{
    struct buf b = {0};

    if (!options->json) {
        print_load(options, load, to);
        if (verified) {
            print_verified(verified, to);
            fputs(ok ? "verified: nothing lost, nothing doubled\n" : "NOT as it should be\n", to);
        }
        return;
    }
    put_load(&b, options, load);
    if (verified)
        put_verified(&b, verified);
    buf_printf(&b, ",\"passed\":%s}\n", ok ? "true" : "false");
    if (!b.failed)
        fputs(b.data, to);
    buf_free(&b);
}
