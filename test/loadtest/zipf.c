#include "test/loadtest/zipf.h"

#include <math.h>
#include <stdlib.h>

#include "libcommon/base/must.h"

struct zipf {
    size_t n;
    double up_to[]; /* the weights of this one and of all before it */
};

struct zipf *zipf_new(size_t n, double s)
{
    struct zipf *z = must_alloc(1, sizeof(*z) + n * sizeof(z->up_to[0]));
    double sum = 0;

    z->n = n;
    for (size_t k = 0; k < n; k++)
        z->up_to[k] = sum += pow((double)(k + 1), -s);
    return z;
}

void zipf_free(struct zipf *z)
{
    free(z);
}

/* The first whose weights up to it are above the draw's. */
size_t zipf_at(const struct zipf *z, double draw)
{
    double at = draw * z->up_to[z->n - 1];
    size_t low = 0;
    size_t high = z->n - 1;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (z->up_to[middle] > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}
