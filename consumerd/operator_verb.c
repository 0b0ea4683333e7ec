#include "consumerd/operator_verb.h"

#include <event2/event.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumerd/transport.h"
#include "consumerd/transport_http_read.h"
#include "libcommon/base/must.h"
#include "libcommon/base/random.h"
#include "libcommon/base/utf8.h"
#include "libcommon/domain/operator_exchange.h"
#include "libcommon/domain/operator_secret.h"

#define ANSWER_MAX (64 * 1024)

struct order {
    const struct settings *settings;
    const char *verb, *name, *to, *text, *answer, *file;
    bool dry_run, lookup, express;
    struct operator_set *set;
    const struct operator_config *op;
};

/* ---- what there is to be seen ---- */

/* Somebody else's bytes on our terminal. */
static void show_plain(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t length = utf8_character(s + i, n - i);
        bool shown = length && (!utf8_is_control(s + i, length) || s[i] == '\n');

        if (s[i] != '\r')
            printf("%.*s", shown ? (int)length : 1, shown ? s + i : "?");
        i += length ? length : 1;
    }
    if (n && s[n - 1] != '\n')
        printf("\n");
}

static void show_judgement(const struct transport_result *r)
{
    if (r->lookup)
        printf("answer: %s\n", lookup_answer_name(r->answer));
    else
        printf("verdict: %s\n", verdict_name(r->verdict));
    if (!r->lookup && r->verdict == VERDICT_UNFIT)
        printf("reason: %s\n", unfit_name(r->unfit));
    if (r->rule_line)
        printf("rule: line %u\n", r->rule_line);
    if (*r->provider_id)
        printf("id: %s\n", r->provider_id);
    if (r->parts != OPERATOR_NO_NUMBER)
        printf("parts: %" PRId64 "\n", r->parts);
    if (r->cost_millionths != OPERATOR_NO_NUMBER)
        printf("cost: %" PRId64 " millionths\n", r->cost_millionths);
    if (r->remaining != OPERATOR_NO_NUMBER)
        printf("remaining: %" PRId64 "\n", r->remaining);
    if (*r->error)
        printf("error: %s\n", r->error);
}

/* ---- list ---- */

static int list(const struct order *o)
{
    for (size_t i = 0; i < o->set->n; i++) {
        const struct operator_config *op = o->set->all[i];
        const struct operator_properties *p = &op->properties;

        printf("%s  %s  %s%s%s", op->name, operator_kind_name(op->kind), op->url,
               p->can_lookup ? "  can_lookup" : "", p->repeat_is_safe ? "  repeat_is_safe" : "");
        if (p->tps)
            printf("  tps=%" PRId64, p->tps);
        printf("\n");
    }
    return EXIT_SUCCESS;
}

/* ---- check ---- */

static int read_answer(const char *path, struct buf *out)
{
    FILE *f = fopen(path, "re");
    size_t n = 1;

    if (!f) {
        perror(path);
        return -1;
    }
    while (n && out->len <= 2 * ANSWER_MAX && buf_reserve(out, 4096)) {
        n = fread(out->data + out->len, 1, 4096, f);
        out->len += n;
    }
    fclose(f);
    return out->failed ? -1 : 0;
}

static void judge(const struct order *o, const struct http_read *read, const struct buf *body,
                  struct transport_result *r)
{
    struct operator_answer a;
    struct operator_judgement said;

    operator_answer_begin(&a, read->status, body->data, body->len, read->state == READ_DONE);
    if (o->lookup) {
        r->answer = operator_judge_lookup(o->op, &a, r->provider_id);
    } else {
        operator_judge(o->op, &a, &said);
        r->verdict = said.verdict;
        r->unfit = said.unfit;
        r->rule_line = said.line;
        r->parts = said.parts;
        r->cost_millionths = said.cost_millionths;
        r->remaining = said.remaining;
        memcpy(r->provider_id, said.id, sizeof(said.id));
    }
    operator_answer_end(&a);
}

