#ifndef LOADTEST_ZIPF_H
#define LOADTEST_ZIPF_H

/*
 * Whose turn it is when customers are as unlike as in life: the k-th most busy (from 1) has a share
 * in proportion to 1 / k^s. Pure; shared freely once made.
 */

#include <stddef.h>

#define ZIPF_MAX 10000000 /* it takes 8 bytes each */

struct zipf;

struct zipf *zipf_new(size_t n, double s);
void zipf_free(struct zipf *z); /* NULL is fine */
/* 0 to n - 1, the busiest first, from a draw that is even in [0, 1). */
size_t zipf_at(const struct zipf *z, double draw);

#endif
