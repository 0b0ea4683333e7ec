#include "libcommon/daemon/readiness.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base/buf.h"
#include "libcommon/base/must.h"

#define TEXT_MAX 512

struct readiness_lane {
    struct readiness_lane *next;
    char name[32];
    char trouble[TEXT_MAX]; /* "": at work */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct readiness_lane *lanes;
static struct {
    char topic[64], text[TEXT_MAX];
} warnings[READINESS_WARNINGS];

struct readiness_lane *readiness_lane_new(const char *name)
{
    struct readiness_lane *lane = must_alloc(1, sizeof(*lane));

    snprintf(lane->name, sizeof(lane->name), "%s", name);
    snprintf(lane->trouble, sizeof(lane->trouble), "not started yet");
    pthread_mutex_lock(&lock);
    lane->next = lanes;
    lanes = lane;
    pthread_mutex_unlock(&lock);
    return lane;
}

static bool replace(char *text, const char *with)
{
    bool news = strncmp(text, with, TEXT_MAX - 1) != 0;

    if (news)
        snprintf(text, TEXT_MAX, "%s", with);
    return news;
}

bool readiness_lane_is(struct readiness_lane *lane, const char *trouble)
{
    bool news;

    pthread_mutex_lock(&lock);
    news = replace(lane->trouble, trouble ? trouble : "");
    pthread_mutex_unlock(&lock);
    return news;
}

bool readiness_warn(const char *topic, const char *warning)
{
    size_t at = READINESS_WARNINGS;
    bool news = false;

    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < READINESS_WARNINGS; i++) {
        /* A queue's name may be longer than what is kept of it. */
        if (!strncmp(warnings[i].topic, topic, sizeof(warnings[i].topic) - 1)) {
            at = i;
            break;
        }
        if (!*warnings[i].text && at == READINESS_WARNINGS)
            at = i;
    }
    if (at < READINESS_WARNINGS) {
        snprintf(warnings[at].topic, sizeof(warnings[at].topic), "%s", topic);
        news = replace(warnings[at].text, warning);
    }
    pthread_mutex_unlock(&lock);
    return news;
}

bool readiness_of_lanes(void)
{
    bool all = true;

    pthread_mutex_lock(&lock);
    for (const struct readiness_lane *lane = lanes; lane; lane = lane->next)
        all = all && !*lane->trouble;
    pthread_mutex_unlock(&lock);
    return all;
}

void readiness_put(struct buf *out)
{
    const char *before = ",\"lanes\":{";

    pthread_mutex_lock(&lock);
    for (const struct readiness_lane *lane = lanes; lane; lane = lane->next) {
        const char *text = *lane->trouble ? lane->trouble : "ok";

        buf_printf(out, "%s\"%s\":", before, lane->name);
        buf_put_json(out, text, strlen(text));
        before = ",";
    }
    if (lanes)
        buf_putc(out, '}');
    before = ",\"warnings\":[";
    for (size_t i = 0; i < READINESS_WARNINGS; i++) {
        if (!*warnings[i].text)
            continue;
        buf_puts(out, before);
        buf_put_json(out, warnings[i].text, strlen(warnings[i].text));
        before = ",";
    }
    if (!strcmp(before, ","))
        buf_putc(out, ']');
    pthread_mutex_unlock(&lock);
}
