#ifndef LIBCOMMON_NET_OTLP_INTERNAL_H
#define LIBCOMMON_NET_OTLP_INTERNAL_H

/*
 * What the parts of the exporter share; nobody else includes this.
 *
 *   otlp.c           the exporter's thread: when a batch is due, retries, the end
 *   otlp_settings.c  settings, and what they come to: struct otlp_target
 *   otlp_encode.c    a batch as protobuf
 *   otlp_post.c      one request to the collector
 *   otlp_judge.c     what its answer means
 */

#include "libcommon/base/buf.h"
#include "libcommon/net/otlp.h"
#include "libcommon/telemetry/tracer_internal.h"

#define OTLP_PAIRS_MAX 64

/* "key=value,key=value" with values percent-decoded (baggage syntax). */
struct otlp_pairs {
    char *text;  /* owns the strings below; cut by NULs */
    size_t size; /* of all of it, which may hold keys */
    size_t n;
    struct {
        const char *key, *value;
    } at[OTLP_PAIRS_MAX];
};

/* False, and the end of a sentence in why, when it is malformed. Freed by otlp_pairs_free. */
bool otlp_pairs_parse(const char *text, struct otlp_pairs *out, char *why, size_t size);
void otlp_pairs_free(struct otlp_pairs *p);

/* Where and how to send. */
struct otlp_target {
    char *url; /* NULL: tracing is off */
    bool grpc, gzip;
    int64_t timeout_ms;                                        /* of one request */
    const char *certificate, *client_certificate, *client_key; /* paths; "": none */
    struct otlp_pairs headers;
};

/* From settings that otlp_settings_check found good. */
void otlp_target_make(const struct otlp_settings *s, struct otlp_target *out);
void otlp_target_free(struct otlp_target *t);
/* The sampler's part of config. */
void otlp_sampler(const struct otlp_settings *s, struct tracer_config *config);

/* ---- otlp_encode.c ---- */

struct otlp_encoder;
struct otlp_encoder *otlp_encoder_new(const struct otlp_settings *s, const char *service);
void otlp_encoder_free(struct otlp_encoder *e);
/* Appends an ExportTraceServiceRequest of the oldest spans in the tracer's queue, at most the
 * settings' batch, and takes them out. How many there are; out->failed when memory is out. */
size_t otlp_encode(struct otlp_encoder *e, struct buf *out);

/* ---- otlp_post.c ---- */

enum otlp_verdict {
    OTLP_TAKEN,
    OTLP_RETRY,   /* not taken; the same request may be later */
    OTLP_REFUSED, /* not taken, and never will be */
};

struct otlp_answer {
    enum otlp_verdict verdict;
    int64_t wait_ms;   /* OTLP_RETRY: the collector's wish, -1: none */
    uint64_t rejected; /* OTLP_TAKEN: spans it did not take */
    char why[192];     /* one sentence; "": nothing to say */
};

struct otlp_post;
/* Its waits end when wake_fd, an eventfd of the caller's, is written to. */
struct otlp_post *otlp_post_new(const struct otlp_target *t, int wake_fd);
void otlp_post_free(struct otlp_post *p);
/* Sends one request. Blocks until it is answered, or its timeout, or the monotonic time that
 * until_ms gives, which is asked again whenever the thread is woken. */
void otlp_post(struct otlp_post *p, const struct buf *request, int64_t (*until_ms)(void *arg),
               void *arg, struct otlp_answer *out);
void otlp_post_wait(struct otlp_post *p, int64_t timeout_ms); /* without a request */

/* ---- otlp_judge.c: pure ---- */

void otlp_judge_http(long status, const void *body, size_t n, struct otlp_answer *out);
struct otlp_grpc_status {
    int code;           /* -1: none came */
    char message[160];  /* percent-encoded */
    char details[1024]; /* grpc-status-details-bin, base64 */
};
void otlp_judge_grpc(long status, const struct otlp_grpc_status *grpc, const void *body, size_t n,
                     struct otlp_answer *out);

#endif
