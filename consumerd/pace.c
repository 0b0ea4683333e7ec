#include "consumerd/pace.h"

#define SHARE_MAX 16 /* one part in so many of a busy lane's time is its turns' */
#define CREDIT 4     /* usual turns that a quiet lane may have ahead */
#define USUAL_WEIGHT 8

int64_t pace_next_us(struct pace *p, int64_t start_us, int64_t end_us, size_t work)
{
    int64_t worth_us = (end_us - start_us) * (int64_t)(work < SHARE_MAX ? work : SHARE_MAX);
    int64_t next_us;

    if (!p->usual_us)
        p->usual_us = worth_us;
    p->usual_us += (worth_us - p->usual_us) / USUAL_WEIGHT;
    if (p->paid_until_us < start_us)
        p->paid_until_us = start_us;
    p->paid_until_us += worth_us;
    next_us = p->paid_until_us - p->usual_us * CREDIT;
    if (next_us > end_us + p->most_us) { /* and that is forgiven */
        p->paid_until_us -= next_us - (end_us + p->most_us);
        next_us = end_us + p->most_us;
    }
    return next_us;
}
