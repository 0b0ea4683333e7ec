#ifndef CONSUMERD_PACE_H
#define CONSUMERD_PACE_H

/*
 * When a lane's next turn of database work may begin. A turn right after another writes down a
 * message or two and costs statements and a flush all the same; one that waits shares them with
 * what comes meanwhile. So turns that follow one another are spread, by what they really took: a
 * database that is slow, or a machine that is full, gets fewer and larger ones. A turn that had
 * more to do is followed by a longer pause, until turns are a sixteenth of the time; one that had
 * next to nothing says that there is little to share. A lane that was quiet waits for nothing: it
 * has some turns to its credit. Pure; all zero is a lane that never waits.
 */

#include <stddef.h>
#include <stdint.h>

struct pace {
    int64_t most_us;       /* the longest pause */
    int64_t usual_us;      /* that a turn is worth */
    int64_t paid_until_us; /* turns are not too many if none begins before that */
};

/* A turn has worked from start to end, on clock_mono_us, on so many messages and recipients.
 * Returns when the next may begin. */
int64_t pace_next_us(struct pace *p, int64_t start_us, int64_t end_us, size_t work);

#endif