static int check(const struct order *o)
{
    struct transport_result r = {.lookup = o->lookup,
                                 .parts = OPERATOR_NO_NUMBER,
                                 .cost_millionths = OPERATOR_NO_NUMBER,
                                 .remaining = OPERATOR_NO_NUMBER};
    struct buf wire = {0}, body = {0};
    struct http_read read;
    int rc = read_answer(o->answer, &wire);

    if (!rc) {
        http_read_begin(&read);
        http_read_take(&read, wire.data, wire.len, &body, ANSWER_MAX);
        http_read_end(&read, true);
        judge(o, &read, &body, &r);
        show_judgement(&r);
    }
    buf_free(&wire);
    buf_free(&body);
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ---- test ---- */

struct trial {
    struct event_base *base;
    struct inflight message;
    struct transport_call call;
    struct transport_result result;
    bool ended;
};

static void on_done(struct transport_call *call, const struct transport_result *result, void *arg)
{
    struct trial *t = arg;

    (void)call;
    t->result = *result;
    t->ended = true;
    event_base_loopbreak(t->base);
}

static bool may_send(void *arg)
{
    (void)arg;
    return true;
}

static void on_heard(int status, const char *body, size_t n, void *arg)
{
    (void)arg;
    if (!status)
        return;
    printf("\nHTTP %d\n", status);
    show_plain(body, n);
}

static void on_said(const char *request, size_t n, void *arg)
{
    (void)arg;
    show_plain(request, n);
}

static struct job *make_job(struct trial *t, const struct order *o)
{
    struct job *job;

    TAILQ_INIT(&t->message.jobs);
    random_uuid7(t->message.id);
    t->message.type = o->express ? MESSAGE_EXPRESS : MESSAGE_NORMAL;
    t->message.text = must_strdup(o->text);
    t->message.text_len = strlen(o->text);
    job = job_new(&t->message);
    MUST(job != NULL);
    snprintf(job->recipient, sizeof(job->recipient), "%s", o->to);
    return job;
}

static int send_one(const struct order *o)
{
    const struct transport *transport = transport_of_kind(o->op->kind);
    struct operator_set *set = o->set;
    struct trial t = {.base = event_base_new()};
    struct job *job = make_job(&t, o);
    const struct transport_config config = {
        .base = t.base,
        .operator_count = set->n,
        .set = &set,
        .tls_ca = o->settings->consumer.tls_ca,
        .receipts = &o->settings->receipts,
        .timeout_ms = o->settings->consumer.timeout_ms,
        .name_sec = TRANSPORT_NAME_SEC,
        .calls_max = 1,
        .done = on_done,
        .may_send = may_send,
        .said = on_said,
        .heard = on_heard,
        .dry_run = o->dry_run,
        .arg = &t,
    };
    struct transport_link *link = transport->open(&config);
    bool began;

    t.call.job = job;
    while (set->all[t.call.op] != o->op)
        t.call.op++;
    began = (o->lookup ? transport->lookup : transport->submit)(link, &t.call);
    while (began && !o->dry_run && !t.ended)
        event_base_loop(t.base, EVLOOP_ONCE);
    if (t.ended) {
        printf("\n");
        show_judgement(&t.result);
    }
    transport->close(link);
    event_base_free(t.base);
    job_free(job);
    free(t.message.text);
    if (o->dry_run)
        return EXIT_SUCCESS;
    return t.ended && (o->lookup ? t.result.answer == LOOKUP_FOUND
                                 : t.result.verdict == VERDICT_ACCEPTED)
               ? EXIT_SUCCESS
               : EXIT_FAILURE;
}

/* ---- the command line ---- */

static bool take_option(struct order *o, const char *option, const char *value)
{
    const struct {
        const char *name;
        const char **to;
    } options[] = {
        {"--to", &o->to}, {"--text", &o->text}, {"--answer", &o->answer}, {"--file", &o->file}};

    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        if (!strcmp(option, options[i].name))
            return *options[i].to = value, true;
    return false;
}

static bool take_flag(struct order *o, const char *word)
{
    const struct {
        const char *name;
        bool *to;
    } flags[] = {{"--dry-run", &o->dry_run}, {"--lookup", &o->lookup}, {"--express", &o->express}};

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
        if (!strcmp(word, flags[i].name))
            return *flags[i].to = true;
    return false;
}

static bool parse(struct order *o, int argc, char **argv)
{
    if (!argc)
        return false;
    o->verb = argv[0];
    for (int i = 1; i < argc; i++) {
        if (take_flag(o, argv[i]))
            continue;
        if (i + 1 < argc && take_option(o, argv[i], argv[i + 1]))
            i++;
        else if (!o->name && argv[i][0] != '-')
            o->name = argv[i];
        else
            return false;
    }
    if (!strcmp(o->verb, "list") || !strcmp(o->verb, "keys"))
        return !o->name && !o->to && !o->answer;
    if (!strcmp(o->verb, "check"))
        return o->name && o->answer && !o->to && !o->dry_run;
    return !strcmp(o->verb, "test") && o->name && o->to && !o->answer;
}

static bool is_right(const struct order *o)
{
    if (o->to && !message_recipient_ok(o->to, strlen(o->to)))
        fprintf(stderr, "--to has to be digits, with a + before them or not, 20 at most\n");
    else if (!message_text_ok(o->text, strlen(o->text)))
        fprintf(stderr, "--text has to be 1 to %d bytes of UTF-8\n", MESSAGE_TEXT_MAX);
    else if (o->lookup && !o->op->properties.can_lookup)
        fprintf(stderr, "%s cannot be asked\n", o->op->name);
    else
        return true;
    return false;
}

/* Secrets are read where a request goes out. */
static bool read_set(struct order *o)
{
    const bool sends = !strcmp(o->verb, "test") && !o->dry_run;
    const struct operator_reading how = {.parts = sends ? OPERATOR_SENDING : 0,
                                         .secret = operator_secret_get};
    const struct consumer_settings *s = &o->settings->consumer;
    const char *path = o->file ? o->file : s->operators_file;
    struct buf errors = {0};
    size_t faults = 0;

    if (*path)
        o->set = operator_set_read(path, &how, &errors, &faults);
    else
        o->set = settings_read_operators(o->settings, &errors, &faults);
    if (!o->set)
        fprintf(stderr, "%s", errors.len ? errors.data : "the operators cannot be read\n");
    buf_free(&errors);
    if (!o->set || !o->name)
        return o->set != NULL;
    o->op = operator_set_find(o->set, o->name, strlen(o->name));
    if (!o->op)
        fprintf(stderr, "no operator is called %s\n", o->name);
    return o->op && is_right(o);
}

static int run(const struct order *o)
{
    if (!strcmp(o->verb, "list"))
        return list(o);
    MUST(o->op != NULL);
    if (!strcmp(o->verb, "test"))
        return send_one(o);
    if (o->op->kind == OPERATOR_HTTP)
        return check(o);
    fprintf(stderr, "%s is of kind native: it has no rules\n", o->op->name);
    return EXIT_FAILURE;
}

int operator_main(const struct settings *settings, int argc, char **argv)
{
    struct order o = {.settings = settings, .text = "A test message."};
    int rc;

    if (!parse(&o, argc, argv))
        return DAEMON_USAGE;
    if (!strcmp(o.verb, "keys")) {
        operator_keys_print_markdown(stdout);
        return EXIT_SUCCESS;
    }
    rc = read_set(&o) ? run(&o) : EXIT_FAILURE;
    operator_set_drop(o.set);
    return rc;
}
