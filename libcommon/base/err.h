#ifndef LIBCOMMON_BASE_ERR_H
#define LIBCOMMON_BASE_ERR_H

/*
 * Errors as values. A function that can fail returns 0 or -1 and fills a struct err that its caller
 * owns; outputs are untouched on failure unless said otherwise. The kind tells the caller what to
 * do; the layer that knows the message logs it, once.
 */

enum err_kind {
    ERR_NONE = 0,
    ERR_RETRY,     /* the dependency is away, busy or full: the same call may work later */
    ERR_PERMANENT, /* this input will never work */
    ERR_UNKNOWN,   /* sent, but the answer was lost: it may or may not have happened */
    ERR_BUG,       /* our own fault */
};

struct err {
    enum err_kind kind;
    unsigned code; /* the library's or server's own number, 0 where there is none */
    char msg[512]; /* one sentence, never a recipient, text, password or key */
};

/* A sentence that is too long ends with a whole word and "..."; what is not text in it becomes "?".
 * Fills *e and returns -1, so that
 * callers write "return err_set(...)". */
int err_set(struct err *e, enum err_kind kind, unsigned code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

const char *err_kind_name(enum err_kind kind);

#endif
